"""Hostile rows of a trainer's database role: no route fails for them, or takes long."""

import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from support.postgres import Postgres
from support.run_rows import a_run
from trainingtask_history import queries
from trainingtask_history.access import ALL
from trainingtask_history.engine import open_history
from trainingtask_history.migrations.runner import migrate
from trainingtask_history.store import record, record_many
from trainingtask_history.tables import MetricPoint, RunEvent

Client = Callable[..., TestClient]
HTML = {"Accept": "text/html"}
RUN = a_run(1)
TIMES = ("infinity", "-infinity", "0044-03-15 BC", "99999-01-01", "0001-01-01 00:00:00+14", "9999-12-31 23:59:59-14")
MAX_MEMORY = 64 * 2**20  # of one request
JSON_COLUMNS = ("spec", "training_args", "training_result", "evaluate_result")


def list_routes(run: uuid.UUID) -> list[str]:
    return [
        "/api/v1/runs", "/api/v1/runs/export?format=csv", "/api/v1/runs/export?format=json", f"/api/v1/runs/{run}",
        f"/api/v1/runs/{run}/events", f"/api/v1/runs/{run}/metrics", f"/api/v1/runs/compare?ids={run},{a_run(2).id}",
        "/", f"/{run}", "/runs", f"/runs/{run}", f"/runs/compare?ids={run},{a_run(2).id}",
    ]  # fmt: skip


def assert_all_succeed(client: TestClient, run: uuid.UUID = RUN.id) -> None:
    for path in list_routes(run):
        answer = client.get(path, headers=HTML if path.startswith("/runs") else {})
        assert answer.status_code == 200, (path, answer.text[:300])


@pytest.fixture(scope="module")
def unguarded(postgres_server: Postgres) -> Iterator[Engine]:
    """A history without checks and triggers, as older releases had it."""
    name = postgres_server.create_database()
    engine = open_history(postgres_server.url(name, name, name))
    migrate(engine)
    checks = "SELECT conname FROM pg_constraint WHERE contype = 'c'"
    with engine.begin() as connection:
        for table in ("training_run", "metric_point", "run_event"):
            connection.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
            found = connection.execute(text(f"{checks} AND conrelid = '{table}'::regclass")).all()
            for (check,) in found:
                connection.execute(text(f'ALTER TABLE {table} DROP CONSTRAINT "{check}"'))
    yield engine
    engine.dispose()


@pytest.fixture
def engine(unguarded: Engine) -> Engine:
    write(unguarded, "DELETE FROM training_run")
    return unguarded


@pytest.fixture
def admin(client: Client, sqlite: Engine) -> TestClient:
    return client(sqlite, "token-of-admin")


def write(engine: Engine, statement: str, **values: Any) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement), values)


@pytest.mark.parametrize("value", TIMES)
def test_unrepresentable_times_break_no_route(client: Client, engine: Engine, value: str) -> None:
    event = RunEvent(run_id=RUN.id, time=RUN.create_time, type="Accepted", reason="Accepted")
    record_many(engine, [a_run(1), a_run(2)], events=[event])
    columns = ("start_time", "finish_time", "report_time")
    write(engine, f"UPDATE training_run SET {', '.join(f'{name} = :value' for name in columns)}", value=value)
    write(engine, "UPDATE run_event SET time = :value", value=value)
    reader = client(engine, "token-of-admin")
    assert_all_succeed(reader)
    assert len(reader.get("/api/v1/runs").json()["items"]) == 2
    write(engine, "UPDATE training_run SET create_time = :value WHERE id = :id", value=value, id=RUN.id)
    assert_all_succeed(reader)
    assert [run["name"] for run in reader.get("/api/v1/runs").json()["items"]] == ["task-2"]


def test_a_spec_of_many_megabytes_is_left_out(client: Client, engine: Engine) -> None:
    record_many(engine, [a_run(1), a_run(2)])
    for column in JSON_COLUMNS:
        large = "jsonb_build_object('a', (SELECT jsonb_agg(md5(n::text)) FROM generate_series(1, 300000) n))"
        write(engine, f"UPDATE training_run SET {column} = {large} WHERE id = :id", id=RUN.id)  # 10 MB
    write(engine, "UPDATE training_run SET log_tail = repeat('x', 10000000)")
    reader = client(engine, "token-of-admin")
    assert_all_succeed(reader)
    found = reader.get(f"/api/v1/runs/{RUN.id}").json()
    assert [found[column] for column in JSON_COLUMNS] == [None] * 4
    assert len(found["log_tail"]) == queries.MAX_TEXT
    assert len(reader.get(f"/runs/{RUN.id}", headers=HTML).content) < 2 * queries.MAX_TEXT


