from datetime import UTC, datetime
from typing import Any

import pytest

from trainingtask_api import names
from trainingtask_operator.cache import assume_cache
from trainingtask_operator.cache.assume_cache import AssumeCache, Observed
from trainingtask_operator.cache.store import ObjectStore
from trainingtask_operator.kube_objects import KubeEvent, Object

KEY = ("default", "t")


def item(uid: str, version: int, **metadata: Any) -> Object:
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


def job(uid: str, version: int, task: str = "task-1") -> Object:
    made = item(uid, version, labels={names.TASK_UID_LABEL: task}, ownerReferences=[{"uid": task, "controller": True}])
    made["metadata"]["annotations"] = {}
    return {**made, "kind": "Job", "status": {"conditions": []}}


def pod(uid: str, version: int, job: str = "job-1") -> Object:
    return item(uid, version, ownerReferences=[{"uid": job, "controller": True}])


def put(store: ObjectStore, key: Any, *items: Object) -> None:
    for found in items:
        store.put(key, found["metadata"]["uid"], found)


def observe(cache: AssumeCache) -> Observed:
    observed = cache.observe(*KEY)
    assert observed is not None
    return observed


@pytest.fixture
def cache() -> AssumeCache:
    cache = AssumeCache()
    put(cache.tasks, KEY, item("task-1", 10))
    return cache


def test_an_unknown_task_is_not_observed(cache: AssumeCache) -> None:
    assert cache.observe("default", "other") is None
    observed = observe(cache)
    assert (observed.job, observed.pods) == (None, [])


def test_a_created_job_is_assumed_until_the_watch_confirms_it(cache: AssumeCache) -> None:
    cache.assume(job("job-1", 20))
    observed = observe(cache)
    assert observed.job == job("job-1", 20)

    put(cache.jobs, "task-1", job("job-1", 21))
    cache.confirm(job("job-1", 21))
    observed = observe(cache)
    assert observed.job == job("job-1", 21)

    cache.jobs.remove("job-1")  # deleted: the index forgets it after its last event
    observed = observe(cache)
    assert observed.job is None


def test_an_event_older_than_an_assumed_write_is_ignored(cache: AssumeCache) -> None:
    cache.assume(item("task-1", 30))
    cache.confirm(item("task-1", 20))
    observed = observe(cache)
    assert observed.task["metadata"]["resourceVersion"] == "30"
    put(cache.tasks, KEY, item("task-1", 31))
    cache.confirm(item("task-1", 31))
    observed = observe(cache)
    assert observed.task["metadata"]["resourceVersion"] == "31"


def test_a_stale_object_is_evicted(cache: AssumeCache) -> None:
    put(cache.jobs, "task-1", job("job-1", 20))
    put(cache.pods, "task-1", pod("pod-1", 21))
    cached = cache.uids()
    assert cached == {"task-1", "job-1", "pod-1"}
    cache.evict_stale(cached - {"task-1"})
    observed = observe(cache)
    assert (observed.job, observed.pods) == (None, [])
    assert cache.uids() == {"task-1"}


def test_an_assumed_job_that_never_appears_is_evicted(cache: AssumeCache) -> None:
    cache.assume(job("job-1", 20))
    cache.evict_stale({"job-1"})
    observed = observe(cache)
    assert observed.job is None


def test_of_two_tasks_of_one_name_the_newer_is_observed(cache: AssumeCache) -> None:
    old, new = item("task-0", 5), item("task-1", 10)
    old["metadata"]["creationTimestamp"] = "2025-12-31T00:00:00Z"
    put(cache.tasks, KEY, new, old)
    observed = observe(cache)
    assert observed.task["metadata"]["uid"] == "task-1"


def test_a_label_alone_makes_no_child_of_a_task(cache: AssumeCache) -> None:
    put(
        cache.jobs,
        "task-1",
        job("job-1", 20),
        item("forged", 30, labels={names.TASK_UID_LABEL: "task-1"}),
        item("elsewhere", 31, namespace="other", ownerReferences=[{"uid": "task-1", "controller": True}]),
    )
    put(cache.pods, "task-1", pod("pod-1", 21), item("forged-pod", 22), pod("another-jobs-pod", 23, job="forged"))
    observed = observe(cache)
    assert observed.job == job("job-1", 20)
    assert observed.pods == [pod("pod-1", 21)]


def test_a_response_slower_than_the_watch_is_not_assumed(cache: AssumeCache) -> None:
    put(cache.jobs, "task-1", job("job-1", 20))
    cache.assume(job("job-1", 20))
    cache.jobs.remove("job-1")
    observed = observe(cache)
    assert observed.job is None


def test_a_task_with_the_label_of_a_job_is_not_assumed_as_a_job(cache: AssumeCache) -> None:
    cache.assume(item("forged", 30, namespace="elsewhere", labels={names.TASK_UID_LABEL: "task-1"}))
    observed = observe(cache)
    assert observed.job is None


def test_an_event_of_another_namespace_is_not_about_a_job(cache: AssumeCache) -> None:
    put(cache.jobs, "task-1", job("job-1", 20))
    event = KubeEvent("exceeded quota", 1, datetime(2026, 1, 1, tzinfo=UTC))
    cache.put_kube_event("elsewhere", "event-1", "job-1", event)
    observed = observe(cache)
    assert observed.kube_events == {}
    cache.put_kube_event("default", "event-2", "job-1", event)
    observed = observe(cache)
    assert observed.kube_events == {"job-1": event}


