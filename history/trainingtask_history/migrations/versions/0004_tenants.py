"""Row-level security, which confines trainers to the rows of their namespace, and bounds for what they write.

SQLite has no roles.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# The name of the trainer role of a row's namespace; `trainingtask_history.roles.get_trainer_role` computes the same.
_TRAINER = """
    CASE WHEN length(namespace) <= 42 THEN 'trainingtask_trainer_' || namespace
    ELSE 'trainingtask_trainer_' || left(namespace, 31) || '_'
         || left(encode(sha256(convert_to(namespace, 'UTF8')), 'hex'), 10) END
"""
_OWN = f"(current_user = ({_TRAINER}))"
# Clocks differ by seconds. A time further ahead would make older reports look newer to the operator.
_TIMES = ("create_time", "start_time", "finish_time", "report_time")
_NOT_AHEAD = " AND ".join(f"({time} IS NULL OR {time} <= now() + interval '10 minutes')" for time in _TIMES)
# The subquery is subject to the policy of training_run: another namespace's run is not found.
_RUN_IS_OPEN = "EXISTS (SELECT FROM training_run r WHERE r.id = run_id AND r.finish_time IS NULL)"

# Under row-level security the planner still estimates by statistics over all rows, and EXPLAIN prints the estimates.
_NO_STATISTICS = ("task_uid", "name", "error_reason", "error_message", "trainer_image", "node", "phase", "eta")

_JSON = ("spec", "training_args", "training_result", "evaluate_result", "labels")
_JSON_BYTES = 2 * 1024 * 1024  # an object of Kubernetes holds at most 1.5 MiB
_LOG_BYTES = 64 * 1024


def _is_in_range(time: str) -> str:
    """Return the condition that a timestamp is finite and in the range of Python."""
    return f"{time} BETWEEN '2000-01-01 00:00Z' AND '2200-01-01 00:00Z'"


_CHECKS = {
    "training_run": {
        "name": "name <> '' AND name NOT LIKE '%/%'",  # on a laptop it need not be one that Kubernetes takes
        "attempt": "attempt BETWEEN 1 AND 1000000",
        "times": " AND ".join(map(_is_in_range, _TIMES)),
        "total_time": "total_time BETWEEN -1e10 AND 1e10",
        "steps": "step >= 0 AND total_steps >= 0",
        "score": "score BETWEEN 0 AND 1",
        "sizes": " AND ".join(f"octet_length({column}::text) <= {_JSON_BYTES}" for column in _JSON),
        "log_size": f"octet_length(log_tail) <= {_LOG_BYTES}",
    },
    "metric_point": {"step": "step >= 0", "value": "value BETWEEN -1e300 AND 1e300"},
    "run_event": {"time": _is_in_range("time")},
}


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    for time in _TIMES:  # the operator reads all open rows, and Python cannot read an infinite time
        op.execute(f"UPDATE training_run SET {time} = NULL WHERE finish_time IS NULL AND NOT {_is_in_range(time)}")
    for table, checks in _CHECKS.items():
        for name, condition in checks.items():
            # NOT VALID: rows from before stay as they are.
            op.execute(f"ALTER TABLE {table} ADD CONSTRAINT {table}_{name}_check CHECK ({condition}) NOT VALID")
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    for column in _NO_STATISTICS:
        op.execute(f"ALTER TABLE training_run ALTER {column} SET STATISTICS 0")
    op.execute(f"CREATE POLICY own_rows ON training_run FOR SELECT USING {_OWN}")
    op.execute(f"CREATE POLICY own_new_rows ON training_run FOR INSERT WITH CHECK ({_OWN} AND {_NOT_AHEAD})")
    op.execute(f"CREATE POLICY own_changes ON training_run FOR UPDATE USING {_OWN} WITH CHECK ({_OWN} AND {_NOT_AHEAD})")
    for table in ("metric_point", "run_event"):
        op.execute(f"CREATE POLICY of_open_runs ON {table} FOR INSERT WITH CHECK ({_RUN_IS_OPEN})")


def downgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    for table in ("metric_point", "run_event"):
        op.execute(f"DROP POLICY of_open_runs ON {table}")
    for policy in ("own_rows", "own_new_rows", "own_changes"):
        op.execute(f"DROP POLICY {policy} ON training_run")
    for column in _NO_STATISTICS:
        op.execute(f"ALTER TABLE training_run ALTER {column} SET STATISTICS -1")
    for table, checks in _CHECKS.items():
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
        for name in checks:
            op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {table}_{name}_check")
