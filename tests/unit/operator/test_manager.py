"""What the watches show, and what it makes the operator look at."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from support.virtual_time import in_skipped_time
from trainingtask_api import names
from trainingtask_operator.manager import App
from trainingtask_operator.settings import Settings

ENDED = [{"type": "Complete", "status": "True"}]


@pytest.fixture
def app(settings: Settings) -> App:
    return App(settings)


def task(name: str = "t", version: int = 1, **status: Any) -> dict[str, Any]:
    metadata = {"namespace": "n", "name": name, "uid": f"uid-{name}", "resourceVersion": str(version)}
    metadata["creationTimestamp"] = "2026-01-01T00:00:00Z"
    return {"apiVersion": "v", "kind": "TrainingTask", "metadata": metadata, "spec": {}, "status": status}


def pod_of(name: str, phase: str = "Running", version: int = 1) -> dict[str, Any]:
    labels = {names.TASK_UID_LABEL: f"uid-{name}", names.TASK_NAME_LABEL: name}
    metadata: dict[str, Any] = {"namespace": "n", "name": name, "uid": f"pod-{name}", "resourceVersion": str(version)}
    metadata |= {"creationTimestamp": "2026-01-01T00:00:00Z", "labels": labels}
    return {"kind": "Pod", "metadata": metadata, "spec": {"containers": []}, "status": {"phase": phase}}


async def taken(app: App) -> list[str]:
    found = []
    while len(app.queue):
        key = await app.queue.get()
        assert key is not None
        app.queue.done(key)
        found.append(key[1])
    return found


async def test_a_new_task_is_looked_at_before_all_that_has_ended(app: App) -> None:
    old = task("old", conditions=ENDED)
    old["spec"] = {"runPolicy": {"ttlSecondsAfterFinished": 1}}
    app.task_seen("MODIFIED", old)
    app.task_seen("ADDED", task("new"))
    assert await taken(app) == ["new", "old"]


async def test_progress_wakes_nobody_at_once_and_the_end_of_the_training_does(app: App) -> None:
    app.task_seen("ADDED", task())
    assert await taken(app) == ["t"]
    for step in range(5):
        app.task_seen("MODIFIED", task(version=2 + step, training={"step": step}))
    assert await taken(app) == []
    app.task_seen("MODIFIED", task(version=9, training={"step": 9, "finishTime": "2026-01-01T00:00:00Z"}))
    assert await taken(app) == ["t"]


async def test_the_event_of_our_own_write_wakes_nobody_however_fast_it_is(app: App) -> None:
    app.task_seen("ADDED", task())
    key = await app.queue.get()
    assert key is not None
    app.task_seen("MODIFIED", task(version=2, state="Pending"))  # before the response to the write
    app._view.wrote(task(version=2, state="Pending"))
    app.finish(key)
    assert await taken(app) == []

    app.task_seen("MODIFIED", task(version=3, state="Spoilt"))
    key = await app.queue.get()
    assert key is not None
    app.task_seen("MODIFIED", task(version=4, state="SpoiltAgain"))  # by somebody else
    app.finish(key)
    assert await taken(app) == ["t"]


async def test_of_ten_thousand_ended_tasks_those_without_a_row_are_looked_at(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = []

    async def recorded(tasks: list[Mapping[str, Any]]) -> set[str]:
        questions.append(len(tasks))
        return {item["metadata"]["uid"] for item in tasks} - {"uid-t77"}

    monkeypatch.setattr(app.history, "recorded", recorded)
    for number in range(1000):
        app.task_seen(None, task(f"t{number}", conditions=ENDED))
    assert len(app.queue) == 0
    checking = asyncio.create_task(app._check_ended())
    async with asyncio.timeout(5):
        key = await app.queue.get()
    assert key == ("n", "t77")
    for _ in range(100):
        await asyncio.sleep(0)
    assert (sum(questions), max(questions)) == (1000, 200)
    assert len(app.queue) == 0
    checking.cancel()


async def test_a_pod_that_runs_is_looked_at_before_those_on_their_way(app: App) -> None:
    for name in ("a", "b"):
        app.pod_seen("ADDED", pod_of(name, "Pending"))
    app.pod_seen("MODIFIED", pod_of("b"))
    assert await taken(app) == ["b", "a"]


async def test_a_standby_queues_nothing_and_everything_that_is_open_as_it_takes_over(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(App, "is_acting", False)
    app.task_seen("ADDED", task("open"))
    app.task_seen("ADDED", task("gone"))
    app.task_seen("DELETED", task("gone", version=2))
    app.task_seen("ADDED", task("over"))
    app.task_seen("MODIFIED", task("over", version=2, conditions=ENDED))
    assert await taken(app) == []
    app.take_over()
    assert await taken(app) == ["open"]
    assert list(app._unchecked) == [("n", "over")], "the history is asked first"


@in_skipped_time
async def test_a_defect_in_one_task_stops_no_other(app: App, caplog: pytest.LogCaptureFixture) -> None:
    tried: list[str] = []

    class OneDefect:
        async def reconcile(self, namespace: str, name: str) -> None:
            tried.append(name)
            if name == "bad" and tried.count(name) < 3:
                raise RuntimeError("a defect")

    reconciler: Any = OneDefect()
    working = asyncio.create_task(app._work(reconciler))
    for name in ("bad", "good"):
        app.queue.add(("n", name))
    await asyncio.sleep(60)
    assert tried == ["bad", "good", "bad", "bad"], "tried again until it is well"
    assert caplog.text.count("RuntimeError: a defect") == 2
    app.queue.stop()
    await working


async def test_a_list_tells_what_was_deleted_while_no_watch_looked(app: App) -> None:
    for number, name in enumerate(("kept", "lost")):
        app.task_seen("ADDED", task(name))
        app.pod_seen("ADDED", pod_of(name, version=number + 10))
    assert await taken(app) == ["kept", "lost"]
    app.synced = True
    app.pod_seen(None, pod_of("kept", version=10))
    app._only(app.pods, {"pod-kept"})
    assert app.pods.uids() == {"pod-kept"}
    assert (await taken(app))[0] == "lost"


async def test_of_a_later_list_what_had_ended_before_wakes_nobody(app: App) -> None:
    app.synced = True
    for name, phase in (("ended", "Succeeded"), ("ends", "Running")):
        app.pod_seen("ADDED", pod_of(name, phase, version=1))
    await taken(app)
    for name in ("ended", "ends", "new"):
        app.pod_seen(None, pod_of(name, "Succeeded", version=2))
    assert sorted(await taken(app)) == ["ends", "new"]
