"""kubectl, and polling for conditions."""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

Manifest = dict[str, Any]
Value = TypeVar("Value")

POLL_SECONDS = 0.3
WAIT_SECONDS = 300
# What an API server says, or a client of it, on a machine that stalls for some seconds, and the commands to repeat then.
STALLED = re.compile(r"TLS handshake timeout|etcdserver: request timed out|failed calling webhook")
REPEATABLE = {"get", "apply", "patch", "delete", "wait", "scale", "rollout"}


class Refused(AssertionError):
    """kubectl ended with an error; the message is its standard error."""


def run(*command: str, stdin: str | None = None, timeout: float = 300) -> str:
    done = _execute(command, stdin, timeout)
    for _ in range(3):
        if done.returncode == 0 or REPEATABLE.isdisjoint(command) or not STALLED.search(done.stderr):
            break
        done = _execute(command, stdin, timeout)
    if done.returncode != 0:
        raise Refused(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _execute(command: Sequence[str], stdin: str | None, timeout: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)


def eventually(what: str, check: Callable[[], Value | None], timeout: float = WAIT_SECONDS) -> Value:
    """Return the first true value of `check`; fail with `what` and the last value after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what} (last: {value!r})")
        time.sleep(POLL_SECONDS)


@contextmanager
def forward_port(namespace: str, target: str, port: int) -> Iterator[int]:
    """Forward a free local port to a Service or pod; yield the port."""
    command = ["kubectl", "port-forward", f"--namespace={namespace}", target, f":{port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forward:
        assert forward.stdout is not None
        try:
            found = re.search(r"127\.0\.0\.1:(\d+)", forward.stdout.readline())
            assert found, "kubectl port-forward printed no port"
            yield int(found[1])
        finally:
            forward.terminate()


class Kubectl:
    """kubectl in one namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = 300) -> str:
        return run("kubectl", f"--namespace={self.namespace}", *arguments, stdin=stdin, timeout=timeout)

    def apply(self, *manifests: Manifest) -> str:
        return self(
            "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})
        )

    def get(self, kind: str, name: str) -> Manifest:
        found: Manifest = json.loads(self("get", kind, name, "--output=json"))
        return found

    def find(self, kind: str, selector: str = "") -> list[Manifest]:
        found: list[Manifest] = json.loads(self("get", kind, f"--selector={selector}", "--output=json"))["items"]
        return found

    def get_node_address(self) -> str:
        """Return the address of a node; on the local cluster pods reach this machine at it."""
        addresses = [address for node in self.find("nodes") for address in node["status"].get("addresses", [])]
        return str(next(address["address"] for address in addresses if address["type"] == "InternalIP"))

    def status(self, name: str) -> Manifest:
        status: Manifest = self.get("trainingtask", name).get("status", {})
        return status

    def condition(self, name: str, kind: str) -> Manifest:
        """Return the condition of a task, {} while there is none."""
        conditions: list[Manifest] = self.status(name).get("conditions", [])
        return next((condition for condition in conditions if condition["type"] == kind), {})

    def wait(self, name: str, condition: str, timeout: int = WAIT_SECONDS) -> None:
        """Wait for a condition of a task; fail with the description of the task."""
        try:
            self(
                "wait",
                f"trainingtask/{name}",
                f"--for=condition={condition}",
                f"--timeout={timeout}s",
                timeout=timeout + 10,
            )
        except Refused as error:
            raise AssertionError(f"{error}\n{self('describe', 'trainingtask', name)}") from error

    def pods(self, task: str) -> list[Manifest]:
        return self.find("pods", f"trainingtask.dev/task-name={task}")

    def jobs(self, task: str) -> list[Manifest]:
        return self.find("jobs", f"trainingtask.dev/task-name={task}")

    def wait_for_step(self, name: str, least: int) -> int:
        """Wait until the training of a task has reached a step; return its step."""

        def reached() -> int | None:
            step: int = self.status(name).get("training", {}).get("step", 0)
            return step if step >= least else None

        return eventually(f"step {least} of {name}", reached)

    def wait_for_training(self, name: str, timeout: float = WAIT_SECONDS) -> None:
        """Wait until the trainer of a task is training; fail at once when the task has failed."""

        def phase() -> bool:
            status = self.status(name)
            assert status.get("state") != "Failed", status
            return bool(status.get("training", {}).get("phase") == "Training")

        eventually(f"{name} trains", phase, timeout)
