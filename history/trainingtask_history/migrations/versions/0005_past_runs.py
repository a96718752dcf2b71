"""Hide a namespace's past runs from its trainers: a later namespace of this name has the same role.

A trainer needs its own open run alone. Of finished ones it sees those of the last hour: an update after which it did not
see the row would be refused.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# As in 0004.
_TRAINER = """
    CASE WHEN length(namespace) <= 42 THEN 'trainingtask_trainer_' || namespace
    ELSE 'trainingtask_trainer_' || left(namespace, 31) || '_'
         || left(encode(sha256(convert_to(namespace, 'UTF8')), 'hex'), 10) END
"""
_OWN = f"current_user = ({_TRAINER})"
# Rows without a uid are not confirmed by the operator yet.
_RECENT = "(finish_time IS NULL OR namespace_uid IS NULL OR finish_time > now() - interval '1 hour')"


def upgrade() -> None:
    _alter_policies(f"({_OWN} AND {_RECENT})")


def downgrade() -> None:
    _alter_policies(f"({_OWN})")


def _alter_policies(condition: str) -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    for policy in ("own_rows", "own_changes"):
        op.execute(f"ALTER POLICY {policy} ON training_run USING {condition}")
