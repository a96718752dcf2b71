"""Sources of recorded runs: the web app's HTTP API, or the history's database, with equal results.

Field names are those of the history's columns, see `trainingtask_history.read_models`.
"""

import weakref
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import ValidationError

from trainingtask_api import describe_errors
from trainingtask_cli.errors import CommandError, TemporaryError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from httpx import Response

Run = dict[str, Any]
Filter = Mapping[str, str]

_PAGE_SIZE = 500
_CONNECT_SECONDS = 10
_READ_SECONDS = 60


class RunSource(Protocol):
    """A source of recorded runs."""

    def list_page(self, filters: Filter, limit: int, cursor: str | None) -> tuple[list[Run], str | None]:
        """Return a page of runs, newest first, and the cursor of the next page."""
        ...

    def get_run(self, key: UUID) -> Run | None:
        """Return a run with all its fields, None where none is visible."""
        ...

    def get_events(self, key: UUID) -> list[Run]:
        """Return the events of a run, oldest first."""
        ...


def list_newest(source: RunSource, filters: Filter, limit: int) -> tuple[list[Run], bool]:
    """Return up to `limit` runs, newest first, and whether there are more."""
    runs: list[Run] = []
    cursor = None
    while True:
        page, cursor = source.list_page(filters, min(_PAGE_SIZE, limit - len(runs)), cursor)
        runs += page
        if cursor is None or len(runs) >= limit:
            return runs, cursor is not None


class HttpRunSource:
    """The HTTP API, which returns the runs that the token's user may see."""

    def __init__(self, server: str, token: str) -> None:
        self._server = server.rstrip("/")
        self._token = token

    def list_page(self, filters: Filter, limit: int, cursor: str | None) -> tuple[list[Run], str | None]:
        """See `RunSource`."""
        page = self._get("", {**filters, "limit": str(limit), **({"cursor": cursor} if cursor else {})})
        return page["items"], page["next"]

    def get_run(self, key: UUID) -> Run | None:
        """See `RunSource`."""
        return self._get(f"/{key}") or None

    def get_events(self, key: UUID) -> list[Run]:
        """See `RunSource`."""
        items: list[Run] = self._get(f"/{key}/events").get("items", [])
        return items

    def _get(self, path: str, query: Mapping[str, str] | None = None) -> Run:
        """Return the response's object, {} where there is no such run."""
        import httpx  # noqa: PLC0415 - it takes half a second to import

        try:
            answer = httpx.get(
                f"{self._server}/api/v1/runs{path}",
                params=query,
                headers={"Authorization": f"Bearer {self._token}", "Accept": "application/json"},
                timeout=httpx.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS),
                trust_env=not _is_on_this_machine(self._server),  # no proxy reads the token on its way to here
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise TemporaryError(
                f"the history at {self._server} does not answer ({str(error) or type(error).__name__}): check --server"
                " (or TRAININGTASK_SERVER)"
            ) from None
        if answer.status_code == 404 and path and _parse_detail(answer):
            return {}
        if answer.status_code != 200:
            raise self._build_error(answer)
        try:
            found = answer.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise CommandError(self._describe_unknown_server())
        return found

    def _build_error(self, answer: "Response") -> CommandError | UsageError:
        detail = _parse_detail(answer)
        if answer.status_code == 401:
            return CommandError(
                f"the history at {self._server} does not know who you are: pass a token of yours by --token or"
                " TRAININGTASK_TOKEN, such as one of `kubectl create token NAME`"
            )
        if not detail:
            return CommandError(self._describe_unknown_server(f" ({answer.status_code})"))
        if answer.status_code == 422:
            return UsageError(detail)
        kind = TemporaryError if answer.status_code >= 500 else CommandError
        return kind(f"the history at {self._server} answered {answer.status_code}: {detail}")

    def _describe_unknown_server(self, what: str = "") -> str:
        return f"{self._server} does not answer as the history does{what}: check --server (or TRAININGTASK_SERVER)"


class DatabaseRunSource:
    """The database, with the runs of all namespaces."""

    def __init__(self, url: str) -> None:
        from trainingtask_history.engine import open_history  # noqa: PLC0415 - it imports SQLAlchemy

        with _translate_history_errors():
            self._engine = open_history(url)
        # One connection for all queries: kubectl port-forward ends when the first encrypted one is closed.
        weakref.finalize(self, self._engine.dispose)
        file = self._engine.url.database if self._engine.dialect.name == "sqlite" else None
        if file and file != ":memory:" and not Path(file).exists():
            raise CommandError(f"there is no history in {file}: check --database (or TRAININGTASK_HISTORY_URL)")

    def list_page(self, filters: Filter, limit: int, cursor: str | None) -> tuple[list[Run], str | None]:
        """See `RunSource`."""
        from trainingtask_history.access import ALL  # noqa: PLC0415
        from trainingtask_history.filters import RunFilter  # noqa: PLC0415
        from trainingtask_history.queries import list_runs  # noqa: PLC0415

        try:
            run_filter = RunFilter.model_validate(filters)
        except ValidationError as error:
            raise UsageError(describe_errors(error)) from None
        with _translate_history_errors():
            page = list_runs(self._engine, ALL, run_filter, limit=limit, cursor=cursor)
        return [run.model_dump(mode="json") for run in page.items], page.next

    def get_run(self, key: UUID) -> Run | None:
        """See `RunSource`."""
        from trainingtask_history.access import ALL  # noqa: PLC0415
        from trainingtask_history.queries import get_run  # noqa: PLC0415

        with _translate_history_errors():
            found = get_run(self._engine, ALL, key)
        return None if found is None else found.model_dump(mode="json")

    def get_events(self, key: UUID) -> list[Run]:
        """See `RunSource`."""
        from trainingtask_history.access import ALL  # noqa: PLC0415
        from trainingtask_history.queries import get_events  # noqa: PLC0415

        with _translate_history_errors():
            return [event.model_dump(mode="json") for event in get_events(self._engine, ALL, key)]


def is_confidential(server: str) -> bool:
    """Return whether requests to a server are encrypted or stay on this machine.

    Raises
    ------
    UsageError
        When the server is no URL.
    """
    return _is_on_this_machine(server) or urlsplit(server).scheme == "https"


def _is_on_this_machine(server: str) -> bool:
    try:
        return urlsplit(server).hostname in ("localhost", "127.0.0.1", "::1")
    except ValueError as error:
        raise UsageError(f"--server {server!r} is no URL: {error}") from None


def _parse_detail(answer: "Response") -> str:
    """Return the message of an error response, an empty string when it is not the web app's."""
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return ""
    return str(detail)


@contextmanager
def _translate_history_errors() -> "Iterator[None]":
    from trainingtask_history.errors import HistoryError, HistoryUnavailable  # noqa: PLC0415

    try:
        yield
    except HistoryUnavailable as error:
        raise TemporaryError(f"{error}: check --database (or TRAININGTASK_HISTORY_URL), or try again") from None
    except HistoryError as error:
        raise CommandError(str(error)) from None
