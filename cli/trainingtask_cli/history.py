"""`history`: the recorded runs, also those of deleted tasks."""

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import typer

from trainingtask_api import EvaluationResult
from trainingtask_api.formatting import format_age
from trainingtask_api.names import ENV_HISTORY_URL
from trainingtask_api.nested import get_path
from trainingtask_cli.describe import Section, build_score_sections
from trainingtask_cli.errors import CommandError, UsageError
from trainingtask_cli.formatting import Cell, format_elapsed, format_time, format_time_and_age
from trainingtask_cli.history_client import (
    DatabaseRunSource,
    HttpRunSource,
    Run,
    RunSource,
    is_confidential,
    list_newest,
)
from trainingtask_cli.options import Format
from trainingtask_cli.output import Table, print_sections, to_csv, to_document
from trainingtask_cli.parsing import parse_leniently
from trainingtask_cli.tables import flatten_to_cells

ENV_SERVER = "TRAININGTASK_SERVER"
ENV_TOKEN = "TRAININGTASK_TOKEN"  # noqa: S105 - a name

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def history(source: RunSource, run: str | None, filters: Mapping[str, str | None], limit: int, form: Format) -> None:
    """Print the newest runs that match the filters, or one run."""
    if run is None:
        _print_runs(*list_newest(source, {key: value for key, value in filters.items() if value}, limit), form)
        return
    try:
        key = UUID(run)
    except ValueError:
        raise UsageError(f"{run!r} is no id of a run: `kubectl trainingtask history` shows them") from None
    found = source.get_run(key)
    if found is None:
        raise CommandError(
            f"there is no run {key}, or it is not yours to see: `kubectl trainingtask history` lists yours"
        )
    if form is Format.TABLE:
        print_sections(*build_run_sections(found, source.get_events(key), datetime.now(UTC)))
    elif form is Format.CSV:
        sys.stdout.write(_to_csv([found]))
    else:
        sys.stdout.write(to_document(form, found))


def open_source(
    server: str | None, database: str | None, token: str | None, get_kubeconfig_token: Callable[[], str | None]
) -> RunSource:
    """Return the source of runs that the flags name, else the environment."""
    if server and database:
        raise UsageError("--server and --database exclude each other")
    if not server and not database:
        server = os.environ.get(ENV_SERVER)
        database = None if server else os.environ.get(ENV_HISTORY_URL)
    if database:
        return DatabaseRunSource(database)
    if not server:
        raise UsageError(
            f"where is the history? Name its web app with --server (or {ENV_SERVER}), or its database with --database"
            f" (or {ENV_HISTORY_URL})"
        )
    return HttpRunSource(
        server, token or os.environ.get(ENV_TOKEN) or _require_kubeconfig_token(server, get_kubeconfig_token)
    )


def _require_kubeconfig_token(server: str, get_kubeconfig_token: Callable[[], str | None]) -> str:
    if not is_confidential(server):
        raise CommandError(
            f"the kubeconfig's token is not sent to {server}, where anybody on the way could read it: use https, or"
            f" pass a token by --token or {ENV_TOKEN}"
        )
    token = get_kubeconfig_token()
    if token is None:
        raise CommandError(
            f"the kubeconfig holds no token, as it logs in another way: pass one by --token or {ENV_TOKEN}, such as one"
            " of `kubectl create token NAME`"
        )
    return token


def parse_since(text: str | None, now: datetime) -> str | None:
    """Return a time, or an age such as ``7d``, as an ISO 8601 time with a zone."""
    if text is None:
        return None
    age = re.fullmatch(r"(\d{1,6})([mhdw])", text)
    try:
        when = now - timedelta(**{_UNITS[age[2]]: int(age[1])}) if age else datetime.fromisoformat(text)
        return (when if when.tzinfo else when.astimezone()).isoformat()
    except (ValueError, OverflowError):
        raise UsageError(
            f"--since {text!r}: expected a time such as 2026-05-04T10:00, or an age such as 12h or 7d"
        ) from None


def _to_csv(runs: Sequence[Run]) -> str:
    from trainingtask_history.read_models import RunSummary  # noqa: PLC0415 - it imports SQLAlchemy

    columns = list(RunSummary.model_fields)
    return to_csv(columns, ([run.get(name) for name in columns] for run in runs))


