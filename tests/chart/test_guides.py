"""The chart's values and helm commands in guides: the chart accepts them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from support.helm import CHART, ROOT, helm

VALUES = set(yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8")))
PAGES = [ROOT / "README.md", CHART / "README.md", ROOT / "docs" / "operations.md", *(ROOT / "docs").glob("how-to/*.md")]
# What the guides assume.
ASSUMED = """
trainer: {namespaces: [ml-team, research]}
history: {external: {operatorSecret: {name: history-owner}, readerSecret: {name: history-reader}}}
"""


def read_blocks(page: Path, language: str) -> list[str]:
    pattern = rf"^ *```{language}\n(.*?)^ *```"
    return re.findall(pattern, page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def iterate_values() -> Iterator[tuple[str, str]]:
    """Yield each YAML block that holds the chart's values, with its page."""
    for page in PAGES:
        for block in read_blocks(page, "yaml"):
            manifest = next(yaml.safe_load_all(block))
            if isinstance(manifest, dict) and manifest.keys() <= VALUES:
                yield page.stem, block


def iterate_commands() -> Iterator[tuple[str, list[str]]]:
    """Yield the options of each command that installs or renders the chart, with its page."""
    for page in PAGES:
        for block in read_blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line.partition(" | ")[0], comments=True)
                if words[:1] == ["helm"] and "charts/trainingtask-operator" in words:
                    options = words[words.index("charts/trainingtask-operator") + 1 :]
                    yield page.stem, [word for word in options if word != "…"]


@pytest.mark.parametrize(("page", "values"), list(iterate_values()))
def test_values_of_a_guide_are_accepted(page: str, values: str, tmp_path: Path) -> None:
    files = {"assumed": ASSUMED, "given": values}
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    done = helm("template", "tt", str(CHART), *(f"--values={tmp_path / name}" for name in files))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("page", "options"), list(iterate_commands()))
def test_a_helm_command_of_a_guide_is_accepted(page: str, options: list[str]) -> None:
    for option in ("--reset-then-reuse-values", "--take-ownership"):  # of a release that is there
        options = [given for given in options if given != option]
    if "--values" in options:  # a file of the reader's, which is a block of the page
        del options[(index := options.index("--values")) : index + 2]
    done = helm("template", "tt", str(CHART), *options)
    assert done.returncode == 0, done.stderr
