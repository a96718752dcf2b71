"""Add the page of the run on the experiment tracker."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# As in 0003.
_BEFORE = (
    "id, task_uid, namespace, name, attempt, dataset, model, device, status, create_time, start_time, finish_time,"
    " total_time, spec, training_args, training_result, evaluate_result, error_reason, error_message, trainer_image, node,"
    " phase, step, total_steps, eta, report_time, score"
)


def _is_postgres() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def _replace_trigger(columns: str) -> None:
    if _is_postgres():
        op.execute("DROP TRIGGER training_run_final ON training_run")
        end = "EXECUTE FUNCTION training_run_is_final()"
    else:
        op.execute("DROP TRIGGER training_run_final")
        end = "BEGIN SELECT RAISE(ABORT, 'this training_run is finished: its row is final'); END"
    op.execute(
        f"CREATE TRIGGER training_run_final BEFORE UPDATE OF {columns} ON training_run FOR EACH ROW"
        f" WHEN (OLD.finish_time IS NOT NULL) {end}"
    )


def upgrade() -> None:
    op.add_column("training_run", sa.Column("tracking_url", sa.String(2048)))
    _replace_trigger(f"{_BEFORE}, tracking_url")
    if _is_postgres():  # as in 0004
        op.execute("ALTER TABLE training_run ALTER tracking_url SET STATISTICS 0")


def downgrade() -> None:
    _replace_trigger(_BEFORE)
    op.drop_column("training_run", "tracking_url")
