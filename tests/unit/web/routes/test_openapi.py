"""Responses to valid and invalid requests conform to the OpenAPI document."""

from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks
from sqlalchemy import Engine

from support.fake_api_server import FakeApiServer
from support.web_client import connect
from trainingtask_web.app import create_app
from trainingtask_web.settings import load_settings

EXAMPLES = 10
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


def test_responses_conform_to_the_openapi_document(history: Engine, kubernetes: FakeApiServer) -> None:
    kubernetes.allowed |= {("admin", "create", "default")}
    url = history.url.render_as_string(hide_password=False)
    environment = {"TRAININGTASK_HISTORY_URL": url, "TRAININGTASK_WEB_HOSTS": "testserver"}
    app = create_app(load_settings(environment), connect(kubernetes))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    headers = {"Authorization": "Bearer token-of-admin"}
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 10
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def conforms(case: Any) -> None:
                case.call_and_validate(headers=headers, checks=CHECKS)

            conforms()
    app.state.engine.dispose()
    app.state.api_server.close()
