from datetime import UTC, datetime
from typing import Any

import pytest

from trainingtask_api import names
from trainingtask_operator.cache.assume_cache import WatchedObjects
from trainingtask_operator.cache.store import Index
from trainingtask_operator.controller.diagnosis import Note

KEY = ("default", "t")


def item(uid: str, version: int, **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v",
        "kind": "TrainingTask",
        "spec": {},
        "metadata": {
            "labels": {},
            "uid": uid,
            "resourceVersion": str(version),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "namespace": "default",
            "name": "t",
            **metadata,
        },
    }


def job(uid: str, version: int, task: str = "task-1") -> dict[str, Any]:
    made = item(uid, version, labels={names.TASK_UID_LABEL: task}, ownerReferences=[{"uid": task, "controller": True}])
    return {**made, "kind": "Job", "status": {"conditions": []}}


def pod(uid: str, version: int, job: str = "job-1") -> dict[str, Any]:
    return item(uid, version, ownerReferences=[{"uid": job, "controller": True}])


class Lists(Index):
    def __setitem__(self, key: Any, items: list[Any]) -> None:
        for found in self.get(key, []):
            self.remove(found["metadata"]["uid"])
        for found in items:
            self.put(key, found["metadata"]["uid"], found)

    def __delitem__(self, key: Any) -> None:
        self[key] = []


class Indexes:
    def __init__(self) -> None:
        self.tasks, self.jobs, self.pods, self.notes = Lists(), Lists(), Lists(), Lists()
        self.tasks[KEY] = [item("task-1", 10)]
        self.view = WatchedObjects(self.tasks, self.jobs, self.pods, self.notes)


@pytest.fixture
def indexes() -> Indexes:
    return Indexes()


def test_what_is_not_indexed_is_not_there(indexes: Indexes) -> None:
    assert indexes.view.observe("default", "other") is None
    observed = indexes.view.observe(*KEY)
    assert observed is not None
    assert (observed.job, observed.pods) == (None, [])


def test_a_job_just_created_stands_in_until_the_watch_shows_it(indexes: Indexes) -> None:
    view = indexes.view
    view.wrote(job("job-1", 20))
    observed = view.observe(*KEY)
    assert observed is not None
    assert observed.job == job("job-1", 20)

    indexes.jobs["task-1"] = [job("job-1", 21)]
    view.saw(job("job-1", 21))
    observed = view.observe(*KEY)
    assert observed is not None
    assert observed.job == job("job-1", 21)

    del indexes.jobs["task-1"]  # deleted: the index forgets it after its last event
    observed = view.observe(*KEY)
    assert observed is not None
    assert observed.job is None


def test_an_event_older_than_our_write_does_not_bring_the_past_back(indexes: Indexes) -> None:
    view = indexes.view
    view.wrote(item("task-1", 30))
    view.saw(item("task-1", 20))
    observed = view.observe(*KEY)
    assert observed is not None
    assert observed.task["metadata"]["resourceVersion"] == "30"
    indexes.tasks[KEY] = [item("task-1", 31)]
    view.saw(item("task-1", 31))
    observed = view.observe(*KEY)
    assert observed is not None
    assert observed.task["metadata"]["resourceVersion"] == "31"


def test_a_ghost_is_buried_and_stays_so(indexes: Indexes) -> None:
    view = indexes.view
    indexes.jobs["task-1"] = [job("job-1", 20)]
    indexes.pods["task-1"] = [pod("pod-1", 21)]
    believed = view.uids()
    assert believed == {"task-1", "job-1", "pod-1"}
    view.bury(believed - {"task-1"})
    observed = view.observe(*KEY)
    assert observed is not None
    assert (observed.job, observed.pods) == (None, [])
    assert view.uids() == {"task-1"}


def test_a_written_job_that_never_appears_is_buried_too(indexes: Indexes) -> None:
    indexes.view.wrote(job("job-1", 20))
    indexes.view.bury({"job-1"})
    observed = indexes.view.observe(*KEY)
    assert observed is not None
    assert observed.job is None


def test_of_two_tasks_of_one_name_the_living_one_counts(indexes: Indexes) -> None:
    old, new = item("task-0", 5), item("task-1", 10)
    old["metadata"]["creationTimestamp"] = "2025-12-31T00:00:00Z"
    indexes.tasks[KEY] = [new, old]
    observed = indexes.view.observe(*KEY)
    assert observed is not None
    assert observed.task["metadata"]["uid"] == "task-1"


def test_a_label_alone_makes_no_child_of_a_task(indexes: Indexes) -> None:
    indexes.jobs["task-1"] = [
        job("job-1", 20),
        item("forged", 30, labels={names.TASK_UID_LABEL: "task-1"}),
        item("elsewhere", 31, namespace="other", ownerReferences=[{"uid": "task-1", "controller": True}]),
    ]
    indexes.pods["task-1"] = [pod("pod-1", 21), item("forged-pod", 22), pod("another-jobs-pod", 23, job="forged")]
    observed = indexes.view.observe(*KEY)
    assert observed is not None
    assert observed.job == job("job-1", 20)
    assert observed.pods == [pod("pod-1", 21)]


def test_a_response_slower_than_the_watch_is_not_kept(indexes: Indexes) -> None:
    indexes.jobs["task-1"] = [job("job-1", 20)]
    indexes.view.wrote(job("job-1", 20))
    del indexes.jobs["task-1"]
    observed = indexes.view.observe(*KEY)
    assert observed is not None
    assert observed.job is None


def test_a_task_with_the_label_of_a_job_stands_in_for_no_job(indexes: Indexes) -> None:
    indexes.view.wrote(item("forged", 30, namespace="elsewhere", labels={names.TASK_UID_LABEL: "task-1"}))
    observed = indexes.view.observe(*KEY)
    assert observed is not None
    assert observed.job is None


def test_an_event_of_another_namespace_says_nothing_about_a_job(indexes: Indexes) -> None:
    indexes.jobs["task-1"] = [job("job-1", 20)]
    note = Note("exceeded quota", 1, datetime(2026, 1, 1, tzinfo=UTC))
    indexes.notes.put(("elsewhere", "job-1"), "event-1", note)
    observed = indexes.view.observe(*KEY)
    assert observed is not None
    assert observed.notes == {}
    indexes.notes.put(("default", "job-1"), "event-2", note)
    observed = indexes.view.observe(*KEY)
    assert observed is not None
    assert observed.notes == {"job-1": note}
