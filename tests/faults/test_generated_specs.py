"""Generated specs: the API server either refuses one with a message, or its Job is valid."""

import asyncio
import copy
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from support import specs
from support.control_plane import ControlPlane
from support.kube_api import JOBS, TASKS, Api, ApiError
from support.task_namespace import Object
from trainingtask_api import TrainingTask, names
from trainingtask_api.crd import build_crd
from trainingtask_operator.controller.job_builder import build_job
from trainingtask_operator.settings import Settings

DryRun = Callable[[str, Object], Object | ApiError]
EXAMPLES = 300
NAMESPACE = "default"
SCHEMA = build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
TEXTS = ["", " ", "0", "a", "A-b_c", "a.b/c", "..", "../a", "./a", "a/../b", "é", "名", "😀", "\x00", "'\"\\", "{{x}}", "$(HOME)", "1e9", "x" * 600]  # fmt: skip
ODD = st.sampled_from([None, [], {}, "", 0, -1, True, 1e308, "nonsense", ["a"], {"a": "b"}])


def build_values(schema: Object) -> st.SearchStrategy[Any]:
    """Return values at and around what a schema allows, and some of another type."""
    if "enum" in schema:
        return st.sampled_from([*schema["enum"], "other"]) | ODD
    kind = schema.get("type")
    if kind in ("integer", "number"):
        low, high = schema.get("minimum", 0), schema.get("maximum", 10)
        edges = [low, high, low - 1, high + 1, (low + high) / 2, (low + high) // 2]
        return st.sampled_from(edges) | ODD
    if kind == "boolean":
        return st.booleans() | ODD
    if kind == "array":
        return st.lists(build_values(schema["items"]), max_size=3) | ODD
    if kind == "object" and "properties" in schema:
        fields = {name: build_values(part) for name, part in schema["properties"].items()}
        return st.fixed_dictionaries({}, optional=fields) | ODD
    least, most = schema.get("minLength", 0), schema.get("maxLength", 300)
    sizes = [n for n in (least - 1, least, most, most + 1) if n >= 0]
    return st.sampled_from(TEXTS) | st.sampled_from(["a" * n for n in sizes]) | st.text(max_size=20) | ODD


def iterate_fields(schema: Object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Object]]:
    """Iterate over all fields of a schema, with the section first and then what is in it."""
    for name, part in schema.get("properties", {}).items():
        yield (*path, name), part
        yield from iterate_fields(part, (*path, name))


@st.composite
def generate_specs(draw: st.DrawFn) -> Object:
    """Return a spec: a good one, with a few fields changed or taken away."""
    spec = copy.deepcopy(specs.GOOD[draw(st.sampled_from(sorted(specs.GOOD)))])
    for _ in range(draw(st.integers(0, 3))):
        path, schema = draw(st.sampled_from(list(iterate_fields(SCHEMA))))
        part: Any = spec
        for section in path[:-1]:
            part = part.setdefault(section, {}) if isinstance(part, dict) else {}
        if not isinstance(part, dict):
            continue
        if path[-1] in part and draw(st.booleans()):
            del part[path[-1]]
        else:
            part[path[-1]] = copy.deepcopy(draw(build_values(schema)))  # the next change may be inside it
    return spec


NAMES = st.sampled_from(["a", "a" * 63, "a" * 64, "1.2", "a.b-c", "9", "A", "-a", "a-", "a..b", "tt" + "-x" * 30])


@pytest.fixture(scope="module")
def dry_run(plane: ControlPlane) -> Iterator[DryRun]:
    """Return a function that creates an object in a dry run, and returns the object or the error."""
    loop = asyncio.new_event_loop()
    api = Api(str(plane.kubeconfig()))
    loop.run_until_complete(api.__aenter__())

    def create(path: str, manifest: Object) -> Object | ApiError:
        try:
            created: Object = loop.run_until_complete(api.request("POST", path, manifest, dryRun="All"))
        except ApiError as refusal:
            return refusal
        return created

    yield create
    loop.run_until_complete(api.__aexit__())
    loop.run_until_complete(asyncio.sleep(0.1))  # the connections close
    loop.close()


def settings_for(task: TrainingTask) -> Settings:
    """Return settings that offer the device and the profile of the task."""
    device = {"image": "trainer:any", "resources": {"cpu": "1", "memory": "2Gi"}}
    profile = task.spec.resources and task.spec.resources.profile
    profiles = {profile: {"device": task.spec.device.value, **device}} if profile else {}
    return Settings.model_validate(
        {"namespaces": [NAMESPACE], "devices": {"cpu": device, "gpu": device}, "profiles": profiles}
    )


def test_generated_specs_are_refused_with_a_message_or_have_a_valid_job(dry_run: DryRun) -> None:
    outcomes: Counter[str] = Counter()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(spec=generate_specs(), name=NAMES)
    def check(spec: Object, name: str) -> None:
        outcomes[check_spec(dry_run, spec, name)] += 1

    check()
    print(dict(outcomes))
    assert min(outcomes["refused"], outcomes["valid"]) >= EXAMPLES // 10, outcomes


def check_spec(dry_run: DryRun, spec: Object, name: str) -> str:
    stored = dry_run(f"{TASKS}/namespaces/{NAMESPACE}/{names.PLURAL}", specs.task(name, spec, NAMESPACE))
    if isinstance(stored, ApiError):
        assert stored.status in (400, 422), stored
        assert re.search(r'"message":"[^"]{10}', str(stored)), stored
        return "refused"
    mistakes: set[str] = set()
    try:
        task = TrainingTask.model_validate(stored)
    except ValidationError as error:
        mistakes = {item["type"] for item in error.errors()}
    if mistakes:
        # The API server takes 2147483647.5 for an integer: it compares the first nine digits. The status has InvalidSpec.
        assert mistakes == {"int_from_float"}, mistakes
        return "refused by the operator"
    job = dry_run(f"{JOBS}/namespaces/{NAMESPACE}/jobs", build_job(task, settings_for(task)))
    assert not isinstance(job, ApiError), f"the task is accepted, and its Job is refused: {job}"
    return "valid"
