"""The routes of the service that this project replaces (Celery and FastAPI), with its field names, for its clients.

A run is created as a TrainingTask through the Kubernetes API with the user's own token, so that authorization and
validation are those of `kubectl apply`.
"""

import secrets
import uuid
from datetime import datetime
from types import UnionType
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.exceptions import HTTPException

from trainingtask_api.capabilities import CLASSICAL_MODELS, MODELS, TRANSFORMER_FAMILIES
from trainingtask_api.names import API_VERSION, KIND, NAMESPACE_PATTERN
from trainingtask_api.nested import get_path
from trainingtask_api.task import TrainingTask, describe_errors
from trainingtask_api.training import Loop
from trainingtask_history import queries
from trainingtask_history.read_models import RunDetail
from trainingtask_history.tables import RunStatus, run_id
from trainingtask_web.auth import audit
from trainingtask_web.auth.authorization import CurrentPrincipal, Principal
from trainingtask_web.auth.errors import ApiServerError, TaskRejected
from trainingtask_web.auth.kubernetes import ApiServer
from trainingtask_web.http.errors import ErrorResponse, is_html_preferred
from trainingtask_web.http.middleware import CROSS_SITE, MAX_BODY_BYTES, get_site_path, is_same_origin
from trainingtask_web.routes.dependencies import get_engine, get_run_or_404
from trainingtask_web.views.numbers import to_finite

MAX_RECORDS = 100
_SUFFIX_ALPHABET = (
    "bcdfghjklmnpqrstvwxz2456789"  # without vowels, as in Kubernetes' generated names, so that no words arise
)
_MAX_NAME_LENGTH = 63

# Field of the replaced service -> its path in the spec.
_SPEC_PATHS = {
    "DATASET_NAME": ("dataset", "name"),
    "MODEL_NAME": ("model", "name"),
    "N_SAMPLE": ("dataset", "sampleSize"),
    "IS_TRAINER": ("training", "loop"),
    "EPOCH": ("training", "epochs"),
    "BATCH_SIZE": ("training", "batchSize"),
    "WEIGHT_DECAY": ("training", "weightDecay"),
}
_FIELD_TYPES: dict[str, type[Any] | UnionType] = {
    "DATASET_NAME": str,
    "MODEL_NAME": str,
    "N_SAMPLE": int,
    "IS_TRAINER": bool,
    "EPOCH": int,
    "BATCH_SIZE": int,
    "WEIGHT_DECAY": int | float,
}
_TRANSFORMER_FIELDS = ("IS_TRAINER", "EPOCH", "BATCH_SIZE", "WEIGHT_DECAY")

router = APIRouter(
    tags=["the old service"],
    responses={
        401: {"model": ErrorResponse, "description": "Nobody known asks."},
        422: {
            "model": ErrorResponse,
            "description": "A field is refused; the sentence says which, and what is allowed.",
        },
        503: {"model": ErrorResponse, "description": "The history or Kubernetes is away: try again."},
    },
)
create_router = APIRouter(tags=router.tags, responses=router.responses)


class LegacyRequest(BaseModel):
    """A request of the replaced service. A field that is left out gets this project's default."""

    model_config = ConfigDict(extra="forbid", strict=True)

    DATASET_NAME: str = Field(max_length=128, description="A registered data set, such as 'go_emotions'.")
    MODEL_NAME: str = Field(
        max_length=512, description="A registered model, such as 'random_forest', or a checkpoint of the hub."
    )
    N_SAMPLE: int | None = Field(None, description="Rows to train on; null: all.")
    IS_TRAINER: bool | None = Field(None, description="true: Hugging Face's Trainer; false: a plain loop.")
    EPOCH: int | None = None
    BATCH_SIZE: int | None = None
    WEIGHT_DECAY: float | None = None