def test_of_a_namespaces_events_the_newest_are_kept(cache: AssumeCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assume_cache, "MAX_KUBE_EVENTS", 3)
    event = KubeEvent("m", 1, datetime(2026, 1, 1, tzinfo=UTC))
    for namespace, uids in (("other", "x"), ("default", "abcadeb")):
        for uid in uids:
            cache.put_kube_event(namespace, uid, f"regarding-{uid}", event)
    assert cache.kube_events.uids() == {"x", "d", "e", "b"}
    for namespace, uid in (("other", "x"), ("default", "d"), ("default", "unknown")):
        cache.remove_kube_event(namespace, uid)
    assert cache.kube_events.uids() == {"e", "b"}


def test_of_events_about_a_pod_the_newest_counts_that_names_a_cause(cache: AssumeCache) -> None:
    put(cache.jobs, "task-1", job("job-1", 20))
    put(cache.pods, "task-1", pod("pod-1", 21, "job-1"))
    texts = ("no such disk", "Multi-Attach error", "Unable to attach or mount volumes: timed out")
    for minute, text in enumerate(texts):
        event = KubeEvent(text, 1, datetime(2026, 1, 1, 0, minute, tzinfo=UTC))
        cache.put_kube_event("default", f"event-{minute}", "pod-1", event)
    assert observe(cache).kube_events["pod-1"].message == "Multi-Attach error"


def jobset(uid: str, version: int) -> Object:
    return {**job(uid, version), "kind": "JobSet"}


def child_job(uid: str, version: int, owner: str) -> Object:
    return {
        **job(uid, version),
        "metadata": job(uid, version)["metadata"] | {"ownerReferences": [{"uid": owner, "controller": True}]},
    }


def test_the_pods_of_a_jobset_belong_to_its_jobs(cache: AssumeCache) -> None:
    put(cache.jobsets, "task-1", jobset("set-1", 20))
    put(cache.pods, "task-1", pod("pod-1", 22, "job-1"), pod("pod-2", 23, "job-2"), pod("pod-3", 24, "other"))
    assert observe(cache).pods == [], "nothing proves yet whose they are"
    put(cache.jobs, "task-1", child_job("job-1", 21, "set-1"), child_job("job-2", 22, "set-1"))
    put(cache.jobs, "task-1", child_job("foreign", 21, "another-set"))
    refused = KubeEvent("exceeded quota", 1, datetime(2026, 1, 1, tzinfo=UTC))
    cache.kube_events.put(("default", "job-2"), "event-1", refused)
    observed = observe(cache)
    assert observed.job == jobset("set-1", 20)
    assert [found["metadata"]["uid"] for found in observed.pods] == ["pod-1", "pod-2"]
    assert observed.pod_owners == {"job-1", "job-2"}
    assert observed.missing_pod_event == refused


@pytest.mark.parametrize(
    ("owner", "reason", "taken"),
    [
        ("set-1", "DeadlineExceeded", "DeadlineExceeded"),
        ("set-1", "PodFailurePolicy", "FailJobSetFailurePolicyAction"),
        ("another-set", "DeadlineExceeded", "FailJobSetFailurePolicyAction"),
    ],
)
def test_a_jobset_that_failed_for_the_deadline_of_its_job_says_so(
    cache: AssumeCache, owner: str, reason: str, taken: str
) -> None:
    failed = {"type": "Failed", "status": "True", "reason": "FailJobSetFailurePolicyAction"}
    put(cache.jobsets, "task-1", jobset("set-1", 20) | {"status": {"conditions": [failed]}})
    child = child_job("job-1", 21, owner) | {"status": {"conditions": [failed | {"reason": reason}]}}
    put(cache.jobs, "task-1", child)
    found = observe(cache).job
    assert found is not None
    assert found["status"]["conditions"] == [failed | {"reason": taken}]


def test_a_created_jobset_is_assumed_until_the_watch_confirms_it(cache: AssumeCache) -> None:
    cache.assume(jobset("set-1", 20))
    found = observe(cache).job
    assert found is not None
    assert (found["kind"], found["metadata"]["uid"]) == ("JobSet", "set-1")
    put(cache.jobsets, "task-1", jobset("set-1", 21))
    cache.confirm(jobset("set-1", 21))
    assert observe(cache).job == jobset("set-1", 21)
    cache.evict_stale({"set-1"})
    assert observe(cache).job is None


def test_a_workload_is_known_by_its_namespace_and_its_owner(cache: AssumeCache) -> None:
    put(cache.jobs, "task-1", job("job-1", 20))
    own = item("workload-1", 21, ownerReferences=[{"uid": "job-1", "controller": True}])
    forged = item("workload-2", 22, ownerReferences=[{"uid": "job-2", "controller": True}])
    elsewhere = item("workload-3", 23, namespace="other", ownerReferences=[{"uid": "job-1", "controller": True}])
    put(cache.kueue_workloads, "task-1", own, forged, elsewhere)
    assert observe(cache).kueue_workload == own
    cache.evict_stale({"workload-1"})
    assert observe(cache).kueue_workload is None