def _print_runs(runs: Sequence[Run], more: bool, form: Format) -> None:
    if form is Format.CSV:
        sys.stdout.write(_to_csv(runs))
    elif form is not Format.TABLE:
        sys.stdout.write(to_document(form, runs))
    elif runs:
        print_sections(build_runs_table(runs, datetime.now(UTC)))
    else:
        typer.echo("no run fits", err=True)
    if more:
        typer.echo(f"These are the newest {len(runs)}; --limit shows more.", err=True)


def build_runs_table(runs: Sequence[Run], now: datetime) -> Table:
    """Return the table of runs."""
    rows: list[tuple[Cell, ...]] = [
        (
            run.get("namespace"),
            run.get("name"),
            run.get("attempt"),
            run.get("status"),
            run.get("dataset"),
            run.get("model"),
            run.get("device"),
            run.get("score"),
            _format_seconds(run.get("total_time")),
            format_elapsed(_parse_time(run.get("create_time")), now),
            run.get("error_reason"),
            run.get("id"),
        )
        for run in runs
    ]
    columns = ("NAMESPACE", "NAME", "#", "STATE", "DATASET", "MODEL", "DEVICE", "SCORE", "TOOK", "AGE", "REASON", "RUN")
    return Table(columns, rows)


def build_run_sections(run: Run, events: Sequence[Run], now: datetime) -> list[Section]:
    """Return the sections of one run."""
    parts: list[Section] = [Table(("", ""), _list_facts(run, now), wrapped=frozenset({""}))]
    created = _parse_time(run.get("create_time"))
    rows: list[tuple[Cell, ...]] = [
        (
            format_time(when),
            f"+{format_elapsed(created, when) or '?'}",
            event.get("type"),
            event.get("reason"),
            event.get("message"),
        )
        for event in events
        for when in (_parse_time(event.get("time")),)
    ]
    if rows:
        columns = ("TIME", "AFTER", "TYPE", "REASON", "MESSAGE")
        parts.append(Table(columns, rows, "Events", frozenset({"MESSAGE"})))
    scores = parse_leniently(EvaluationResult, run.get("evaluate_result"))
    if scores is not None:
        warnings = get_path(run, "training_result", "warnings")
        parts += build_score_sections(scores, [str(one) for one in warnings] if isinstance(warnings, list) else [])
    spec: list[tuple[Cell, ...]] = list(flatten_to_cells(run.get("spec")).items())
    if spec:
        parts.append(Table(("", ""), spec, "Spec"))
    if run.get("log_tail"):
        parts.append("Last lines of the log\n" + str(run["log_tail"]).rstrip())
    return parts


def _list_facts(run: Run, now: datetime) -> list[tuple[Cell, ...]]:
    reason = ": ".join(str(run[field]) for field in ("error_reason", "error_message") if run.get(field))
    labels = run.get("labels")
    facts: dict[str, Cell] = {
        "Run": run.get("id"),
        "Task": run.get("name"),
        "Namespace": run.get("namespace"),
        "Attempt": run.get("attempt"),
        "State": run.get("status"),
        "Reason": reason,
        "Data set": run.get("dataset"),
        "Model": run.get("model"),
        "Device": run.get("device"),
        "Score": run.get("score"),
        "Labels": ", ".join(f"{key}={value}" for key, value in labels.items()) if isinstance(labels, dict) else None,
        "Created": format_time_and_age(_parse_time(run.get("create_time")), now),
        "Started": format_time_and_age(_parse_time(run.get("start_time")), now),
        "Ended": format_time_and_age(_parse_time(run.get("finish_time")), now),
        "Took": _format_seconds(run.get("total_time")),
        "Progress": _format_progress(run) if not run.get("finish_time") else None,
        "Node": run.get("node"),
        "Image": run.get("trainer_image"),
        "Tracked at": run.get("tracking_url"),
        "Model path": get_path(run, "training_result", "model_path"),
        "Model address": get_path(run, "training_result", "model_uri"),
    }
    return [(f"{name}:", value) for name, value in facts.items() if value not in (None, "")]


def _format_progress(run: Run) -> str | None:
    steps = f"step {run['step']} of {run['total_steps']}" if run.get("step") and run.get("total_steps") else None
    left = f"{run['eta']} left" if run.get("eta") else None
    return ", ".join(str(part) for part in (run.get("phase"), steps, left) if part) or None


def _format_seconds(value: Any) -> str | None:
    return format_age(value) if isinstance(value, int | float) else None


def _parse_time(text: Any) -> datetime | None:
    return datetime.fromisoformat(text) if isinstance(text, str) else None
