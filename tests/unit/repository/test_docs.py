"""What the Markdown files claim and a program can check: links, tasks, make targets, chart values and metrics."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from support import specs
from trainingtask_api import TrainingTask, TrainingTaskSpec
from trainingtask_cli.__main__ import app

ROOT = Path(__file__).parents[3]
FOLDERS = (folder for folder in ROOT.iterdir() if folder.is_dir() and not folder.name.startswith("."))
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in folder.rglob("*.md"))])
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
GUIDES = [name for name in TEXTS if re.match(r"docs/how-to/|docs/operations|docs/tutorial|README", name)]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", TEXTS)
def test_relative_links_lead_to_files_and_headings(name: str) -> None:
    text = re.sub(r"^```.*?^```", "", TEXTS[name], flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http:", "https:")):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), target


def spec_sections(text: str) -> Iterator[dict[str, Any]]:
    """Yield the sections of a task's spec in each YAML block of a page that has some."""
    fields = set(TrainingTaskSpec.model_json_schema()["properties"])
    for block in re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for manifest in yaml.safe_load_all(block):
            sections = manifest.get("spec", manifest)
            if manifest.get("kind", "TrainingTask") == "TrainingTask" and sections.keys() <= fields:
                yield sections


@pytest.mark.parametrize(("name", "sections"), [(name, part) for name in GUIDES for part in spec_sections(TEXTS[name])])
def test_specs_in_guides_are_valid(name: str, sections: dict[str, Any]) -> None:
    TrainingTask.model_validate(specs.task("documented", specs.TRANSFORMER | sections))


@pytest.mark.parametrize("name", TEXTS)
def test_make_targets_exist(name: str) -> None:
    targets = set(re.findall(r"^([.\w/$()-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = re.findall(r"(?:`|^)make ([a-z][a-z-]*)", TEXTS[name], re.MULTILINE)
    assert set(named) <= targets


@pytest.mark.parametrize("name", TEXTS)
def test_commands_of_the_plugin_exist(name: str) -> None:
    text = TEXTS[name].replace("\\\n", " ")
    for command, arguments in re.findall(r"kubectl trainingtask ([a-z]+)\b([^`#|\n]*)", text):
        found = get_command(app).commands[command]  # type: ignore[attr-defined]
        known = {option for parameter in found.params for option in parameter.opts}
        assert set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", re.sub(r"'[^']*'|\"[^\"]*\"", "", arguments))) <= known, (
            arguments
        )


@pytest.mark.parametrize("name", GUIDES)
def test_chart_values_in_guides_exist(name: str) -> None:
    values = re.findall(r"^\| `([\w.<>]+)` \|", TEXTS["docs/reference/values.md"], re.MULTILINE)
    roots = "|".join({value.partition(".")[0] for value in values if "." in value} - {"image"})
    for named in re.findall(rf"`((?:{roots})(?:\.\w+)+)`", TEXTS[name]):
        assert any(f"{value}.".startswith(f"{named}.") for value in values), named


@pytest.mark.parametrize("name", TEXTS)
def test_metrics_in_documents_exist(name: str) -> None:
    metrics = re.findall(r"^\| `(\w+)` \|", TEXTS["docs/reference/metrics.md"], re.MULTILINE)
    named = re.findall(r"\b(trainingtask_(?:\w+_(?:total|seconds|bucket|rows|depth)|leader|tasks))\b", TEXTS[name])
    assert {metric.removesuffix("_bucket") for metric in named} <= set(metrics)


ROOMS = re.findall(r"^### .*?\(\.\./(.*?)\)\n(.*?)(?=^##)", TEXTS["docs/architecture.md"], re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(("folder", "text"), ROOMS, ids=[folder for folder, _ in ROOMS])
def test_architecture_names_the_modules_of_a_room(folder: str, text: str) -> None:
    room = ROOT / folder
    named = {name.rstrip("/") for name in re.findall(r"`([\w./-]+(?:\.py|/))`", text)}
    assert [name for name in named if not any(room.glob(f"**/{name}"))] == []
    modules = {path.name for path in room.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert modules - {part for name in named for part in name.split("/")} - {"__init__.py"} == set()
