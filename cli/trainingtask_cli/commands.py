"""The commands on tasks. They are imported when a command runs, so that `--help` is fast."""

import contextlib
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from trainingtask_api import names
from trainingtask_api.nested import get_path
from trainingtask_cli.cluster import Cluster
from trainingtask_cli.describe import build_sections, describe_condition
from trainingtask_cli.errors import CommandError, UsageError
from trainingtask_cli.options import Format
from trainingtask_cli.output import print_note, print_sections, strip_managed_fields, to_csv, to_document
from trainingtask_cli.parsing import Object, get_state, parse_status
from trainingtask_cli.submit import build_manifest, build_retry, dump_manifest, find_free_name, read_manifest
from trainingtask_cli.tables import build_task_row, build_task_table, compare_tasks, has_same_data
from trainingtask_cli.watch import explain_failures, follow_tasks, print_changes, run_live_table

__all__ = ["Cluster", "cancel", "compare", "describe", "list_tasks", "logs", "retry", "submit", "watch"]

_MAX_COMPARED = 10


def list_tasks(cluster: Cluster, form: Format, *, all_namespaces: bool) -> None:
    """Print the tasks of a namespace, or of all namespaces."""
    tasks = cluster.list_tasks(all_namespaces=all_namespaces)
    if form is Format.CSV:
        rows = [build_task_row(task) for task in tasks]
        sys.stdout.write(to_csv(build_task_row({}), (row.values() for row in rows)))
    elif form is not Format.TABLE:
        _print_list(tasks, form)
    elif tasks:
        print_sections(build_task_table(tasks, datetime.now(UTC), namespaces=all_namespaces))
    else:
        print_note(_describe_empty_list(cluster, all_namespaces))


def watch(cluster: Cluster, task_names: Sequence[str], form: Format, *, all_namespaces: bool) -> None:
    """Show tasks until all of them have finished; fail where one that is named has not succeeded."""
    if task_names and all_namespaces:
        raise UsageError("names and -A exclude each other: a name is a task's in one namespace")
    for name in task_names:
        cluster.get_task(name)  # raises where there is none; the watch would wait forever
    expected = () if task_names else (KeyboardInterrupt,)  # of a script's task nothing is known then
    with contextlib.suppress(*expected):
        following = follow_tasks(cluster.watch_tasks(all_namespaces=all_namespaces), task_names)
        first = next(following, [])
        if task_names and not first:
            raise CommandError(f"{', '.join(task_names)}: deleted meanwhile")
        if not first:
            print_note(_describe_empty_list(cluster, all_namespaces))
            return
        snapshots = itertools.chain([first], following)
        if form is Format.TABLE and sys.stdout.isatty():
            last = run_live_table(snapshots, namespaces=all_namespaces)
        else:
            last = print_changes(snapshots, form, namespaces=all_namespaces)
        if task_names and (failures := explain_failures(last)):
            raise CommandError(failures)


def logs(cluster: Cluster, name: str, *, follow: bool) -> None:
    """Copy the log of the task's newest pod."""
    task = cluster.get_task(name)
    pod = cluster.get_newest_pod(task)
    if pod is None:
        raise CommandError(_explain_missing_pod(task))
    pod_name = pod["metadata"]["name"]
    if get_path(pod, "status", "phase") == "Pending":
        raise CommandError(f"pod {pod_name} has not started, so it has no log yet. {describe_condition(task)}")
    with contextlib.suppress(KeyboardInterrupt):
        written = 0
        for chunk in cluster.stream_log(pod_name, follow=follow):
            written += sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
        if not written:
            print_note(f"pod {pod_name} has written nothing. {describe_condition(task)}")


def describe(cluster: Cluster, name: str, form: Format) -> None:
    """Print the facts, conditions, attempts and scores of a task."""
    task = cluster.get_task(name)
    if form is Format.TABLE:
        print_sections(*build_sections(task, datetime.now(UTC)))
    elif form is Format.CSV:
        row = build_task_row(task)
        sys.stdout.write(to_csv(row, [row.values()]))
    else:
        sys.stdout.write(to_document(form, strip_managed_fields(task)))


