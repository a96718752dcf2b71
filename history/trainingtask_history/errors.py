"""The exceptions of the history, and the translation of the database's errors into them.

::

    HistoryError               refused: a bad URL, a missing right, a value that no column holds
    ├── HistoryLocked          another session holds a row that was to be written: others can be written meanwhile
    └── HistoryUnavailable     no answer in time: try again later

Their messages never contain the password.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

_LOCK_NOT_AVAILABLE = "55P03"
READ_ONLY = "25006"
_FATAL = "FATAL:"  # of the server, or of a pooler before it


class HistoryError(Exception):
    """The history refused; the message names the cause and holds no password."""


class HistoryLocked(HistoryError):  # noqa: N818 - as below
    """Another session holds a row; the same call may succeed later."""


class HistoryUnavailable(HistoryError):  # noqa: N818 - it is a HistoryError; the name says which
    """The history did not answer; the same call may succeed later."""


@contextmanager
def translate_db_errors(engine: Engine) -> Iterator[None]:
    """Raise the database's errors as a `HistoryError` of one sentence, without the password."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        if getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
            raise HistoryLocked(f"{describe_database(engine)} keeps a row locked for another session") from None
        cause = _extract_cause(engine, error)
        verb = "refused the connection" if _FATAL in cause else "did not answer"
        raise HistoryUnavailable(f"{describe_database(engine)} {verb}: {cause}") from None
    except SQLAlchemyError as error:
        if isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) == READ_ONLY:
            raise HistoryUnavailable(
                f"{describe_database(engine)} takes no writes, as a standby does: the history URL must name the primary"
            ) from None
        raise HistoryError(f"{describe_database(engine)} refused: {_extract_cause(engine, error)}") from None


def describe_database(engine: Engine) -> str:
    """Return the database's name and address for a message."""
    url = engine.url
    if engine.dialect.name == "sqlite":
        return f"the history in {url.database}"
    return f"the history database '{url.database}' at {url.host}:{url.port or 5432}"


def _extract_cause(engine: Engine, error: SQLAlchemyError) -> str:
    """Return the first line of the driver's message; the lines after it quote statements and rows."""
    message = str(error.orig if isinstance(error, DBAPIError) else error).strip() or type(error).__name__
    line = message.splitlines()[0]
    password = engine.url.password
    return line.replace(str(password), "***") if password else line
