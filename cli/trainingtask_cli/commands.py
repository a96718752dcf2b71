"""What each command does with the cluster. Everything here is imported when a command runs, so that `--help` is fast."""

import contextlib
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from trainingtask_api import names
from trainingtask_cli.cluster import Cluster, Object
from trainingtask_cli.describe import describe as describe_parts
from trainingtask_cli.errors import CommandError, UsageError
from trainingtask_cli.options import Format
from trainingtask_cli.output import as_csv, as_document, show, unmanaged
from trainingtask_cli.parsing import at, deciding, state_of, status_of
from trainingtask_cli.submit import build, next_name, read_manifest, retry_of, to_yaml
from trainingtask_cli.tables import compare_tasks, list_table, same_data, task_row
from trainingtask_cli.watch import draw, print_changes, shown_states

__all__ = ["Cluster", "cancel", "compare", "describe", "list_tasks", "logs", "retry", "submit", "watch"]

_COMPARED = 10


def list_tasks(cluster: Cluster, form: Format, *, everywhere: bool) -> None:
    """Print the tasks of a namespace, or of all."""
    tasks = cluster.tasks(everywhere=everywhere)
    if form is Format.CSV:
        rows = [task_row(task) for task in tasks]
        sys.stdout.write(as_csv(task_row({}), (row.values() for row in rows)))
    elif form is not Format.TABLE:
        _print_list(tasks, form)
    elif tasks:
        show(list_table(tasks, datetime.now(UTC), namespaces=everywhere))
    else:
        _note(_nothing(cluster, everywhere))


def watch(cluster: Cluster, wanted: Sequence[str], form: Format, *, everywhere: bool) -> None:
    """Show tasks until they have ended."""
    if wanted and everywhere:
        raise UsageError("names and -A exclude each other: a name is a task's in one namespace")
    for name in wanted:
        cluster.task(name)  # says so when there is none; the watch would wait for it for ever
    with contextlib.suppress(KeyboardInterrupt):
        states = shown_states(cluster.follow(everywhere=everywhere), wanted)
        first = next(states, [])
        if not first:
            _note(_nothing(cluster, everywhere))
            return
        everything = itertools.chain([first], states)
        if form is Format.TABLE and sys.stdout.isatty():
            draw(everything, namespaces=everywhere)
        else:
            print_changes(everything, form, namespaces=everywhere)


def logs(cluster: Cluster, name: str, *, follow: bool) -> None:
    """Copy the log of the task's newest pod."""
    task = cluster.task(name)
    pod = cluster.newest_pod(task)
    if pod is None:
        raise CommandError(_why_no_pod(task))
    pod_name = pod["metadata"]["name"]
    if at(pod, "status", "phase") == "Pending":
        raise CommandError(f"pod {pod_name} has not started, so it has no log yet. {_said(task)}")
    with contextlib.suppress(KeyboardInterrupt):
        written = 0
        for chunk in cluster.log(pod_name, follow=follow):
            written += sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
        if not written:
            _note(f"pod {pod_name} has written nothing. {_said(task)}")


def describe(cluster: Cluster, name: str, form: Format) -> None:
    """Print what a person wants to know of a task."""
    task = cluster.task(name)
    if form is Format.TABLE:
        show(*describe_parts(task, datetime.now(UTC)))
    elif form is Format.CSV:
        row = task_row(task)
        sys.stdout.write(as_csv(row, [row.values()]))
    else:
        sys.stdout.write(as_document(form, unmanaged(task)))


def compare(cluster: Cluster, wanted: Sequence[str], form: Format) -> None:
    """Print what differs between tasks, and their scores side by side."""
    if not 2 <= len(set(wanted)) <= _COMPARED:
        raise UsageError(f"compare takes 2 to {_COMPARED} different names")
    tasks = [cluster.task(name) for name in dict.fromkeys(wanted)]
    spec, scores = compare_tasks(tasks)
    if form is Format.TABLE:
        show(*([spec] if spec.rows else ["The specs are the same."]), scores)
        if not same_data(scores):
            _note("note: these tasks did not have the same data (see the last line): mind that when you compare them")
    elif form is Format.CSV:
        sys.stdout.write(as_csv(("field", *spec.columns[1:]), [*(_spec_row(row) for row in spec.rows), *scores.rows]))
    else:
        _print_list(tasks, form)