class Record(BaseModel):
    """A run with the field names of the replaced service; /api/v1 has what it lacked."""

    id: uuid.UUID
    name: str
    namespace: str
    status: str
    DATASET_NAME: str
    MODEL_NAME: str
    N_SAMPLE: int | None
    IS_TRAINER: bool | None
    EPOCH: int | None
    BATCH_SIZE: int | None
    WEIGHT_DECAY: float | None
    create_time: datetime | None
    start_time: datetime | None = None
    finish_time: datetime | None = None
    total_time: float | None = None
    training_result: dict[str, Any] | None = None
    evaluate_result: dict[str, Any] | None = None
    error_reason: str | None = None
    error_message: str | None = None
    ignored: list[str] = Field([], description="Fields of the request that this model has no use for.")


_RECORDS = TypeAdapter(list[Record])


@router.get("/", response_model=list[Record], summary="The newest runs")
def list_records(
    request: Request, principal: CurrentPrincipal, limit: Annotated[int, Query(ge=1, le=MAX_RECORDS)] = MAX_RECORDS
) -> Response:
    """Return the newest runs. A browser is sent to the page instead."""
    if is_html_preferred(request):
        return RedirectResponse(get_site_path(request, "/runs"), 303)
    engine = get_engine(request)
    page = queries.list_runs(engine, principal.scope, limit=limit)
    runs = queries.get_runs(engine, principal.scope, [run.id for run in page.items])
    return Response(_RECORDS.dump_json([_to_record(run) for run in runs]), media_type="application/json")


@router.get(
    "/{id:uuid}",
    response_model=Record,
    summary="One run",
    responses={404: {"model": ErrorResponse, "description": "There is no such run to see."}},
)
def get_record(request: Request, principal: CurrentPrincipal, id: uuid.UUID) -> Record:
    """Return one run."""
    return _to_record(get_run_or_404(request, principal, id))


async def _parse_body(request: Request) -> LegacyRequest:
    """Return the request's body; its content type must be JSON, which no form of another site can send."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, f"Content-Type {kind!r} is refused: send the fields as 'application/json'.")
    try:
        return LegacyRequest.model_validate_json(await request.body())
    except ValidationError as error:
        raise HTTPException(422, describe_errors(error)) from None


_BODY_SCHEMA = {"required": True, "content": {"application/json": {"schema": LegacyRequest.model_json_schema()}}}


@create_router.post(
    "/",
    response_model=Record,
    status_code=201,
    summary="Create a run",
    openapi_extra={"requestBody": _BODY_SCHEMA},
    responses={
        403: {"model": ErrorResponse, "description": "You may not, in Kubernetes' words; or another site sent this."},
        413: {"model": ErrorResponse, "description": f"The body has more than {MAX_BODY_BYTES} bytes."},
        415: {"model": ErrorResponse, "description": "The body does not say that it is JSON."},
    },
)
def create_record(
    request: Request,
    response: Response,
    principal: CurrentPrincipal,
    legacy: Annotated[LegacyRequest, Depends(_parse_body)],
    namespace: Annotated[
        str | None, Query(pattern=NAMESPACE_PATTERN, description="Default: the admin's setting.")
    ] = None,
) -> Record:
    """Create a TrainingTask as whoever asks. The run is in the history when the operator has seen it, in a second or so."""
    namespace = namespace or request.app.state.settings.namespace
    audited: dict[str, Any] = {
        "user": principal.name,
        "address": audit.get_client_address(request),
        "namespace": namespace,
    }
    if principal.by_session and not is_same_origin(request):
        audit.record("create", "refused", **audited, status=403, reason=CROSS_SITE)
        raise HTTPException(403, CROSS_SITE)
    task, ignored = build_task(legacy)
    answer = _create_task(request.app.state.api_server, principal, namespace, task, audited)
    created = TrainingTask.model_validate(answer)
    key = run_id(str(created.metadata.uid), 1)
    response.headers["Location"] = get_site_path(request, f"/{key}")
    return Record(
        id=key,
        name=created.metadata.name,
        namespace=created.metadata.namespace,
        status=RunStatus.PENDING,
        create_time=created.metadata.creation_timestamp,
        ignored=ignored,
        **_get_legacy_fields(answer["spec"], {}),
    )


def _create_task(
    api: ApiServer, principal: Principal, namespace: str, task: dict[str, Any], audited: dict[str, Any]
) -> dict[str, Any]:
    """Create the task with the principal's token, and audit the result."""
    name = task["metadata"]["name"]
    try:
        answer = api.create_task(principal.token or "", namespace, task)
    except TaskRejected as error:
        audit.record("create", "refused", **audited, status=error.status, reason=str(error))
        raise HTTPException(error.status, str(error)) from None
    except ApiServerError as error:
        audit.record("create", "unknown", **audited, name=name, reason=str(error))
        raise
    audit.record("create", "ok", **audited, name=name)  # before the answer is parsed, which may fail
    return answer


