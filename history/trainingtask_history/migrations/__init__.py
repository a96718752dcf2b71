"""The schema of the history as Alembic revisions, and the function that applies them."""