def cancel(cluster: Cluster, wanted: Sequence[str], *, sure: bool) -> None:
    """Delete tasks, after a question."""
    tasks = [cluster.task(name) for name in dict.fromkeys(wanted)]
    if not sure:
        if not sys.stdin.isatty():
            raise UsageError("nobody can be asked here: add --yes to delete without a question")
        for task in tasks:
            typer.echo(f"{task['metadata']['name']}  {state_of(task) or 'new'}", err=True)
        of_them = "this task" if len(tasks) == 1 else f"these {len(tasks)} tasks"
        question = (
            f"Delete {of_them} in namespace {cluster.namespace}, with Job and pods? The history keeps the record."
        )
        typer.confirm(question, abort=True, err=True)
    for task in tasks:
        cluster.delete(task)
        typer.echo(f"{names.KIND.lower()} {task['metadata']['name']} deleted")


def retry(cluster: Cluster, name: str) -> None:
    """Create a task with the spec of another one."""
    task = cluster.task(name)
    taken = {item["metadata"]["name"] for item in cluster.tasks()}
    created = cluster.create(retry_of(task, next_name(name, taken)))
    _created(created, f" with the spec of {name}")
    if at(created, "spec", "runPolicy", "suspend"):
        _note("it is suspended, as its spec says: set runPolicy.suspend to false to start it")


def submit(
    cluster: Callable[[], Cluster],
    file: str | None,
    *,
    name: str | None,
    namespace: str | None,
    fields: Mapping[str, Any],
    settings: Sequence[str],
    dry_run: bool,
) -> None:
    """Create a task from a file, from flags, or from both; a dry run asks no API server."""
    base = None if file is None else read_manifest(_text_of(file), "standard input" if file == "-" else file)
    manifest = build(base, name=name, namespace=namespace, fields=fields, settings=settings)
    if dry_run:
        sys.stdout.write(to_yaml(manifest))
        return
    there = cluster()
    there.namespace = manifest["metadata"].get("namespace", there.namespace)
    _created(there.create(manifest))


def _created(task: Object, what: str = "") -> None:
    metadata = task["metadata"]
    typer.echo(f"{names.KIND.lower()} {metadata['name']} created{what}")
    typer.echo(f"kubectl trainingtask watch {metadata['name']} -n {metadata['namespace']}")


def _text_of(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{file} cannot be read: {error}") from None


def _print_list(tasks: Sequence[Object], form: Format) -> None:
    listed = {
        "apiVersion": names.API_VERSION,
        "kind": f"{names.KIND}List",
        "items": [unmanaged(task) for task in tasks],
    }
    sys.stdout.write(as_document(form, listed))


def _spec_row(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return f"spec.{row[0]}", *row[1:]


def _nothing(cluster: Cluster, everywhere: bool) -> str:
    return f"no TrainingTasks {'in any namespace' if everywhere else f'in namespace {cluster.namespace}'}"


def _note(text: str) -> None:
    typer.echo(text, err=True)


def _why_no_pod(task: Object) -> str:
    status = status_of(task)
    name = task["metadata"]["name"]
    if status.start_time is None and status.finished_at is None:
        return f"{name} has no pod yet. {_said(task)}"
    from trainingtask_history.tables import run_id  # noqa: PLC0415 - it brings the whole of SQLAlchemy

    run = run_id(task["metadata"]["uid"], status.attempt or 1)
    return (
        f"{name} has no pod any more. `kubectl trainingtask history {run}` shows its record, which keeps the last lines"
        " of the log of an attempt that failed"
    )


def _said(task: Object) -> str:
    said = deciding(status_of(task))
    return f"{said.reason}: {said.message}" if said else "The operator has not looked at it yet: is it running?"
