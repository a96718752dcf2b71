"""The chart installed under another release name than before: what the uninstall left belongs to the former release."""

import json
from collections.abc import Iterator

import pytest

from support import specs
from support.control_plane import ControlPlane
from support.helm import CHART
from support.kubectl import Kubectl, Refused, run
from trainingtask_api import names

CRD = "trainingtasks.trainingtask.dev"
FORMER, LATER = "former", "later"
OPTIONS = ("--set=history.mode=none", "--set=trainer.namespaces={default}")
TASKS = Kubectl("default")


@pytest.fixture
def task(plane: ControlPlane) -> Iterator[str]:
    """The uid of a task that was there before the former release was uninstalled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(plane.kubeconfig()))
        # The session's CRD is of no release.
        install(FORMER, "--take-ownership")
        TASKS("create", "-f", "-", stdin=json.dumps(specs.task("kept", specs.CLASSICAL)))
        run("helm", "uninstall", FORMER, f"--namespace={FORMER}")
        yield TASKS.get("trainingtask", "kept")["metadata"]["uid"]
        run("helm", "uninstall", LATER, f"--namespace={LATER}")
        TASKS("delete", "trainingtask", "kept")


def install(release: str, *options: str) -> None:
    run("helm", "install", release, str(CHART), f"--namespace={release}", "--create-namespace", *OPTIONS, *options)


def test_a_release_of_another_name_takes_over_what_is_left(task: str) -> None:
    with pytest.raises(Refused, match=f"invalid ownership metadata.*must equal \"{LATER}\": current value is \"{FORMER}\""):  # fmt: skip
        install(LATER)
    install(LATER, "--take-ownership")
    assert TASKS.get("trainingtask", "kept")["metadata"]["uid"] == task


def test_what_is_left_can_be_handed_over_by_hand(task: str) -> None:
    owner = (f"meta.helm.sh/release-name={LATER}", f"meta.helm.sh/release-namespace={LATER}")
    for item in (f"crd/{CRD}", f"serviceaccount/{names.TRAINER_SERVICE_ACCOUNT}"):
        TASKS("annotate", "--overwrite", item, *owner)
        TASKS("label", "--overwrite", item, "app.kubernetes.io/managed-by=Helm")
    install(LATER)
    assert TASKS.get("trainingtask", "kept")["metadata"]["uid"] == task
