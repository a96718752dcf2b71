"""The HTTP server of a saved model."""