def build_task(legacy: LegacyRequest) -> tuple[dict[str, Any], list[str]]:
    """Return the task that a legacy request describes, and the fields that its model does not use.

    Raises
    ------
    HTTPException
        422, when the task is invalid.
    """
    model = _parse_model_name(legacy.MODEL_NAME)
    spec: dict[str, dict[str, Any]] = {"dataset": {}, "model": model, "training": {}}
    ignored = []
    for field, (section, key) in _SPEC_PATHS.items():
        value = getattr(legacy, field)
        if field == "MODEL_NAME" or value is None:
            continue
        if field in _TRANSFORMER_FIELDS and model["name"] in CLASSICAL_MODELS:
            ignored.append(field)
            continue
        if field == "IS_TRAINER":
            value = (Loop.TRAINER if value else Loop.ACCELERATE).value
        spec[section][key] = value
    task = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": _generate_name(legacy)}, "spec": spec}
    try:
        TrainingTask.model_validate(task)
    except ValidationError as error:
        sentences = describe_errors(error)
        for field, path in _SPEC_PATHS.items():
            sentences = sentences.replace(f"spec.{'.'.join(path)}:", f"{field}:")
        raise HTTPException(422, sentences) from None
    return task, ignored


def _parse_model_name(name: str) -> dict[str, str]:
    """Return the `model` section: a registered name unchanged, a checkpoint with its family, else with 'auto'."""
    if name in MODELS or not {"-", "/"} & set(name):
        return {"name": name}
    base = name.rpartition("/")[2]
    family = next(
        (family for family in TRANSFORMER_FAMILIES if base == family or base.startswith(f"{family}-")), "auto"
    )
    return {"name": family, "checkpoint": name}


def _generate_name(legacy: LegacyRequest) -> str:
    words = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in legacy.MODEL_NAME.lower())
    suffix = "".join(secrets.choice(_SUFFIX_ALPHABET) for _ in range(8))
    return f"{words[: _MAX_NAME_LENGTH - 9].strip('-') or 'run'}-{suffix}"


def _to_record(run: RunDetail) -> Record:
    own = {name: getattr(run, name) for name in Record.model_fields if name in RunDetail.model_fields}
    fields = _get_legacy_fields(run.spec or {}, run.training_args or {})
    return Record(**own, **(fields | {"DATASET_NAME": run.dataset, "MODEL_NAME": fields["MODEL_NAME"] or run.model}))


def _get_legacy_fields(spec: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the seven fields: the arguments that the trainer reported, else those of the spec."""
    found = {field: arguments.get(".".join(path), get_path(spec, *path)) for field, path in _SPEC_PATHS.items()}
    family = get_path(spec, "model", "name")
    found["MODEL_NAME"] = get_path(spec, "model", "checkpoint") or family
    found["IS_TRAINER"] = found["IS_TRAINER"] != Loop.ACCELERATE.value if family in TRANSFORMER_FAMILIES else None
    # The row may be of another release, or of a custom trainer image.
    return {field: value if _is_representable(value, _FIELD_TYPES[field]) else None for field, value in found.items()}


def _is_representable(value: Any, wanted: type[Any] | UnionType) -> bool:
    return isinstance(value, wanted) and (isinstance(value, str | bool) or to_finite(value) is not None)
