"""A history of many runs on Postgres, made by the database itself: 300,000 of them in some seconds."""

import hashlib
import uuid

from sqlalchemy import Engine, text

RUNS = 300_000
LONG = 10_000  # points of the newest run, in two of its curves; others have 120
# Of 400 namespaces, the first has half of all runs and each following one fewer; uids are 'uid-N'.
# Rare: 30 runs of model 'xlnet', of label 'team=rare' and with the word 'zebra'; 25 runs that are Running.
_SEED = [
    """
    INSERT INTO training_run (
        id, task_uid, namespace, namespace_uid, name, attempt, dataset, model, device, status, create_time, start_time,
        finish_time, total_time, labels, phase, step, total_steps, eta, report_time, score, spec, training_args,
        training_result, evaluate_result, error_reason, error_message, trainer_image, node
    )
    SELECT
        md5('run' || n)::uuid, 'task-uid-' || n, 'team-' || team, 'uid-' || team, 'task-' || n, 1,
        (ARRAY['go_emotions', 'go_emotions', 'go_emotions', 'table', 'support_tickets'])[1 + n % 5],
        CASE WHEN n % 10000 = 77 THEN 'xlnet' ELSE (ARRAY['distilbert', 'bert', 'logistic_regression'])[1 + n % 3] END,
        'cpu',
        CASE WHEN n > :runs - 25 THEN 'Running' WHEN n % 13 = 0 THEN 'Failed' ELSE 'Succeeded' END,
        created, created + interval '5 s', CASE WHEN n <= :runs - 25 THEN created + interval '65 s' END, 60,
        jsonb_build_object('team', CASE WHEN n % 10000 = 78 THEN 'rare' ELSE 'team-' || n % 7 END),
        'Finished', 100, 100, '', created + interval '65 s', (n % 1000) / 1000.0,
        :spec, :arguments, :result, :scores,
        CASE WHEN n % 13 = 0 THEN 'OOMKilled' END,
        CASE WHEN n % 10000 = 79 THEN 'A zebra' WHEN n % 13 = 0 THEN 'The trainer needed more than 48Mi.' END,
        'trainer:1', 'node-' || n % 20
    FROM (
        SELECT n, floor(400 * pow(((n * 7919::bigint) % 1000003) / 1000003.0, 8.644))::int AS team,
            timestamptz '2025-01-01' + n * interval '2 min' AS created
        FROM generate_series(1, :runs) n
    ) numbered
    """,
    """
    INSERT INTO metric_point (run_id, name, step, value)
    SELECT md5('run' || n)::uuid, name, step, 1.0 / (step + 1)
    FROM generate_series(:runs - 1000, :runs) n,
        unnest(ARRAY['training_loss', 'mean_average_precision']) name, generate_series(1, 60) step
    """,
    """
    INSERT INTO metric_point (run_id, name, step, value)
    SELECT md5('run' || :runs)::uuid, name, step, 1.0 / (step + 1)
    FROM unnest(ARRAY['validation_loss', 'learning_rate']) name, generate_series(1, :steps) step
    """,
    """
    INSERT INTO run_event (run_id, time, type, reason, message)
    SELECT md5('run' || n)::uuid, timestamptz '2026-01-01' + k * interval '1 s', 'Phase', 'Phase' || k, 'It went on.'
    FROM generate_series(:runs - 2000, :runs) n, generate_series(1, 6) k
    """,
]
_SPEC = '{"dataset": {"name": "go_emotions"}, "model": {"name": "bert"}, "training": {"epochs": 3, "batchSize": 32}}'
_ARGUMENTS = '{"training.epochs": 3, "training.batchSize": 32, "training.learningRate": 5e-05, "dataset.seed": 42}'
_RESULT = '{"train_rows": 43410, "labels": 28, "runtime_seconds": 60.0, "warnings": []}'
_SCORES = '{"micro": {"f1": 0.58, "precision": 0.6, "recall": 0.56}, "macro": {"f1": 0.46}, "loss": 0.09}'


# Those that are no constraint's: to create them afterwards takes a fraction of the time.
_INDEXES = """
    SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'training_run'
    AND NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conname = indexname)
"""


def key_of(number: int) -> uuid.UUID:
    """Return the id of a run; the highest number is the newest."""
    return uuid.UUID(hashlib.md5(f"run{number}".encode(), usedforsecurity=False).hexdigest())


def seed(engine: Engine, runs: int = RUNS) -> None:
    """Fill an empty history and let the planner know."""
    values = {
        "runs": runs,
        "spec": _SPEC,
        "arguments": _ARGUMENTS,
        "result": _RESULT,
        "scores": _SCORES,
        "steps": LONG // 2,
    }
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = '300s'"))
        connection.execute(text("SET LOCAL maintenance_work_mem = '256MB'"))
        indexes = connection.execute(text(_INDEXES)).all()
        for index in indexes:
            connection.execute(text(f"DROP INDEX {index.indexname}"))
        for statement in _SEED:
            used = {name: value for name, value in values.items() if f":{name}" in statement}
            connection.execute(text(statement), used)
        for index in indexes:
            connection.exec_driver_sql(index.indexdef)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET statement_timeout = '300s'"))
        connection.execute(text("VACUUM ANALYZE"))
        connection.execute(text("RESET statement_timeout"))
