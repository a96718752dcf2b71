"""The installed operator's probes, metrics and log."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from support.kubectl import Kubectl, eventually
from support.release import OPERATOR
from trainingtask_operator.health import HEALTH_PORT, METRICS_PORT

ROOT = Path(__file__).parents[2]


def get(system: Kubectl, port: int, path: str) -> str:
    """Return a response of the operator's pod, through the API server."""
    (pod,) = system.find("pods", "app.kubernetes.io/component=operator")
    name = pod["metadata"]["name"]
    return system("get", "--raw", f"/api/v1/namespaces/{system.namespace}/pods/{name}:{port}/proxy{path}")


@pytest.fixture(scope="module")
def trained_task(kubectl: Kubectl) -> str:
    """Train a task, also when another test has: the operator may have started since; return its name."""
    kubectl("delete", "trainingtask", "quickstart", "--ignore-not-found")
    kubectl("apply", "-f", str(ROOT / "examples" / "quickstart.yaml"))
    kubectl.wait("quickstart", "Complete")
    return "quickstart"


def test_the_probes_answer(system: Kubectl) -> None:
    assert get(system, HEALTH_PORT, "/healthz") == "ok\n"
    assert get(system, HEALTH_PORT, "/readyz") == "leader\n"


def test_the_metrics_cover_a_task(system: Kubectl, trained_task: str) -> None:
    found = dict(re.findall(r"^trainingtask_(\S+) (\S+)$", get(system, METRICS_PORT, "/metrics"), re.MULTILINE))
    for metric, least in {
        'tasks{state="Succeeded"}': 1,
        "reconcile_seconds_count": 3,
        "create_to_job_seconds_count": 1,
        "pod_running_to_status_seconds_count": 1,
        'api_requests_total{code="201",resource="jobs",verb="POST"}': 1,
        'api_requests_total{code="200",resource="trainingtasks/status",verb="PATCH"}': 3,
        "leader": 1,
    }.items():
        assert float(found[metric]) >= least, metric
    # Far less than 300 s, the interval of the resync, which would find what the watches miss.
    assert float(found["create_to_job_seconds_sum"]) / float(found["create_to_job_seconds_count"]) < 60
    assert float(found["queue_age_seconds"]) < 60
    assert {"queue_depth", "history_backlog_rows"} <= found.keys()
    assert 'reconcile_errors_total{kind="defect"}' not in found


def test_the_log_is_json_and_mentions_a_task(kubectl: Kubectl, system: Kubectl, trained_task: str) -> None:
    uid = kubectl.get("trainingtask", trained_task)["metadata"]["uid"]

    def find_lines() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in system("logs", OPERATOR).splitlines()]
        return [line for line in lines if line.get("uid") == uid]

    last = eventually("a line about the task", find_lines)[-1]
    assert (last["namespace"], last["task"], last["attempt"]) == (kubectl.namespace, trained_task, 1)
    assert "Succeeded" in last["message"]
