"""``python -m trainingtask_operator.smoke_test NAMESPACE NAME``: what `helm test` runs beside the task that it creates.

It waits until the task has succeeded and its row is in the history, as a user of the release would see them.
"""

import asyncio
import os
import sys
import time

import kopf

from trainingtask_api import names
from trainingtask_history import queries
from trainingtask_history.access import ALL
from trainingtask_history.engine import open_history
from trainingtask_history.errors import HistoryError
from trainingtask_operator.client.errors import ClusterError
from trainingtask_operator.client.kubernetes import KubernetesClient, connect
from trainingtask_operator.handlers import login
from trainingtask_operator.kube_objects import Object, get_conditions, get_true_conditions, get_uid, is_finished

TRAINING_SECONDS = 480.0
RECORDING_SECONDS = 180.0
POLL_SECONDS = 2.0


def main() -> None:
    """Test a release; exit with a sentence where it fails."""
    namespace, name = sys.argv[1:]
    sys.exit(asyncio.run(find_failure(namespace, name, os.environ.get(names.ENV_HISTORY_URL))))


async def find_failure(namespace: str, name: str, history_url: str | None) -> str | None:
    """Return why the task, or its row, is not as it should be; None when both are."""
    try:
        async with connect(lambda: login(settings=kopf.OperatorSettings())) as client:
            task = await wait_for_end(client, namespace, name)
    except ClusterError as error:
        return f"TrainingTask {namespace}/{name} cannot be read: {error}"
    if "Complete" not in get_true_conditions(task):
        return f"TrainingTask {namespace}/{name} has not succeeded: {describe_conditions(task)}"
    print(f"TrainingTask {namespace}/{name} has succeeded")
    if history_url is None:
        print("no history is kept")
        return None
    try:
        status = await asyncio.to_thread(wait_for_row, history_url, get_uid(task))
    except HistoryError as error:
        return str(error)
    if status is None:
        return f"the history has no final row of TrainingTask {namespace}/{name} after {RECORDING_SECONDS:.0f} s"
    print(f"its row in the history says {status}")
    return None


async def wait_for_end(client: KubernetesClient, namespace: str, name: str) -> Object:
    """Return the task once it has ended, or as it is when the time is over."""
    deadline = asyncio.get_running_loop().time() + TRAINING_SECONDS
    while True:
        task = await client.get_task(namespace, name)
        if is_finished(task) or asyncio.get_running_loop().time() > deadline:
            return task
        await asyncio.sleep(POLL_SECONDS)


def describe_conditions(task: Object) -> str:
    """Return the sentences of a task's conditions."""
    sentences = [f"{condition.get('reason')}: {condition.get('message')}" for condition in get_conditions(task)]
    return "; ".join(sentences) or "no operator has seen it; look at the operator's log and at trainer.namespaces"


def wait_for_row(url: str, task_uid: str) -> str | None:
    """Return the status of a task's last row once that is final, None when the time is over.

    Raises
    ------
    HistoryError
    """
    engine = open_history(url, pooled=False)
    deadline = time.monotonic() + RECORDING_SECONDS
    try:
        while True:
            attempts = queries.get_attempts(engine, ALL, task_uid)
            if attempts and attempts[-1].finish_time is not None:
                return attempts[-1].status
            if time.monotonic() > deadline:
                return None
            time.sleep(POLL_SECONDS)
    finally:
        engine.dispose()


if __name__ == "__main__":
    main()
