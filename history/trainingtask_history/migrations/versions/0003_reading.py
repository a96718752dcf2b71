"""Add curves, events, the namespace's identity, progress and headline score, and the indexes of lists and searches."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_BEFORE = (
    "id, task_uid, namespace, name, attempt, dataset, model, device, status, create_time, start_time, finish_time,"
    " total_time, spec, training_args, training_result, evaluate_result, error_reason, error_message, trainer_image, node"
)
_NEW = ("phase", "step", "total_steps", "eta", "report_time", "score")
_FILTERS = ("namespace_uid", "namespace", "status", "dataset", "model")
_OPERATORS_OWN = ("namespace_uid", "labels")
# The searchable words of a row.
_WORDS = (
    "to_tsvector('simple', regexp_replace(name || ' ' || namespace || ' ' || dataset || ' ' || model || ' ' ||"
    " coalesce(error_reason, '') || ' ' || coalesce(error_message, ''), '[^[:alnum:]]+', ' ', 'g'))"
)


def _is_postgres() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def _drop_trigger(name: str) -> None:
    op.execute(f"DROP TRIGGER {name}" + (" ON training_run" if _is_postgres() else ""))


def _create_trigger(name: str, columns: str, when: str) -> None:
    if _is_postgres():
        end = "EXECUTE FUNCTION training_run_is_final()"
    else:
        end = "BEGIN SELECT RAISE(ABORT, 'this training_run is finished: its row is final'); END"
    op.execute(f"CREATE TRIGGER {name} BEFORE UPDATE OF {columns} ON training_run FOR EACH ROW WHEN ({when}) {end}")


def upgrade() -> None:
    json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
    columns: list[sa.Column[Any]] = [
        sa.Column("namespace_uid", sa.String(64)),
        sa.Column("labels", json),
        sa.Column("phase", sa.String(32)),
        sa.Column("step", sa.Integer()),
        sa.Column("total_steps", sa.Integer()),
        sa.Column("eta", sa.String(32)),
        sa.Column("report_time", sa.DateTime(timezone=True)),
        sa.Column("score", sa.Float()),
    ]
    for added in columns:
        op.add_column("training_run", added)
    _drop_trigger("training_run_final")
    score = "evaluate_result #>> '{micro,f1}'" if _is_postgres() else "json_extract(evaluate_result, '$.micro.f1')"
    op.execute(f"UPDATE training_run SET score = CAST({score} AS FLOAT) WHERE evaluate_result IS NOT NULL")
    _create_trigger("training_run_final", f"{_BEFORE}, {', '.join(_NEW)}", "OLD.finish_time IS NOT NULL")
    for column in _OPERATORS_OWN:
        when = f"OLD.finish_time IS NOT NULL AND OLD.{column} IS NOT NULL"
        _create_trigger(f"training_run_{column}_final", column, when)
    op.create_index("training_run_created", "training_run", ["create_time", "id"])
    for column in _FILTERS:
        op.create_index(f"training_run_{column}", "training_run", [column, "create_time", "id"])
    if _is_postgres():
        op.execute(f"CREATE INDEX training_run_words ON training_run USING gin (({_WORDS}))")
        op.execute("CREATE INDEX training_run_labels ON training_run USING gin (labels jsonb_path_ops)")

    op.create_table(
        "metric_point",
        sa.Column("run_id", sa.Uuid(), sa.ForeignKey("training_run.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("step", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("value", sa.Float(), nullable=False),
    )
    op.create_table(
        "run_event",
        sa.Column("run_id", sa.Uuid(), sa.ForeignKey("training_run.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("time", sa.DateTime(timezone=True), primary_key=True),
        sa.Column("type", sa.String(32), primary_key=True),
        sa.Column("reason", sa.String(128), primary_key=True),
        sa.Column("message", sa.String(4096), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("run_event")
    op.drop_table("metric_point")
    if _is_postgres():
        op.drop_index("training_run_labels", "training_run")
        op.drop_index("training_run_words", "training_run")
    for column in (*_FILTERS, "created"):
        op.drop_index(f"training_run_{column}", "training_run")
    for column in _OPERATORS_OWN:
        _drop_trigger(f"training_run_{column}_final")
    _drop_trigger("training_run_final")
    for column in (*_OPERATORS_OWN, *_NEW):
        op.drop_column("training_run", column)
    _create_trigger("training_run_final", _BEFORE, "OLD.finish_time IS NOT NULL")
