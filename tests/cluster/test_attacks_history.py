"""Attacks on the chart's own Postgres by a tenant that reads the Secret of its namespace's trainers.

These test the chart's set-up; tests/unit/history/test_roles.py and test_attacks_history.py test what the role may do with rows.
"""

import base64
import contextlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import make_url

from support import specs
from support.kubectl import Kubectl, Refused, eventually
from support.release import POSTGRES
from trainingtask_api import names
from trainingtask_history.roles import get_trainer_role


@pytest.fixture(scope="module")
def as_trainer(kubectl: Kubectl, system: Kubectl) -> Callable[..., str]:
    """Return a function that executes SQL over TCP as the role of the test namespace's trainers."""
    secret = kubectl.get("secret", names.HISTORY_SECRET)["data"]
    url = make_url(base64.b64decode(secret[names.HISTORY_SECRET_KEY]).decode())
    assert url.username == get_trainer_role(kubectl.namespace)

    def execute(
        sql: str, *, user: str = str(url.username), tls: str = "require", database: str = "trainingtask"
    ) -> str:
        target = f"postgresql://{user}:{url.password}@localhost/{database}?sslmode={tls}"
        return system("exec", POSTGRES, "--", "psql", target, "-v", "ON_ERROR_STOP=1", "-Atc", sql)

    def has_role() -> bool:
        with contextlib.suppress(Refused):
            return execute("select 1") == "1\n"
        return False

    eventually("the role that the operator creates at its start", has_role)
    return execute


@pytest.fixture(scope="module")
def others_run(system: Kubectl) -> Iterator[str]:
    """Insert a run of another namespace, which is not among the prepared ones; yield its id."""
    columns = "id, task_uid, namespace, name, attempt, dataset, model, device, status"
    values = "gen_random_uuid(), 'uid-of-another', 'another', 'victim', 1, 'd', 'm', 'cpu', 'Running'"
    query = f"insert into training_run ({columns}) values ({values}) returning id"
    as_postgres = ("exec", POSTGRES, "--", "psql", "-U", "postgres", "-d", "trainingtask", "-qAtc")
    yield system(*as_postgres, query).strip()
    system(*as_postgres, "delete from training_run where task_uid = 'uid-of-another'")


def test_a_tenant_sees_and_changes_no_row_of_another(as_trainer: Callable[..., str], others_run: str) -> None:
    assert as_trainer(f"select count(*) from training_run where id = '{others_run}'").strip() == "0"
    assert (
        as_trainer("update training_run set status = 'Succeeded', score = 0.99 where namespace = 'another'")
        == "UPDATE 0\n"
    )
    with pytest.raises(Refused, match="row-level security"):
        as_trainer(f"insert into run_event values ('{others_run}', now(), 'Phase', 'Forged', '')")


@pytest.mark.parametrize(
    "sql",
    [
        "select lo_create(0)",
        "select lo_from_bytea(0, 'x')",
        "select pg_advisory_lock(1)",
        "select pg_try_advisory_xact_lock(1)",
        "create temporary table mine (a int)",
        "create table mine (a int)",
        "select * from pg_authid",
    ],
)
def test_a_tenant_is_denied_functions_beyond_its_rows(as_trainer: Callable[..., str], sql: str) -> None:
    with pytest.raises(Refused, match="permission denied"):
        as_trainer(sql)


def test_a_tenant_reaches_no_other_database_or_role(as_trainer: Callable[..., str]) -> None:
    with pytest.raises(Refused, match=r"no pg_hba\.conf entry"):
        as_trainer("select 1", database="postgres")
    with pytest.raises(Refused, match=r"no pg_hba\.conf entry"):
        as_trainer("select 1", user="postgres")
    with pytest.raises(Refused, match="password authentication failed"):
        as_trainer("select 1", user="trainingtask")


def test_the_database_refuses_unencrypted_connections(as_trainer: Callable[..., str]) -> None:
    with pytest.raises(Refused, match="no encryption"):
        as_trainer("select 1", tls="disable")


def test_trainers_and_operator_verify_the_databases_certificate(
    kubectl: Kubectl, system: Kubectl, task: Callable[..., str], final_row: Callable[..., dict[str, object]]
) -> None:
    """The row has a phase, which only the trainer writes: it arrived over verified TLS."""
    name = task("over-tls", specs.CLASSICAL)
    kubectl.wait(name, "Complete")
    assert final_row(name)["phase"] == "Done"
    query = "select json_object_agg(usename, ssl) from pg_stat_ssl join pg_stat_activity using (pid) where usename is not null"
    text = system("exec", POSTGRES, "--", "psql", "-U", "postgres", "-d", "trainingtask", "-Atc", query)
    assert json.loads(text)["trainingtask"] is True
    pod = kubectl.pods(name)[0]["spec"]["containers"][0]
    assert names.HISTORY_CA_DIR in {mount["mountPath"] for mount in pod["volumeMounts"]}


def test_a_tenants_lock_delays_no_other_rows(
    as_trainer: Callable[..., str], kubectl: Kubectl, task: Callable[..., str], final_row: Callable[..., dict[str, object]],
    rows: Callable[[str], list[dict[str, object]]],
) -> None:  # fmt: skip
    """A new task's row is written and finished while another session locks all existing rows."""
    first = task("before-the-lock", specs.CLASSICAL)
    eventually("its row", lambda: rows(kubectl.get("trainingtask", first)["metadata"]["uid"]))
    hold = "set statement_timeout = 0; set lock_timeout = 0; begin; select count(*) from (select id from training_run for update) r; select pg_sleep(25)"
    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(as_trainer, hold)
        second = task("during-the-lock", specs.CLASSICAL)
        kubectl.wait(second, "Complete")
        assert final_row(second)["status"] == "Succeeded"
        kubectl.wait(first, "Complete")
        holding.result()
    assert final_row(first)["status"] == "Succeeded"
