"""The page about failures and the tests that provoke them: each row names one that is there."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "failure-modes.md").read_text(encoding="utf-8")
ROWS = [row for row in re.findall(r"^\| (?!Failure|---).*$", PAGE, re.MULTILINE) if not row.startswith("|---")]
LINK = re.compile(r"\[`(test_\w+)`\]\((\.\./tests/\S+\.py)\)")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_a_failure_is_linked_to_its_tests(row: str) -> None:
    links = LINK.findall(row)
    assert links
    assert row.count("](") == len(links), "each link is one to a test"
    for test, file in links:
        assert f"def {test}(" in (DOCS / file).read_text(encoding="utf-8")


def test_every_test_of_a_fault_is_on_the_page() -> None:
    linked = {test for test, _ in LINK.findall(PAGE)}
    faults = (DOCS.parent / "tests" / "faults").glob("test_*.py")
    there = {
        test for file in faults for test in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    assert there - linked == set()