IDS = ",".join(str(a_run(number).id) for number in range(10))
# Routes, with the largest number of lists in a column that is still shown; the first with the largest that fits.
GROWING = [
    ("/?limit=20", 80_000), ("/", 780), ("/?limit=20", 3990), (f"/api/v1/runs/compare?ids={IDS}", 7990),
    (f"/runs/compare?ids={IDS}", 7990), (f"/runs/{RUN.id}", 9990), (f"/{RUN.id}", 9990),
]  # fmt: skip


@pytest.mark.parametrize(("path", "lists"), GROWING)
def test_json_of_many_parts_takes_little_memory(client: Client, engine: Engine, path: str, lists: int) -> None:
    growing = f"jsonb_build_object('a', (SELECT jsonb_agg('[]'::jsonb) FROM generate_series(1, {lists})))"
    record_many(engine, [a_run(number) for number in range(100)])
    write(
        engine, f"UPDATE training_run SET ({', '.join(JSON_COLUMNS)}) = (SELECT v, v, v, v FROM (SELECT {growing} v) g)"
    )
    reader = client(engine, "token-of-admin")
    headers = HTML if path.startswith("/runs") else {}
    reader.get("/?limit=1")
    tracemalloc.start()
    try:
        answer = reader.get(path, headers=headers)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.status_code == 200
    assert peak < MAX_MEMORY
    if not headers and "compare" not in path:
        assert (answer.text.count("[]") > lists) == (lists < 80_000)


def test_ten_runs_with_a_thousand_labels_are_read_whole(sqlite: Engine) -> None:
    numbers = dict.fromkeys(("precision", "recall", "f1", "average_precision", "threshold"), 0.12345678901234567)
    labels = [{"label": f"a label, as long as most, {number}", **numbers, "support": 1000} for number in range(1000)]
    runs = [a_run(number, evaluate_result={"per_label": labels}) for number in range(10)]
    record_many(sqlite, runs)
    found = queries.get_runs(sqlite, ALL, [run.id for run in runs])
    assert [run.evaluate_result for run in found] == [{"per_label": labels}] * 10


NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -(10**400), 1e308, 2**63])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
# Keys that the pages read, so that malformed values stand there.
KEYS = st.sampled_from(
    ["micro", "macro", "f1", "per_label", "label", "support", "rows", "split", "threshold", "model", "name", "dataset",
     "versions", "warnings", "labelPrior", "label_prior", "undefined", "threshold_source", "steps", "epochs", "batchSize",
     "training", "checkpoint", "sampleSize", "loop", "weightDecay", "model_path", "runtime_seconds", "n_parameters",
     "exports", "format", "size", "data_fingerprint", "training.weightDecay", "label_errors", "pairs"]
)  # fmt: skip
OBJECTS = st.dictionaries(KEYS, VALUES | st.dictionaries(KEYS, VALUES, max_size=4), max_size=5) | VALUES


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": [value]}
    return value


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spec=OBJECTS, args=OBJECTS, result=OBJECTS, scores=OBJECTS, number=NUMBERS, labels=OBJECTS)
@example(spec=nested(31), args=nested(400), result=[1], scores="x", number=float("nan"), labels={"a": 1})
@example(spec={"model": 10**400}, args=10**400, result={"rows": 10**400}, scores={"micro": {"f1": 10**400}}, number=float("inf"), labels=[])  # fmt: skip
@example(spec={}, args={"training.weightDecay": 10**400}, result={"exports": [{"format": "onnx", "size": 10**400, "is_written": True, "rows_per_second": 1, "max_probability_difference": 1, "f1_loss": 0}], "data_fingerprint": []}, scores={"rows": 1}, number=1.0, labels={})  # fmt: skip
def test_json_of_any_shape_breaks_no_route(
    admin: TestClient, sqlite: Engine, spec: Any, args: Any, result: Any, scores: Any, number: Any, labels: Any
) -> None:
    write(sqlite, "DELETE FROM training_run")
    total = float(number) if abs(number) < 1e300 or number != number else float("inf")
    changes = {"spec": spec, "training_args": args, "training_result": result, "evaluate_result": scores}
    mine = a_run(1, **changes, labels=labels, total_time=total, score=total)
    record_many(sqlite, [mine, a_run(2)])
    assert_all_succeed(admin)


def test_a_run_of_a_thousand_curves_and_events_is_cut(client: Client, sqlite: Engine) -> None:
    moments = [RUN.create_time.replace(microsecond=number) for number in range(2000)]  # type: ignore[union-attr]
    events = [RunEvent(run_id=RUN.id, time=moment, type="Phase", reason="x") for moment in moments]
    points = [MetricPoint(run_id=RUN.id, name=f"curve_{name}", step=step, value=1) for name in range(1000) for step in range(20)]  # fmt: skip
    record(sqlite, a_run(1), events=events, points=points)
    assert len(queries.get_events(sqlite, ALL, RUN.id)) == queries.MAX_EVENTS
    curves = queries.get_metrics(sqlite, ALL, [RUN.id], max_points=2)[RUN.id]
    assert len(curves) == queries.MAX_CURVES
    assert {len(curve) for curve in curves.values()} == {2}
