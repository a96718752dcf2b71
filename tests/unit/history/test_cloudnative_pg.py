"""The guide's cluster of CloudNativePG: its SQL and roles, made on a real Postgres, are what the history needs."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import Engine, text

from support.postgres import Postgres, run_temporary_postgres
from support.tenants import make_run
from trainingtask_api.names import HISTORY_READER_ROLE
from trainingtask_history.errors import HistoryError
from trainingtask_history.migrations.runner import migrate
from trainingtask_history.roles import end_long_transactions, get_trainer_role
from trainingtask_history.store import record

GUIDE = Path(__file__).parents[3] / "docs" / "how-to" / "use-an-external-postgres.md"
PASSWORD = "role-secret"


def read_cluster() -> dict[str, Any]:
    blocks = re.findall(r"^```yaml\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    (cluster,) = [found for found in map(yaml.safe_load, blocks) if found.get("kind") == "Cluster"]
    spec: dict[str, Any] = cluster["spec"]
    return spec


@pytest.fixture(scope="module")
def cloudnative_pg() -> Iterator[Postgres]:
    """Make what CloudNativePG's manager makes of the guide's cluster, as the superuser."""
    spec = read_cluster()
    initdb = spec["bootstrap"]["initdb"]
    for server in run_temporary_postgres():
        owner, database = initdb["owner"], initdb["database"]
        server.execute(f"CREATE ROLE {owner} LOGIN PASSWORD '{PASSWORD}'", f"CREATE DATABASE {database} OWNER {owner}")
        server.execute(*initdb["postInitApplicationSQL"], database=database)
        server.execute(*(alter_role(role) for role in spec["managed"]["roles"]))
        yield server


def alter_role(role: dict[str, Any]) -> str:
    options = ["LOGIN"] if role["login"] else []
    options += ["CREATEROLE"] if role.get("createrole") else []
    options += [f"CONNECTION LIMIT {role['connectionLimit']}"] if "connectionLimit" in role else []
    return f"ALTER ROLE \"{role['name']}\" {' '.join(options)} PASSWORD '{PASSWORD}'"


def test_the_owner_makes_the_roles_and_their_limits(
    cloudnative_pg: Postgres, open_engine: Callable[[str], Engine]
) -> None:
    def connect(role: str) -> Engine:
        return open_engine(cloudnative_pg.url("trainingtask", role, PASSWORD))

    owner, trainer = connect("trainingtask"), get_trainer_role("ml-team")
    migrate(owner, {"ml-team": None})
    cloudnative_pg.execute(f"ALTER ROLE \"{trainer}\" LOGIN CONNECTION LIMIT 10 PASSWORD '{PASSWORD}'")

    record(connect(trainer), make_run("ml-team"))
    with pytest.raises(HistoryError, match="row-level security"):
        record(connect(trainer), make_run("another"))
    with connect(HISTORY_READER_ROLE).begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM training_run")).scalar_one() == 1
    assert end_long_transactions(owner) == 0
