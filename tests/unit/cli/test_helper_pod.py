"""A helper pod that does not start is explained and deleted."""

import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support.fake_kubectl import FakeKubectl, get_created_pods, get_sentence, list_pods

Cli = Callable[..., Any]


@pytest.fixture(autouse=True)
def _poll_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainingtask_cli.helper_pod._POLL_SECONDS", 0)


class TestWaiting:
    """A pod that does not start is explained and deleted."""

    @pytest.fixture
    def upload(self, cli: Cli, kubectl: FakeKubectl, tmp_path: Path) -> Callable[[], Any]:
        (tmp_path / "a.csv").write_text("a")
        return lambda: cli("upload", "a.csv", "--claim=data", "--timeout=1")

    def test_no_node_has_room(self, upload: Callable[[], Any], server: Any) -> None:
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes fit"}
        server.new_pod_status = {"phase": "Pending", "conditions": [condition]}
        result = upload()
        sentence = get_sentence(result)
        assert "has not started within 1 s. Unschedulable: 0/3 nodes fit (--timeout waits longer" in sentence
        assert [line for line in result.stderr.splitlines() if line.startswith("waiting for pod")] == [
            f"waiting for pod {get_created_pods(server)[0]['metadata']['name']}: Unschedulable: 0/3 nodes fit"
        ]
        assert list_pods(server) == []

    def test_another_node_uses_the_claim(self, upload: Callable[[], Any], server: Any) -> None:
        waiting = {"name": "helper", "state": {"waiting": {"reason": "ContainerCreating"}}}
        server.new_pod_status = {"phase": "Pending", "containerStatuses": [waiting]}
        server.events = [
            {"type": "Warning", "reason": "FailedMount", "message": "older", "lastTimestamp": "2026-05-04T10:00:00Z"},
            {
                "type": "Warning",
                "reason": "FailedAttachVolume",
                "message": "Volume is already used by pod(s) x",
                "lastTimestamp": "2026-05-04T10:01:00Z",
            },
            {"type": "Normal", "reason": "Scheduled", "message": "n", "lastTimestamp": "2026-05-04T10:02:00Z"},
        ]
        assert "FailedAttachVolume: Volume is already used by pod(s) x" in get_sentence(upload())

    def test_an_image_that_cannot_be_pulled(self, upload: Callable[[], Any], server: Any) -> None:
        waiting = {"name": "helper", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
        server.new_pod_status = {"phase": "Pending", "containerStatuses": [waiting]}
        assert get_sentence(upload()).endswith("cannot start. ImagePullBackOff: no such image")

    def test_a_pod_that_ended(self, upload: Callable[[], Any], server: Any) -> None:
        server.new_pod_status = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."}
        assert get_sentence(upload()).endswith("has ended before it was used: The node was low on memory.")

    def test_a_refused_pod(self, upload: Callable[[], Any], server: Any, make: SimpleNamespace) -> None:
        forbidden = make.status(403, "Forbidden", "pods is forbidden: exceeded quota")
        server.respond = lambda method, path: (403, forbidden) if method == "POST" else None
        assert get_sentence(upload()).startswith("pods is forbidden: exceeded quota: ask whoever runs the cluster")


def test_ctrl_c_deletes_the_pod(kubeconfig: Path, server: Any, kubectl: FakeKubectl, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a")
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no room"}
    server.new_pod_status = {"phase": "Pending", "conditions": [condition]}
    # A shell's background processes ignore the signal, and this child would inherit that.
    foreground = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        [sys.executable, "-m", "trainingtask_cli", "upload", "a.csv", "--claim=data"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=foreground,  # noqa: PLW1509 - sets a signal, no more
    ) as uploading:
        assert uploading.stderr is not None
        assert uploading.stderr.readline().startswith("starting pod")
        assert uploading.stderr.readline().startswith("waiting for pod")
        uploading.send_signal(signal.SIGINT)
        uploading.communicate(timeout=120)
    assert uploading.returncode not in (0, None)
    assert len(get_created_pods(server)) == 1
    assert list_pods(server) == []