def compare(cluster: Cluster, task_names: Sequence[str], form: Format) -> None:
    """Print the differences of the tasks' specs, and their scores side by side."""
    if not 2 <= len(set(task_names)) <= _MAX_COMPARED:
        raise UsageError(f"compare takes 2 to {_MAX_COMPARED} different names")
    tasks = [cluster.get_task(name) for name in dict.fromkeys(task_names)]
    spec, scores = compare_tasks(tasks)
    if form is Format.TABLE:
        print_sections(*([spec] if spec.rows else ["The specs are the same."]), scores)
        if not has_same_data(scores):
            print_note(
                "note: these tasks did not have the same data (see the last line): mind that when you compare them"
            )
        elif any(row[0] == "micro-F1" for row in scores.rows):
            print_note("note: `trainingtask-trainer compare MODEL MODEL` says whether a difference is more than chance")
    elif form is Format.CSV:
        sys.stdout.write(
            to_csv(("field", *spec.columns[1:]), [*(_prefix_path(row) for row in spec.rows), *scores.rows])
        )
    else:
        _print_list(tasks, form)


def cancel(cluster: Cluster, task_names: Sequence[str], *, is_confirmed: bool) -> None:
    """Delete tasks after a confirmation."""
    tasks = [cluster.get_task(name) for name in dict.fromkeys(task_names)]
    if not is_confirmed:
        if not sys.stdin.isatty():
            raise UsageError("nobody can be asked here: add --yes to delete without a question")
        for task in tasks:
            print_note(f"{task['metadata']['name']}  {get_state(task) or 'new'}")
        counted = "this task" if len(tasks) == 1 else f"these {len(tasks)} tasks"
        question = (
            f"Delete {counted} in namespace {cluster.namespace}, with Job and pods? The history keeps the record."
        )
        typer.confirm(question, abort=True, err=True)
    for task in tasks:
        cluster.delete_task(task)
        typer.echo(f"{names.KIND.lower()} {task['metadata']['name']} deleted")


def retry(cluster: Cluster, name: str) -> None:
    """Create a task with the spec of an existing one."""
    task = cluster.get_task(name)
    taken = {item["metadata"]["name"] for item in cluster.list_tasks()}
    created = cluster.create_task(build_retry(task, find_free_name(name, taken)))
    _print_created(created, f" with the spec of {name}")
    if get_path(created, "spec", "runPolicy", "suspend"):
        print_note("it is suspended, as its spec says: set runPolicy.suspend to false to start it")


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
    """Create a task from a file, from flags, or from both; a dry run sends no request."""
    base = None if file is None else read_manifest(_read_file(file), "standard input" if file == "-" else file)
    manifest = build_manifest(base, name=name, namespace=namespace, fields=fields, settings=settings)
    if dry_run:
        sys.stdout.write(dump_manifest(manifest))
        return
    client = cluster()
    client.namespace = manifest["metadata"].get("namespace", client.namespace)
    _print_created(client.create_task(manifest))


def _print_created(task: Object, source: str = "") -> None:
    metadata = task["metadata"]
    typer.echo(f"{names.KIND.lower()} {metadata['name']} created{source}")
    typer.echo(f"kubectl trainingtask watch {metadata['name']} -n {metadata['namespace']}")


def _read_file(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{file} cannot be read: {error}") from None


def _print_list(tasks: Sequence[Object], form: Format) -> None:
    listed = {
        "apiVersion": names.API_VERSION,
        "kind": f"{names.KIND}List",
        "items": [strip_managed_fields(task) for task in tasks],
    }
    sys.stdout.write(to_document(form, listed))


def _prefix_path(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return f"spec.{row[0]}", *row[1:]


def _describe_empty_list(cluster: Cluster, all_namespaces: bool) -> str:
    return f"no TrainingTasks {'in any namespace' if all_namespaces else f'in namespace {cluster.namespace}'}"


def _explain_missing_pod(task: Object) -> str:
    status = parse_status(task)
    name = task["metadata"]["name"]
    if status.start_time is None and status.finished_at is None:
        return f"{name} has no pod yet. {describe_condition(task)}"
    from trainingtask_history.tables import run_id  # noqa: PLC0415 - it imports SQLAlchemy

    run = run_id(task["metadata"]["uid"], status.attempt or 1)
    return (
        f"{name} has no pod any more. `kubectl trainingtask history {run}` shows its record, which keeps the last lines"
        " of the log of an attempt that failed"
    )
