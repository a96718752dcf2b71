"""The API server: a small client, its errors, and leader election."""
