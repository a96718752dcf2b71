"""The exceptions of the history, and the translation of the database's errors into them.

::

    HistoryError               refused: a bad URL, a missing right, a value that no column holds
    ├── HistoryLocked          another session holds a row that was to be written: others can be written meanwhile
    └── HistoryUnavailable     no answer in time: try again later

Their messages never contain the password.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

_LOCK_NOT_AVAILABLE = "55P03"
READ_ONLY = "25006"
_FATAL = "FATAL:"  # of the server, or of a pooler before it
# Of libpq, which has no codes for them: it does not trust the server, or found none that takes writes.
_UNTRUSTED = re.compile(
    "certificate verify failed|does not match host name|root certificate file|server does not support SSL"
)
_NO_PRIMARY = "session is read-only"


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
        if _NO_PRIMARY in cause:
            raise HistoryUnavailable(_explain_standby(engine)) from None
        if _UNTRUSTED.search(cause):
            raise HistoryUnavailable(
                f"{describe_database(engine)} is not trusted: {cause}; correct sslmode, sslrootcert or the host of the"
                " history URL"
            ) from None
        verb = "refused the connection" if _FATAL in cause else "did not answer"
        raise HistoryUnavailable(f"{describe_database(engine)} {verb}: {cause}") from None
    except SQLAlchemyError as error:
        if isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) == READ_ONLY:
            raise HistoryUnavailable(_explain_standby(engine)) from None
        raise HistoryError(f"{describe_database(engine)} refused: {_extract_cause(engine, error)}") from None


def describe_database(engine: Engine) -> str:
    """Return the database's name and address for a message."""
    url = engine.url
    if engine.dialect.name == "sqlite":
        return f"the history in {url.database}"
    hosts = url.normalized_query.get("host") or (f"{url.host}:{url.port or 5432}",)
    return f"the history database '{url.database}' at {' or '.join(hosts)}"


def _explain_standby(engine: Engine) -> str:
    return f"{describe_database(engine)} takes no writes, as a standby does: the history URL must name the primary"


def _extract_cause(engine: Engine, error: SQLAlchemyError) -> str:
    """Return the first line of the driver's message; the lines after it quote statements and rows."""
    message = str(error.orig if isinstance(error, DBAPIError) else error).strip() or type(error).__name__
    line = message.splitlines()[0]
    password = engine.url.password
    return line.replace(str(password), "***") if password else line
