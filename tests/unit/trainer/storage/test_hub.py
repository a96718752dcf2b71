"""Errors and outages of a hub on this machine, as the real client sees them."""

from collections.abc import Iterator
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from support.hub_server import Hub
from trainingtask_api.model import Model
from trainingtask_api.status import Source
from trainingtask_trainer.errors import Fault, UserError
from trainingtask_trainer.pretrained.checkpoint import fetch_checkpoint
from trainingtask_trainer.reporting.background import DeliveryError
from trainingtask_trainer.reporting.reporter import Reporter
from trainingtask_trainer.storage import hub_client
from trainingtask_trainer.storage.hub import Repository, download_checkpoint, resolve_revision
from trainingtask_trainer.storage.observer import observe_downloads

MODEL = Repository("model.checkpoint", "someone/model")
WEIGHTS = {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"weights", "run.py": b"raise SystemExit"}


def download(revision: str = "main") -> Path:
    return download_checkpoint(MODEL, revision)


@pytest.fixture
def reporter() -> Iterator[Reporter]:
    """Return what a run would report."""
    reporter = Reporter([])
    with observe_downloads(reporter):
        yield reporter


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let waiting take no time; return how long the client would have waited."""
    slept: list[float] = []
    monkeypatch.setattr(hub_client.time, "sleep", slept.append)
    monkeypatch.setattr(hub_client.time, "monotonic", lambda: sum(slept))
    return slept


@pytest.mark.parametrize(
    ("status", "code", "sentence"),
    [
        (404, "RepoNotFound", "does not exist on the hub, or is private and HF_TOKEN is missing"),
        (403, "GatedRepo", "is gated: ask for access on the hub"),
        (403, "", "the hub refuses access, check the HF_TOKEN in spec.env"),
        (404, "RevisionNotFound", "the hub knows no such revision"),
    ],
)
def test_a_refusal_of_the_hub_is_a_mistake(hub: Hub, tmp_path: Path, status: int, code: str, sentence: str) -> None:
    hub.troubles = [(status, {"X-Error-Code": code})] * 3
    with pytest.raises(UserError, match=f"checkpoint 'someone/model' at revision 'main'.*{sentence}") as caught:
        fetch_checkpoint(Model(name="bert", checkpoint="someone/model"), tmp_path)
    assert caught.value.reason == "ModelUnavailable"


def test_a_checkpoint_is_downloaded_without_code(hub: Hub) -> None:
    hub.add("models/someone/model", WEIGHTS)
    folder = download()
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_a_gated_model_needs_the_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("models/someone/model", WEIGHTS, is_gated=True, token="secret")
    with pytest.raises(UserError, match=r"is gated: ask for access on the hub and pass HF_TOKEN through spec.env"):
        download()
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert (download() / "config.json").is_file()


def test_the_client_waits_as_long_as_the_hub_asks(hub: Hub, pauses: list[float]) -> None:
    repository = hub.add("models/someone/model", WEIGHTS)
    hub.troubles = [(429, {"Retry-After": "7"}), (503, {}), (502, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"})]
    assert resolve_revision(MODEL, "main") == repository.main
    assert pauses == [7, 2, 4]


def test_an_outage_without_a_cache_is_a_fault_that_tells_the_wait(hub: Hub, pauses: list[float]) -> None:
    hub.outage = 503
    with pytest.raises(Fault, match=r"'someone/model'.* \(tried for 15 s, the last answer: HTTP 503\); .*needs no hub"):
        resolve_revision(MODEL, "main")
    before = len(pauses)
    with pytest.raises(Fault, match=r"tried for 0 s") as caught:  # the wait is over for all that is asked later
        download()
    assert caught.value.reason == "HubUnavailable"
    assert len(pauses) == before


def test_a_hub_that_came_back_is_waited_for_again(hub: Hub, pauses: list[float]) -> None:
    repository = hub.add("models/someone/model", WEIGHTS)
    hub.outage = 503
    with pytest.raises(Fault):
        resolve_revision(MODEL, "main")
    hub.outage = None
    assert resolve_revision(MODEL, "main") == repository.main
    pauses.clear()
    hub.troubles = [(503, {})]
    assert resolve_revision(MODEL, "main") == repository.main
    assert pauses == [1]


def test_a_date_is_waited_for_as_well(hub: Hub, pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_client, "MAX_WAIT", 300.0)
    repository = hub.add("models/someone/model", WEIGHTS)
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=200), usegmt=True)
    hub.troubles = [(429, {"Retry-After": date})]
    assert resolve_revision(MODEL, "main") == repository.main
    assert pauses == [pytest.approx(200, abs=100)]


def test_a_wait_beyond_the_limit_is_not_begun(hub: Hub, pauses: list[float]) -> None:
    hub.troubles = [(429, {"Retry-After": "86400"})]
    with pytest.raises(Fault, match=r"the last answer: HTTP 429"):
        resolve_revision(MODEL, "main")
    assert pauses == []


@pytest.mark.usefixtures("pauses")
def test_in_an_outage_the_cache_is_used_and_its_commit_named(hub: Hub) -> None:
    commit = hub.add("models/someone/model", WEIGHTS).main
    folder = download()
    hub.outage = 500
    reporter = Reporter([])
    with observe_downloads(reporter):
        assert resolve_revision(MODEL, "main") == commit
    assert reporter.warnings == [
        f"the hub did not answer for checkpoint 'someone/model' at revision 'main': commit {commit} of the cache was taken"
    ]
    assert download() == download(commit) == folder


def test_a_commit_in_the_cache_needs_no_hub(hub: Hub) -> None:
    commit = hub.add("models/someone/model", WEIGHTS).main
    download(commit)
    hub.requests.clear()
    assert resolve_revision(MODEL, commit) == commit
    download(commit)
    assert hub.requests == []


def test_a_run_asks_once_for_a_commit_and_reports_it(hub: Hub, reporter: Reporter) -> None:
    repository = hub.add("models/someone/model", WEIGHTS)
    first = resolve_revision(MODEL, "main")
    repository.commit({"config.json": b"{}"})
    assert resolve_revision(MODEL, "main") == first
    assert (download() / "model.safetensors").is_file()
    assert reporter.report.sources == [Source(field="model.checkpoint", address="someone/model", commit=first)]


def test_a_later_attempt_takes_the_commit_of_the_first(hub: Hub, reporter: Reporter) -> None:
    repository = hub.add("models/someone/model", WEIGHTS)
    first = repository.main
    repository.commit({"config.json": b"{}"})
    reporter.earlier_sources = Future()
    reporter.earlier_sources.set_result(
        [
            Source(field="preprocessor.checkpoint", address="someone/model", commit="1" * 40),
            Source(field="model.checkpoint", address="someone/other", commit="2" * 40),
            Source(field="model.checkpoint", address="someone/model", commit=first),
        ]
    )
    assert resolve_revision(MODEL, "main") == first


def test_commits_that_are_not_known_are_resolved_anew(hub: Hub, reporter: Reporter) -> None:
    repository = hub.add("models/someone/model", WEIGHTS)
    reporter.earlier_sources = Future()
    reporter.earlier_sources.set_exception(DeliveryError("403 Forbidden"))
    assert resolve_revision(MODEL, "main") == repository.main
    assert reporter.warnings == [
        "the task's status could not be read (403 Forbidden): commits of earlier attempts are not known"
    ]


def test_offline_the_cache_is_read_alone(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = hub.add("models/someone/model", WEIGHTS).main
    download()
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve_revision(MODEL, "main") == commit
    assert (download() / "config.json").is_file()
    with pytest.raises(Fault, match=r"is not in the cache, and HF_HUB_OFFLINE forbids to ask the hub"):
        resolve_revision(MODEL._replace(id="someone/else"), "main")
    assert hub.requests == []


def test_a_commit_that_is_none_is_refused(hub: Hub) -> None:
    repository = hub.add("models/someone/model", WEIGHTS)
    repository.commits["../../x"] = repository.commits[repository.main]
    repository.main = "../../x"
    with pytest.raises(Fault, match=r"the hub gave no commit for checkpoint 'someone/model' at revision 'main'"):
        resolve_revision(MODEL, "main")


def test_requests_that_write_are_sent_once(hub: Hub) -> None:
    hub.troubles = [(503, {})]
    hub.requests.clear()
    response = huggingface_hub.get_session().post(f"{hub.address}/api/repos/create", json={})
    assert (response.status_code, hub.requests) == (503, ["POST /api/repos/create"])
