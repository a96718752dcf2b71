"""The history table, and the trigger that makes a finished row final."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _json() -> sa.JSON:
    return sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "training_run",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("task_uid", sa.String(64), nullable=False),
        sa.Column("namespace", sa.String(253), nullable=False),
        sa.Column("name", sa.String(253), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("dataset", sa.String(200), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("device", sa.String(16), nullable=False),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True)),
        sa.Column("start_time", sa.DateTime(timezone=True)),
        sa.Column("finish_time", sa.DateTime(timezone=True)),
        sa.Column("total_time", sa.Float()),
        sa.Column("spec", _json()),
        sa.Column("training_args", _json()),
        sa.Column("training_result", _json()),
        sa.Column("evaluate_result", _json()),
        sa.Column("error_reason", sa.String(128)),
        sa.Column("error_message", sa.String(4096)),
        sa.Column("trainer_image", sa.String(500)),
        sa.Column("node", sa.String(253)),
        sa.UniqueConstraint("task_uid", "attempt"),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            """
            CREATE FUNCTION training_run_is_final() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                RAISE EXCEPTION 'training_run % is finished: its row is final', OLD.id;
            END
            $$
            """
        )
        op.execute(
            """
            CREATE TRIGGER training_run_final BEFORE UPDATE ON training_run FOR EACH ROW
            WHEN (OLD.finish_time IS NOT NULL) EXECUTE FUNCTION training_run_is_final()
            """
        )
    else:
        op.execute(
            """
            CREATE TRIGGER training_run_final BEFORE UPDATE ON training_run FOR EACH ROW
            WHEN OLD.finish_time IS NOT NULL
            BEGIN SELECT RAISE(ABORT, 'this training_run is finished: its row is final'); END
            """
        )


def downgrade() -> None:
    op.drop_table("training_run")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION training_run_is_final")
