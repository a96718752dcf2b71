"""Edits of a status or of a Job's labels by a person: repaired or reported, without effect on other tasks."""

from typing import Any

import pytest

from support.task_namespace import JOBS, RUNS, SUCCEEDS, TASKS, TaskNamespace, eventually, get_owner_uid, get_state
from trainingtask_api import names

PERSON = {"fieldManager": "a-person"}
LONG_AGO = "1999-12-31T23:59:59Z"


def make_condition(kind: str, status: str, reason: str = "Nonsense") -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": "?", "lastTransitionTime": LONG_AGO}


GARBAGE: dict[str, dict[str, Any]] = {
    "state": {"state": "Banana", "reason": "Fruit"},
    "no-conditions": {"conditions": []},
    "contradictions": {"conditions": [make_condition("Running", "False"), make_condition("Suspended", "True")]},
    "unknown-conditions": {"conditions": [make_condition(f"Kind{n}", "Unknown") for n in range(8)]},
    "another-job": {"jobName": "another-tasks"},
    "an-attempt-of-another": {"attempt": 7, "attempts": [{"number": 7, "pod": "no-such-pod", "reason": "Nonsense"}]},
    "attempts-from-nowhere": {"attempt": -3, "attempts": [{"number": 0}, {"number": -3}, {"number": 2**31 - 1}]},
    "attempts-twice": {"attempts": [{"number": 1}, {"number": 1, "reason": "Nonsense"}]},
    "times": {"startTime": "9999-12-31T23:59:59Z", "completionTime": LONG_AGO},
    "a-report": {"training": {"attempt": 99, "phase": "Done", "finishTime": LONG_AGO}},
    "everything": {"state": "", "node": "nowhere", "observedGeneration": -1, "progressStale": True, "attempts": []},
    "nothing": {},
}


async def assert_others_run(namespace: TaskNamespace, name: str = "other") -> None:
    """Assert that an unrelated task runs to its end."""
    await namespace.create(name, SUCCEEDS)
    await namespace.wait_for_state(name, "Succeeded")


async def test_garbage_in_a_status(namespace: TaskNamespace, history: str) -> None:
    """In that of a running task, which must still succeed, with the operator restarted in between."""
    async with namespace.operator(history=history) as operator:
        for name in GARBAGE:
            await namespace.create(name, RUNS)
        for name in GARBAGE:
            await namespace.wait_for_state(name, "Running")
        await operator.kill()
        for name, garbage in GARBAGE.items():
            await namespace.patch(TASKS, names.PLURAL, f"{name}/status", {"status": garbage}, **PERSON)
        await operator.start()
        await operator.wait_until_ready()
        await assert_others_run(namespace)
        # And once more while the operator runs.
        for name, garbage in GARBAGE.items():
            await namespace.patch(TASKS, names.PLURAL, f"{name}/status", {"status": garbage}, **PERSON)
        for name in GARBAGE:
            await namespace.finish_trainer(name)
        tasks = await namespace.wait_for_finished_tasks()
        assert {name: get_state(task) for name, task in tasks.items()} == dict.fromkeys(
            [*GARBAGE, "other"], "Succeeded"
        )
        namespace.assert_writes(tasks)
        jobs = {get_owner_uid(job): job["metadata"]["name"] for job in await namespace.list_jobs()}
        assert {t["status"]["jobName"] for t in tasks.values()} == set(jobs.values()), "each has its own Job again"
        assert not operator.find_defects()
        assert not operator.unexpected_exits


LABELS: dict[str, dict[str, Any]] = {
    "no-labels": {names.TASK_UID_LABEL: None, names.TASK_NAME_LABEL: None},
    "no-uid": {names.TASK_UID_LABEL: None},
    "another-uid": {names.TASK_UID_LABEL: "not-a-uid"},
    "another-name": {names.TASK_NAME_LABEL: "another"},
}


@pytest.mark.parametrize("when", ["while it runs", pytest.param("while it is down", marks=pytest.mark.full)])
async def test_garbage_in_the_labels_of_a_job(namespace: TaskNamespace, history: str, when: str) -> None:
    async with namespace.operator(history=history) as operator:
        await namespace.create("victim", RUNS)
        for name in LABELS:
            await namespace.create(name, RUNS)
        for name in (*LABELS, "victim"):
            await namespace.wait_for_state(name, "Running")
        victim = (await namespace.get_task("victim"))["metadata"]["uid"]
        if when == "while it is down":
            await operator.kill()
        for name, labels in {**LABELS, "no-uid": {names.TASK_UID_LABEL: victim}}.items():
            job = (await namespace.get_job(name))["metadata"]["name"]
            await namespace.patch(JOBS, "jobs", job, {"metadata": {"labels": labels}}, **PERSON)
        if when == "while it is down":
            await operator.start()
            await operator.wait_until_ready()
        await assert_others_run(namespace)
        for name in LABELS:
            await namespace.finish_trainer(name)
        for name in LABELS:
            await namespace.wait_for_state(name, "Succeeded")
        assert get_state(await namespace.get_task("victim")) == "Running", "another task's Job has no effect"
        await namespace.finish_trainer("victim")
        await namespace.wait_for_state("victim", "Succeeded")
        namespace.assert_writes(await namespace.list_tasks())
        assert not operator.find_defects()
        assert not operator.unexpected_exits


@pytest.mark.full
async def test_job_of_a_person_with_the_labels_of_a_task(namespace: TaskNamespace, history: str) -> None:
    """It has the labels of a task and no owner: it is left alone, and has no effect on the task."""
    async with namespace.operator(history=history) as operator:
        await namespace.create("task", RUNS)
        task = await namespace.wait_for_state("task", "Running")
        labels = {names.TASK_UID_LABEL: task["metadata"]["uid"], names.TASK_NAME_LABEL: "task"}
        pod = {"restartPolicy": "Never", "containers": [{"name": "trainer", "image": SUCCEEDS}]}
        job = {
            "metadata": {"name": "impostor", "labels": labels},
            "spec": {
                "completionMode": "Indexed",
                "completions": 1,
                "parallelism": 1,
                "backoffLimitPerIndex": 0,
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        }
        await namespace.api.request("POST", f"{JOBS}/namespaces/{namespace.name}/jobs", job)

        async def impostor_ended() -> bool:
            found = [j for j in await namespace.list_jobs() if j["metadata"]["name"] == "impostor"]
            return bool(found and found[0].get("status", {}).get("conditions"))

        await eventually("the impostor has ended", impostor_ended)
        await assert_others_run(namespace)
        assert get_state(await namespace.get_task("task")) == "Running"
        tasks = await namespace.list_tasks()
        namespace.assert_writes(tasks)
        assert not operator.find_defects()
        assert not operator.unexpected_exits
