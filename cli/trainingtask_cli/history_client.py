"""Where recorded runs are read: the HTTP API, or the history's database. Both give the same objects.

Field names are those of the history's columns, as `trainingtask_history.queries` has them.
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
    """A place that runs are read from."""

    def list_page(self, wanted: Filter, limit: int, cursor: str | None) -> tuple[list[Run], str | None]:
        """Return some runs, newest first, and the cursor of those that follow."""
        ...

    def get_run(self, key: UUID) -> Run | None:
        """Return all there is of a run, None when it is not there to see."""
        ...

    def get_events(self, key: UUID) -> list[Run]:
        """Return what happened to a run, oldest first."""
        ...


def list_newest(source: RunSource, wanted: Filter, limit: int) -> tuple[list[Run], bool]:
    """Return up to `limit` runs, and whether there are more."""
    runs: list[Run] = []
    cursor = None
    while True:
        page, cursor = source.list_page(wanted, min(_PAGE_SIZE, limit - len(runs)), cursor)
        runs += page
        if cursor is None or len(runs) >= limit:
            return runs, cursor is not None


class HttpRunSource:
    """The HTTP API; it shows what the token's owner may see."""

    def __init__(self, server: str, token: str) -> None:
        self._server = server.rstrip("/")
        self._token = token

    def list_page(self, wanted: Filter, limit: int, cursor: str | None) -> tuple[list[Run], str | None]:
        """See `RunSource`."""
        page = self._get("", {**wanted, "limit": str(limit), **({"cursor": cursor} if cursor else {})})
        return page["items"], page["next"]

    def get_run(self, key: UUID) -> Run | None:
        """See `RunSource`."""
        return self._get(f"/{key}") or None

    def get_events(self, key: UUID) -> list[Run]:
        """See `RunSource`."""
        items: list[Run] = self._get(f"/{key}/events").get("items", [])
        return items

    def _get(self, path: str, query: Mapping[str, str] | None = None) -> Run:
        """Return an answer, {} when there is no such run."""
        import httpx  # noqa: PLC0415 - it takes half a second, and only this needs it

        try:
            answer = httpx.get(
                f"{self._server}/api/v1/runs{path}",
                params=query,
                headers={"Authorization": f"Bearer {self._token}", "Accept": "application/json"},
                timeout=httpx.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS),
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
        said = _parse_detail(answer)
        if answer.status_code == 401:
            return CommandError(
                f"the history at {self._server} does not know who you are: pass a token of yours by --token or"
                " TRAININGTASK_TOKEN, such as one of `kubectl create token NAME`"
            )
        if not said:
            return CommandError(self._describe_unknown_server(f" ({answer.status_code})"))
        if answer.status_code == 422:
            return UsageError(said)
        kind = TemporaryError if answer.status_code >= 500 else CommandError
        return kind(f"the history at {self._server} answered {answer.status_code}: {said}")

    def _describe_unknown_server(self, what: str = "") -> str:
        return f"{self._server} does not answer as the history does{what}: check --server (or TRAININGTASK_SERVER)"


class DatabaseRunSource:
    """The database itself; whoever may read it sees the runs of all namespaces."""

    def __init__(self, url: str) -> None:
        from trainingtask_history.store import open_history  # noqa: PLC0415 - only this needs a database

        with _translate_history_errors():
            self._engine = open_history(url)
        # One connection for all questions: kubectl port-forward ends with the first encrypted one that is closed.
        weakref.finalize(self, self._engine.dispose)
        file = self._engine.url.database if self._engine.dialect.name == "sqlite" else None
        if file and file != ":memory:" and not Path(file).exists():
            raise CommandError(f"there is no history in {file}: check --database (or TRAININGTASK_HISTORY_URL)")

    def list_page(self, wanted: Filter, limit: int, cursor: str | None) -> tuple[list[Run], str | None]:
        """See `RunSource`."""
        from trainingtask_history.queries import ALL, RunFilter, list_runs  # noqa: PLC0415

        try:
            chosen = RunFilter.model_validate(wanted)
        except ValidationError as error:
            raise UsageError(describe_errors(error)) from None
        with _translate_history_errors():
            page = list_runs(self._engine, ALL, chosen, limit=limit, cursor=cursor)
        return [run.model_dump(mode="json") for run in page.items], page.next

    def get_run(self, key: UUID) -> Run | None:
        """See `RunSource`."""
        from trainingtask_history.queries import ALL, get_run  # noqa: PLC0415

        with _translate_history_errors():
            found = get_run(self._engine, ALL, key)
        return None if found is None else found.model_dump(mode="json")

    def get_events(self, key: UUID) -> list[Run]:
        """See `RunSource`."""
        from trainingtask_history.queries import ALL, get_events  # noqa: PLC0415

        with _translate_history_errors():
            return [event.model_dump(mode="json") for event in get_events(self._engine, ALL, key)]


def is_confidential(server: str) -> bool:
    """Tell whether nobody on the way to the server can read what is sent to it."""
    url = urlsplit(server)
    return url.scheme == "https" or url.hostname in ("localhost", "127.0.0.1", "::1")


def _parse_detail(answer: "Response") -> str:
    """Return the sentence of an error, nothing when the answer is not the history's."""
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return ""
    return str(detail)


@contextmanager
def _translate_history_errors() -> "Iterator[None]":
    from trainingtask_history.store import HistoryError, HistoryUnavailable  # noqa: PLC0415

    try:
        yield
    except HistoryUnavailable as error:
        raise TemporaryError(f"{error}: check --database (or TRAININGTASK_HISTORY_URL), or try again") from None
    except HistoryError as error:
        raise CommandError(str(error)) from None
