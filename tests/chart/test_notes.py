"""What helm prints after an installation."""

import pytest
import yaml

from support.helm import CHART, helm
from trainingtask_api import TrainingTask


def get_notes(namespace: str, *options: str) -> str:
    done = helm("install", "tt", str(CHART), "--dry-run=client", f"--namespace={namespace}", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("NOTES:")[2]


def test_the_notes_show_a_valid_task() -> None:
    notes = get_notes("ops")
    task = notes.partition("<<END\n")[2].partition("  END")[0]
    assert TrainingTask.model_validate(yaml.safe_load(task)).spec.dataset.name == "support_tickets"
    assert "kubectl get trainingtasks -n default -w" in notes


@pytest.mark.parametrize(("namespace", "warned"), [("ops", False), ("default", True)])
def test_the_notes_warn_of_tasks_beside_the_secrets(namespace: str, warned: bool) -> None:
    assert (f"WARNING: tasks run in {namespace}, where this release has its Secrets" in get_notes(namespace)) is warned
