"""The sentences with which `helm test` ends, by the task and the history that it finds."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fake_api_server import FakeApiServer, make_kubeconfig, serve_fake_api
from support.stored_runs import NOW, make_run
from trainingtask_history.engine import open_history
from trainingtask_history.migrations.runner import migrate
from trainingtask_history.store import record
from trainingtask_operator import smoke_test
from trainingtask_operator.smoke_test import find_failure

KEY = ("ml-team", "quickstart")


def build_task(kind: str | None, message: str = "m") -> dict[str, object]:
    condition = {"type": kind, "status": "True", "reason": "R", "message": message}
    metadata = {"namespace": KEY[0], "name": KEY[1], "uid": "uid-1"}
    return {"metadata": metadata, "status": {"conditions": [condition] if kind else []}}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApiServer]:
    """Yield an API server that the kubeconfig names; nothing is waited for."""
    for limit in ("TRAINING_SECONDS", "RECORDING_SECONDS", "POLL_SECONDS"):
        monkeypatch.setattr(smoke_test, limit, 0)
    with serve_fake_api() as server:
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(json.dumps(make_kubeconfig(server.url, "token")))
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield server


@pytest.fixture
def history(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/history.db"
    engine = open_history(url)
    migrate(engine)
    engine.dispose()
    return url


async def test_a_task_with_its_row_is_as_it_should_be(api: FakeApiServer, history: str) -> None:
    api.tasks[KEY] = build_task("Complete")
    engine = open_history(history)
    record(engine, make_run(status="Succeeded", finish_time=NOW))
    engine.dispose()
    assert await find_failure(*KEY, history) is None
    assert await find_failure(*KEY, None) is None


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        (build_task("Complete"), "the history has no final row of TrainingTask ml-team/quickstart after 0 s"),
        (build_task("Failed", "x is too large"), "ml-team/quickstart has not succeeded: R: x is too large"),
        (build_task("Accepted", "waits"), "ml-team/quickstart has not succeeded: R: waits"),
        (build_task(None), "no operator has seen it"),
        (None, "TrainingTask ml-team/quickstart cannot be read"),
    ],
)
async def test_a_failure_is_told_in_a_sentence(
    api: FakeApiServer, history: str, task: dict[str, object] | None, sentence: str
) -> None:
    if task is not None:
        api.tasks[KEY] = task
    assert sentence in str(await find_failure(*KEY, history))


async def test_a_history_that_is_away_is_named(api: FakeApiServer) -> None:
    api.tasks[KEY] = build_task("Complete")
    failure = await find_failure(*KEY, "postgresql://user:hunter2@127.0.0.1:1/db")
    assert "'db' at 127.0.0.1:1 did not answer" in str(failure)
    assert "hunter2" not in str(failure)
