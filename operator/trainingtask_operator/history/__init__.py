"""The background writer of history rows."""
