"""`kubectl trainingtask` from a csv on this machine to predictions, through pods under the restricted standard."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.kubectl import Kubectl, eventually
from support.plugin import Cli, get_output, write_kubeconfig

CLAIM = "cli-data"
TASK = "cli-table"
TICKETS = Path(__file__).parents[2] / "examples" / "data" / "tickets.csv"
TEXTS = ("My card was charged twice", "I cannot log in since the update")
FLAGS = (
    "--dataset=table",
    "--model=logistic_regression",
    f"--set=dataset.volumeClaim={CLAIM}",
    "--set=dataset.path=tables/tickets.csv",
    '--set=dataset.columns={text: body, labels: topics, delimiter: "|"}',
    f"--set=output.volumeClaim={CLAIM}",
    "--set=resources.cpu=500m",
)


def list_helper_pods(kubectl: Kubectl) -> list[dict[str, Any]]:
    return kubectl.find("pods", "app.kubernetes.io/managed-by=kubectl-trainingtask")


@pytest.fixture(scope="module")
def trained(cli: Cli, kubectl: Kubectl) -> Iterator[str]:
    """Upload a csv into a new claim and train on it; yield the task's name."""
    kubectl("delete", "trainingtask", TASK, "--ignore-not-found")
    kubectl("delete", "persistentvolumeclaim", CLAIM, "--ignore-not-found")
    uploaded = get_output(cli("upload", str(TICKETS), f"--claim={CLAIM}", "--create=1Gi", "--path=tables"))
    assert uploaded.splitlines()[-1] == f"dataset: {{volumeClaim: {CLAIM}, path: tables/tickets.csv}}"
    get_output(cli("submit", f"--name={TASK}", *FLAGS))
    kubectl.wait(TASK, "Complete")
    yield TASK
    kubectl("delete", "trainingtask", TASK, "--wait=false")
    kubectl("delete", "persistentvolumeclaim", CLAIM, "--wait=false")


def test_a_downloaded_model_predicts_as_the_one_in_the_claim(
    cli: Cli, kubectl: Kubectl, trained: str, tmp_path: Path
) -> None:
    there = json.loads(get_output(cli("predict", trained, *TEXTS, "-o", "json")))
    assert [prediction["text"] for prediction in there] == list(TEXTS)
    assert "billing" in [found["label"] for found in there[0]["labels"]]
    get_output(cli("download", trained, folder=tmp_path))
    command = [sys.executable, "-P", "-m", "trainingtask_trainer", "predict", str(tmp_path / trained), *TEXTS, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    here = [json.loads(line) for line in done.stdout.splitlines()]
    assert [prediction["labels"] for prediction in here] == [
        [{**found, "probability": pytest.approx(found["probability"])} for found in prediction["labels"]]
        for prediction in there
    ]
    assert cli("download", trained, folder=tmp_path).returncode == 1
    eventually("no helper pods", lambda: not list_helper_pods(kubectl))


def test_folders_of_any_depth_and_size_arrive(cli: Cli, kubectl: Kubectl, trained: str, tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    (folder / "parts" / "of a table").mkdir(parents=True)
    (folder / "parts" / "of a table" / "ä.csv").write_text("text\n")
    (folder / "large.bin").write_bytes(bytes(range(256)) * 200_000)
    assert get_output(cli("upload", str(folder), f"--claim={CLAIM}")).startswith("2 files (49 MiB)")
    # What was there stays.
    get_output(cli("retry", trained))
    try:
        kubectl.wait(f"{trained}-2", "Complete")
    finally:
        kubectl("delete", "trainingtask", f"{trained}-2", "--wait=false")


def test_a_missing_claim_and_a_missing_model_are_told(cli: Cli, kubectl: Kubectl, trained: str) -> None:
    missing = cli("upload", str(TICKETS), "--claim=no-such-claim")
    assert missing.returncode == 1
    assert 'persistentvolumeclaims "no-such-claim" not found' in missing.stderr
    assert "add --create" in missing.stderr
    gone = cli("submit", "--name=cli-never", *FLAGS, "--set=runPolicy.suspend=true")
    try:
        get_output(gone)
        eventually("Suspended", lambda: kubectl.condition("cli-never", "Suspended").get("status") == "True")
        assert "cli-never has no model yet. SuspendedByUser" in cli("predict", "cli-never", "a text").stderr
    finally:
        kubectl("delete", "trainingtask", "cli-never", "--wait=false")


def test_a_pod_that_cannot_be_scheduled_is_explained_and_deleted(cli: Cli, kubectl: Kubectl) -> None:
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
        "storageClassName": "no-such-class",
    }
    kubectl.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "unbound"}, "spec": spec})
    try:
        run = cli("upload", str(TICKETS), "--claim=unbound", "--timeout=20")
        assert (run.returncode, run.stdout) == (1, "")
        assert "has not started within 20 s. Unschedulable: " in run.stderr
        assert "PersistentVolumeClaim" in run.stderr
        eventually("no helper pods", lambda: not list_helper_pods(kubectl))
    finally:
        kubectl("delete", "persistentvolumeclaim", "unbound", "--wait=false")


def test_the_right_to_edit_suffices_and_to_view_does_not(
    cli: Cli, kubectl: Kubectl, trained: str, tmp_path: Path
) -> None:
    for role in ("edit", "view"):
        account = f"cli-{role}"
        subject = {"kind": "ServiceAccount", "name": account, "namespace": kubectl.namespace}
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
        kubectl.apply(
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}},
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "RoleBinding",
                "metadata": {"name": account},
                "roleRef": reference,
                "subjects": [subject],
            },
        )
        kubeconfig = write_kubeconfig(kubectl, kubectl("create", "token", account).strip(), tmp_path)
        run = cli("upload", str(TICKETS), f"--claim={CLAIM}", f"--kubeconfig={kubeconfig}")
        if role == "edit":
            get_output(run)
        else:
            assert run.returncode == 1
            assert 'cannot create resource "pods"' in run.stderr
            assert "ask whoever runs the cluster for that right" in run.stderr
