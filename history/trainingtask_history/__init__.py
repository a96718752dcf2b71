"""The history of runs: its tables, what writes and reads them, and the migrations of its schema."""
