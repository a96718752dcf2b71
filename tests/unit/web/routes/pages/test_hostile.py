"""Values of rows and addresses are escaped; no page has inline scripts or styles."""

import hashlib
import re
from pathlib import Path

import lxml.html
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from support.html import get_page, select
from support.run_rows import a_run
from support.sample_history import SampleHistory
from trainingtask_history.store import record_many
from trainingtask_history.tables import MetricPoint, RunEvent, TrainingRun

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> & {{ 7*7 }} \u202egnp.exe 🦜"


@pytest.fixture
def hostile(own: tuple[Engine, TestClient]) -> tuple[TestClient, list[TrainingRun]]:
    engine, client = own
    result = {
        "micro": {"f1": 0.5}, "split": HOSTILE, "threshold_source": HOSTILE, "rows": 3, "undefined": {HOSTILE: HOSTILE},
        "per_label": [{"label": HOSTILE, "f1": 0.4, "support": 3}],
    }  # fmt: skip
    errors = {
        "rows": HOSTILE, "per_label": [{"label": HOSTILE, "false_positives": [HOSTILE]}, HOSTILE],
        "pairs": [{"given": HOSTILE, "predicted": HOSTILE, "rows": 1}],
    }  # fmt: skip
    runs = [
        a_run(number, name=HOSTILE, namespace=HOSTILE, dataset=HOSTILE, model=HOSTILE, labels={HOSTILE: HOSTILE},
            error_reason=HOSTILE, error_message=HOSTILE * 40, log_tail=HOSTILE, node=HOSTILE, trainer_image=HOSTILE, tracking_url=HOSTILE,
            spec={HOSTILE: {HOSTILE: number}}, training_args={HOSTILE: HOSTILE}, evaluate_result=result,
            training_result={"warnings": [HOSTILE], "versions": {HOSTILE: HOSTILE}, "model_path": HOSTILE, "label_errors": errors}, score=0.5,
        )
        for number in range(2)
    ]  # fmt: skip
    events = [
        RunEvent(run_id=run.id, time=run.create_time, type="Failed", reason=HOSTILE, message=HOSTILE) for run in runs
    ]
    points = [MetricPoint(run_id=run.id, name=HOSTILE[:60], step=1, value=1.0) for run in runs]
    record_many(engine, runs, events=events, points=points)
    return client, runs


def test_values_of_a_row_are_escaped(hostile: tuple[TestClient, list[TrainingRun]]) -> None:
    client, runs = hostile
    addresses = ["/runs", f"/runs/{runs[0].id}", f"/runs/compare?ids={runs[0].id},{runs[1].id}"]
    for address in addresses:
        tree = get_page(client, address)
        assert all(script.get("src", "").startswith("/static/") or script.get("type") == "application/json" for script in select(tree, "script"))  # fmt: skip
        assert not select(tree, "img")
        assert not [element for element in tree.iter() if any(str(name).startswith("on") for name in element.attrib)]
        assert HOSTILE in tree.text_content()


@pytest.mark.parametrize(
    ("address", "is_linked"),
    [
        ("https://mlflow.example.com/#/experiments/1/runs/a?x=1&y=2", True),
        ("http://mlflow.tracking.svc:5000", True),
        ("http://[fd00::1]:5000/#/1", True),
        ("https://example.com/'\"><script>alert(1)</script>", True),
        ("javascript:alert(1)//https://example.com", False),
        ("JavaScript://example.com/%0aalert(1)", False),
        ("data:text/html,<script>alert(1)</script>", False),
        ("//example.com/", False),
        ("/session", False),
        ("https://mlflow.example.com@elsewhere.example/", False),
        ("https://mlflow.example.com\\@elsewhere.example/", False),
        ("https://example.com/\n", False),
        ("https://example.com/ onclick=alert(1)", False),
        ("https://exаmple.com/", False),  # noqa: RUF001 - a Cyrillic letter
        ("https://", False),
        ("", False),
    ],
)
def test_a_run_links_to_its_tracker_by_http_alone(
    own: tuple[Engine, TestClient], address: str, is_linked: bool
) -> None:
    engine, client = own
    run = a_run(1, tracking_url=address)
    record_many(engine, [run])
    links = select(get_page(client, f"/runs/{run.id}"), "#run-facts a")
    assert [dict(link.attrib) for link in links] == [{"href": address, "rel": "noopener noreferrer"}] * is_linked
    assert [link.text_content() for link in links] == [address] * is_linked


@pytest.mark.parametrize("name", ["text", "namespace", "model", "label"])
def test_query_parameters_are_escaped(browser: TestClient, name: str) -> None:
    answer = browser.get("/runs", params={name: HOSTILE})
    assert "<script>alert" not in answer.text
    assert select(lxml.html.fromstring(answer.text), f"#f-{name}")[0].get("value") == HOSTILE.strip()


def test_the_next_address_of_the_sign_in_page_is_escaped(browser: TestClient) -> None:
    answer = browser.get("/session", params={"next": HOSTILE})
    assert "<script>alert" not in answer.text


def test_pages_of_a_thousand_labels_stay_below_700_kb(own: tuple[Engine, TestClient]) -> None:
    engine, client = own
    labels = [{"label": f"label {number}", "f1": number / 1000, "support": number} for number in range(1000)]
    runs = [a_run(number, evaluate_result={"micro": {"f1": 0.5}, "per_label": labels}) for number in range(10)]
    record_many(engine, runs)
    answer = client.get(f"/runs/{runs[0].id}")
    assert answer.text.count("<bdi>label ") == 100
    assert len(answer.content) < 700_000
    answer = client.get("/runs/compare", params={"ids": ",".join(str(run.id) for run in runs)})
    assert answer.text.count("<bdi>label ") == 100
    assert len(answer.content) < 700_000


def test_no_page_has_inline_scripts_or_styles(browser: TestClient, sample: SampleHistory) -> None:
    ids = ",".join(str(run.id) for run in sample.runs[:3])
    for address in ("/runs", f"/runs/{sample.runs[0].id}", f"/runs/compare?ids={ids}", "/session"):
        answer = browser.get(address)
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        tree = lxml.html.fromstring(answer.text)
        assert not select(tree, "[style], style")
        for reference in select(tree, "script[src], link[href]"):
            wanted = reference.get("src") or reference.get("href")
            assert browser.get(wanted).status_code == 200, wanted


def test_the_chart_library_is_unchanged() -> None:
    folder = Path(__file__).parents[5] / "web" / "trainingtask_web" / "static" / "vendor" / "uplot"
    digests = re.findall(r"([0-9a-f]{64})  (\S+)", (folder / "README.md").read_text())
    assert {name for _, name in digests} == {file.name for file in folder.iterdir()} - {"README.md", "LICENSE"}
    for digest, name in digests:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
