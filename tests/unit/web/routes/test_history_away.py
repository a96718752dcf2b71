from fastapi.testclient import TestClient
from sqlalchemy import Engine

from support.kubectl import eventually
from support.postgres import Postgres
from support.run_rows import a_run
from trainingtask_history.store import record
from trainingtask_web.app import create_app
from trainingtask_web.settings import load_settings


def test_an_unavailable_database_means_503_until_it_is_back(shared_postgres: Engine, postgres_server: Postgres) -> None:
    """With auth 'none', so that nothing is cached."""
    run = a_run(1)
    record(shared_postgres, run)
    url = shared_postgres.url.render_as_string(hide_password=False)
    settings = load_settings({"TRAININGTASK_HISTORY_URL": url, "TRAININGTASK_WEB_AUTH": "none"})
    with TestClient(create_app(settings), "http://localhost") as client:
        path = f"/api/v1/runs/{run.id}"
        assert client.get(path).status_code == 200
        postgres_server.stop()
        try:
            for there in (path, "/readyz", "/api/v1/runs"):
                answer = client.get(there)
                assert answer.status_code == 503
                assert "does not answer now" in answer.json()["detail"]
            page = client.get("/runs", headers={"Accept": "text/html"})
            assert (page.status_code, "does not answer now" in page.text) == (503, True)
            assert client.get("/healthz").status_code == 200, "to restart the web app would mend nothing"
        finally:
            postgres_server.start()
        eventually("the run again", lambda: client.get(path).status_code == 200)
        assert client.get("/readyz").status_code == 200
