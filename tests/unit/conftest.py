from postgres import postgres_server

__all__ = ["postgres_server"]  # one server for all unit tests
