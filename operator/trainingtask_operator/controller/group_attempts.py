"""The attempts of a task with a JobSet: the pods between two restarts of the group are one attempt. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from trainingtask_api import TrainingReport, TrainingTask, names
from trainingtask_operator.controller.attempts import (
    CONSEQUENCES,
    Attempt,
    build_attempts,
    build_from_pod,
    build_from_record,
    count_attempt,
    fill_gaps,
    parse_count,
)
from trainingtask_operator.controller.diagnosis import Cause
from trainingtask_operator.kube_objects import KubeEvent, Object

MAX_NODES_NAMED = 8
MAX_NODES_CHARACTERS = 253  # of status.node and of the history's column
_LAST = datetime.max.replace(tzinfo=UTC)


def build_task_attempts(
    task: TrainingTask, pods: Iterable[Object], kube_events: Mapping[str, KubeEvent] | None = None
) -> list[Attempt]:
    """Return the attempts of a task in order, see `build_attempts`."""
    if task.spec.node_count == 1:
        return build_attempts(pods, task.status, kube_events)
    records = (task.status and task.status.attempts) or []
    report = task.status.training if task.status else None
    attempts = {record.number: build_from_record(record, report) for record in records}
    groups: defaultdict[int, list[Object]] = defaultdict(list)
    for pod in pods:
        groups[count_attempt(pod)].append(pod)
    for number, group in groups.items():
        members = _build_members(group, report, kube_events or {})
        attempt = _merge(members, task.spec.node_count)
        record = attempts.get(number)
        attempts[number] = attempt if record is None else _take_record(record, attempt, members)
    return fill_gaps(attempts, task.status)


def _build_members(
    pods: list[Object], report: TrainingReport | None, kube_events: Mapping[str, KubeEvent]
) -> dict[int, Attempt]:
    """Return the pods by their index; of two with one index (suspended and resumed) the later one counts."""
    members = {}
    for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"])):
        index = parse_count(pod["metadata"].get("annotations") or {}, names.NODE_RANK_ANNOTATION)
        members[index] = build_from_pod(pod, report if index == 0 else None, kube_events)
    return dict(sorted(members.items()))


def _merge(members: dict[int, Attempt], node_count: int) -> Attempt:
    """Return one attempt: start and report are those of the pod with index 0.

    Its end is that of the pod that failed first, or else of the last pod once all have ended. When another container has
    failed the pod with index 0 after its trainer's success, JobSet stops the others: that is the end, and no failure.
    """
    main = members.get(0) or next(iter(members.values()))
    is_final = 0 in members and main.is_final
    failed = [m for m in members.values() if m.cause and not (is_final and m.cause.reason in CONSEQUENCES)]
    first = min(failed, key=_rank_failure, default=None)
    create_times = [member.create_time for member in members.values() if member.create_time]
    nodes = describe_nodes(list(dict.fromkeys(member.node for member in members.values() if member.node)))
    lacks_pods = len(members) < node_count and not is_final
    finish_times = [member.finish_time for member in members.values() if member.finish_time]
    has_ended = is_final or len(finish_times) == len(members)
    merged = replace(
        main,
        pod_uid=main.pod_uid if 0 in members else None,
        start_time=main.start_time if 0 in members else None,
        node=nodes,
        nodes=nodes,
        phase=_derive_phase([member.phase for member in members.values()], lacks_pods=lacks_pods),
        lacks_pods=lacks_pods,
        is_terminating=any(member.is_terminating for member in members.values()),
        create_time=min(create_times, default=None),
        finish_time=max(finish_times) if has_ended else None,
        exit_code=main.exit_code if has_ended else None,
        waiting_cause=next((member.waiting_cause for member in members.values() if member.waiting_cause), None),
        sidecars=tuple(dict.fromkeys(name for member in members.values() for name in member.sidecars if has_ended)),
    )
    if first is None or first.cause is None:
        return merged
    start_time = merged.start_time and min(merged.start_time, first.start_time or merged.start_time)
    return replace(
        merged,
        start_time=start_time,  # it may have failed before the pod with index 0 started
        phase="Running" if merged.phase == "Pending" else merged.phase,
        pod=first.pod,
        node=first.node,
        image=first.image,
        finish_time=first.finish_time,
        exit_code=first.exit_code,
        cause=_name_pod(first, first.cause, members.values()),
        counts_as_failure=first.counts_as_failure,
        sidecars=first.sidecars,
    )


def _rank_failure(member: Attempt) -> tuple[bool, bool, bool, datetime]:
    """Return a sort key: the pod that failed first is the least. All pods may report its failure, which names it."""
    reason, message = (member.cause.reason, member.cause.message) if member.cause else ("", "")
    is_own = member.pod is not None and member.pod in message
    return not member.is_user_error, reason in CONSEQUENCES, not is_own, member.finish_time or _LAST


def _derive_phase(phases: list[str], *, lacks_pods: bool) -> str:
    if "Failed" in phases:
        return "Failed"
    if lacks_pods or "Pending" in phases:
        return "Pending"
    return "Succeeded" if set(phases) == {"Succeeded"} else "Running"


def _name_pod(member: Attempt, cause: Cause, members: Iterable[Attempt]) -> Cause:
    """Return the cause with the pod, unless the message names one already."""
    if any(other.pod and other.pod in cause.message for other in members):
        return cause
    place = f" on node {member.node}" if member.node else ""
    return Cause(cause.reason, f"Pod {member.pod}{place}: {cause.message}")


def _take_record(record: Attempt, attempt: Attempt, members: dict[int, Attempt]) -> Attempt:
    """Return the attempt with what is recorded of pods that JobSet has deleted, or is deleting, while others remain."""
    if record.cause is None:
        if 0 in members:
            return attempt
        attempt = replace(attempt, start_time=record.start_time)
        return attempt if attempt.cause else replace(attempt, pod=record.pod, node=record.node)
    is_known_better = record.cause.reason in CONSEQUENCES and not _is_consequence(attempt)
    has_failed = attempt.counts_as_failure or bool(attempt.cause and attempt.sidecars)
    if has_failed and (is_known_better or record.pod in {member.pod for member in members.values()}):
        attempt = replace(attempt, is_recorded=True, counts_as_failure=True)  # also while its pod is being deleted
        return attempt if 0 in members else replace(attempt, start_time=record.start_time)
    return replace(
        attempt,
        phase="Failed",
        pod=record.pod,
        node=record.node,
        start_time=record.start_time,
        finish_time=record.finish_time,
        exit_code=record.exit_code,
        cause=record.cause,
        counts_as_failure=True,
        is_recorded=True,
    )


def _is_consequence(attempt: Attempt) -> bool:
    return attempt.cause is not None and attempt.cause.reason in CONSEQUENCES


def describe_nodes(nodes: list[str]) -> str | None:
    """Return the nodes as text: at most 8 by name, and the number of all or of the rest."""
    if len(nodes) < 2:
        return nodes[0] if nodes else None
    for count in range(min(len(nodes), MAX_NODES_NAMED), 0, -1):
        rest = len(nodes) - count
        text = ", ".join(nodes[:count]) + (f" and {rest} more" if rest else f" ({len(nodes)} nodes)")
        if len(text) <= MAX_NODES_CHARACTERS:
            return text
    return f"{len(nodes)} nodes"
