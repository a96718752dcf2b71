"""A task on two nodes, seen through its pods."""

import contextlib
import json
from typing import Any

import psutil

from support.kubectl import Kubectl, Manifest, eventually
from trainingtask_api import names

START_SECONDS = 480.0  # two pods import torch on the cores of a small machine


class Group:
    """A task on two nodes.

    Parameters
    ----------
    kubectl
        In the task's namespace.
    name
        Of the task.
    """

    def __init__(self, kubectl: Kubectl, name: str) -> None:
        self.kubectl = kubectl
        self.name = name

    def get_jobset(self) -> Manifest:
        (jobset,) = self.kubectl.find("jobsets", f"{names.TASK_NAME_LABEL}={self.name}")
        return jobset

    def get_attempts(self) -> list[dict[str, Any]]:
        attempts: list[dict[str, Any]] = self.kubectl.status(self.name).get("attempts", [])
        return attempts

    def get_pods(self, attempt: int) -> dict[int, Manifest]:
        """Return the pods of an attempt by their index."""
        return {
            int(pod["metadata"]["annotations"][names.NODE_RANK_ANNOTATION]): pod
            for pod in self.kubectl.pods(self.name)
            if int(pod["metadata"]["annotations"][names.RESTART_COUNT_ANNOTATION]) == attempt - 1
        }

    def wait_for_attempt(self, number: int) -> dict[int, str]:
        """Wait until an attempt trains; return the names of its pods by their index."""

        def trains() -> bool:
            status = self.kubectl.status(self.name)
            assert status.get("state") != "Failed", status
            training = status.get("training", {})
            return bool(training.get("attempt") == number and training.get("phase") == "Training")

        eventually(f"attempt {number} of {self.name} trains", trains, START_SECONDS)
        return {index: pod["metadata"]["name"] for index, pod in self.get_pods(number).items()}

    def wait_for_steps(self, more: int = 7) -> int:
        """Wait for more steps than there are between two checkpoints; return the step."""
        reached = self.kubectl.status(self.name)["training"].get("step", 0)
        return self.kubectl.wait_for_step(self.name, reached + more)

    def wait_for_resume(self, step: int) -> None:
        """Wait until the task has resumed from this step or a later one."""

        def has_resumed() -> bool:
            return int(self.kubectl.status(self.name)["training"].get("resumedFromStep", 0)) >= step

        eventually(f"{self.name} resumes from step {step}", has_resumed, START_SECONDS)

    def evict(self, pod: str) -> None:
        """Evict a pod as `kubectl drain` does."""
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
        path = f"/api/v1/namespaces/{self.kubectl.namespace}/pods/{pod}/eviction"
        self.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))

    def set_suspend(self, value: bool) -> None:
        patch = json.dumps({"spec": {"runPolicy": {"suspend": value}}})
        self.kubectl("patch", "trainingtask", self.name, "--type=merge", "--patch", patch)


def kill_worker(pod: str) -> None:
    """SIGKILL the process that trains in a pod, not the launcher that started it."""
    workers = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it has ended, or belongs to the kernel
            environment = process.environ()
            if environment.get(names.ENV_POD_NAME) == pod and "RANK" in environment:
                workers.append(process)
    assert workers
    for process in workers:
        process.kill()
