"""Add the tail of the log, which may still be set on a finished row, and an index of open rows."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# All columns but log_tail; a later migration that adds a column must add it to the trigger as well.
_FINAL = (
    "id, task_uid, namespace, name, attempt, dataset, model, device, status, create_time, start_time, finish_time,"
    " total_time, spec, training_args, training_result, evaluate_result, error_reason, error_message, trainer_image, node"
)


def _replace_trigger(name: str, columns: str, when: str) -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"DROP TRIGGER IF EXISTS {name} ON training_run")
        end = "EXECUTE FUNCTION training_run_is_final()"
    else:
        op.execute(f"DROP TRIGGER IF EXISTS {name}")
        end = "BEGIN SELECT RAISE(ABORT, 'this training_run is finished: its row is final'); END"
    op.execute(f"CREATE TRIGGER {name} BEFORE UPDATE {columns} ON training_run FOR EACH ROW WHEN ({when}) {end}")


def upgrade() -> None:
    op.add_column("training_run", sa.Column("log_tail", sa.Text()))
    open_rows = sa.text("finish_time IS NULL")
    op.create_index(
        "training_run_open", "training_run", ["create_time"], postgresql_where=open_rows, sqlite_where=open_rows
    )
    _replace_trigger("training_run_final", f"OF {_FINAL}", "OLD.finish_time IS NOT NULL")
    _replace_trigger("training_run_log_final", "OF log_tail", "OLD.finish_time IS NOT NULL AND OLD.log_tail IS NOT NULL")


def downgrade() -> None:
    on = " ON training_run" if op.get_bind().dialect.name == "postgresql" else ""
    op.execute(f"DROP TRIGGER training_run_log_final{on}")
    _replace_trigger("training_run_final", "", "OLD.finish_time IS NOT NULL")
    op.drop_index("training_run_open", "training_run")
    op.drop_column("training_run", "log_tail")
