"""The gauge of tasks by state, and the time from a running pod to the task's status."""

import sys
import time
from collections import Counter

from trainingtask_operator import metrics

# Without a series of 0 the first failures would be no rise.
_STATES = ("Pending", "Running", "Suspended", "Interrupted", "Succeeded", "Failed")


class TaskGauges:
    """The state of each task, for the metrics."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}  # uid of the task -> state
        self._running_since: dict[
            str, float
        ] = {}  # uid of a Pending task with a running pod -> since when, on the monotonic clock

    def set_state(self, uid: str, state: str) -> None:
        """Set the state of a task; observe how long a running pod took to show in it."""
        self._states[uid] = sys.intern(state)
        since = self._running_since.pop(uid, None) if state != "Pending" else None
        if since is not None:
            metrics.RUNNING_SECONDS.observe(time.monotonic() - since)

    def set_pod_running(self, task_uid: str) -> None:
        """Start the clock of a running pod's task, unless the task is unknown or Running already."""
        if self._states.get(task_uid, "Running") != "Running":  # the pod of a deleted task runs for its grace period
            self._running_since.setdefault(task_uid, time.monotonic())

    def forget(self, uid: str) -> None:
        """Drop a deleted task."""
        self._states.pop(uid, None)
        self._running_since.pop(uid, None)

    def update(self) -> None:
        """Set the gauge of tasks by state."""
        metrics.TASKS.clear()
        for state, number in {**dict.fromkeys(_STATES, 0), **Counter(self._states.values())}.items():
            metrics.TASKS.labels(state).set(number)
