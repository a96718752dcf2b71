"""A history on a real Postgres with the roles of two namespaces, of a reader and of the owner."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Engine

from support import stored_runs
from support.postgres import Postgres
from support.stored_runs import NOW
from trainingtask_api.names import HISTORY_READER_ROLE, HISTORY_TRAINER_ROLE
from trainingtask_history.migrations.runner import migrate
from trainingtask_history.roles import get_trainer_role
from trainingtask_history.store import record_many
from trainingtask_history.tables import MetricPoint, RunEvent, TrainingRun, run_id

PASSWORD = "role-secret"
NAMESPACES = ("team-a", "team-b")


@dataclass
class Tenants:
    """Engines of each role on one history, and the database's superuser."""

    owner: Engine
    a: Engine
    b: Engine
    reader: Engine
    server: Postgres
    database: str
    connect: Callable[[str], Engine]  # by the role's name

    def execute(self, *statements: str) -> None:
        """Execute statements as the superuser."""
        self.server.execute(*statements, database=self.database)


@pytest.fixture
def tenants(postgres_server: Postgres, database: str, open_engine: Callable[..., Engine]) -> Iterator[Tenants]:
    """Yield a migrated history whose owner has created the roles, as in the evaluation database."""
    postgres_server.execute(
        f"ALTER ROLE {database} CREATEROLE",
        f"CREATE ROLE {HISTORY_TRAINER_ROLE}",
        f"GRANT {HISTORY_TRAINER_ROLE} TO {database} WITH ADMIN OPTION",
        f"CREATE ROLE {HISTORY_READER_ROLE} LOGIN PASSWORD '{PASSWORD}'",
    )
    owner = open_engine(postgres_server.url(database, database, database))
    migrate(owner, dict.fromkeys(NAMESPACES, PASSWORD))

    def connect(role: str) -> Engine:
        return open_engine(postgres_server.url(database, role, PASSWORD), pooled=False)

    roles = [get_trainer_role(namespace) for namespace in NAMESPACES]
    yield Tenants(
        owner, connect(roles[0]), connect(roles[1]), connect(HISTORY_READER_ROLE), postgres_server, database, connect
    )
    owner.dispose()
    for role in (*roles, HISTORY_READER_ROLE, HISTORY_TRAINER_ROLE):
        postgres_server.execute(f'DROP OWNED BY "{role}"', database=database)
        postgres_server.execute(f'DROP ROLE "{role}"')


def make_run(namespace: str, key: str = "", **changes: Any) -> TrainingRun:
    """Return a run of a namespace, with `key` in its name and uid."""
    uid = f"uid-of-{namespace}{key}"
    known = {"id": run_id(uid, 1), "task_uid": uid, "namespace": namespace, "name": f"task{key}"}
    return stored_runs.make_run(**(known | changes))


def make_event(run: TrainingRun, **changes: Any) -> RunEvent:
    return RunEvent(**({"run_id": run.id, "time": NOW, "type": "Phase", "reason": "Training", "message": ""} | changes))


def make_point(run: TrainingRun, **changes: Any) -> MetricPoint:
    return MetricPoint(**({"run_id": run.id, "name": "training_loss", "step": 1, "value": 0.5} | changes))


def record_runs(engine: Engine, *runs: TrainingRun) -> None:
    """Record runs with an event and a point each."""
    record_many(engine, runs, events=[make_event(run) for run in runs], points=[make_point(run) for run in runs])
