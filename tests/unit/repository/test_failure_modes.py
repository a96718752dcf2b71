"""The pages about failures and attacks, and the tests that provoke them: each row names one that is there."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[3] / "docs"
FAILURES, ATTACKS = ((DOCS / page).read_text(encoding="utf-8") for page in ("failure-modes.md", "security.md"))
ROWS = [row for row in re.findall(r"^\| (?!Failure|---).*$", FAILURES, re.MULTILINE) if not row.startswith("|---")]
LINK = re.compile(r"\[`(test_\w+)`\]\((\.\./tests/\S+\.py)\)")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_a_failure_is_linked_to_its_tests(row: str) -> None:
    links = LINK.findall(row)
    assert links
    assert row.count("](") == len(links), "each link is one to a test"


def test_every_linked_test_is_there() -> None:
    for test, file in LINK.findall(FAILURES + ATTACKS):
        assert f"def {test}(" in (DOCS / file).read_text(encoding="utf-8"), f"{test} in {file}"


def test_every_test_of_an_attack_on_the_cluster_is_on_a_page() -> None:
    linked = {test for test, _ in LINK.findall(ATTACKS)}
    legitimate = {"test_the_tasks_own_pod_reports", "test_the_demos_account_sees_its_namespace_alone"}
    attacks = (DOCS.parent / "tests" / "cluster").glob("test_attacks_*.py")
    assert find_tests(attacks) - linked - legitimate == set()


def test_every_test_of_a_fault_is_on_a_page() -> None:
    linked = {test for test, _ in LINK.findall(FAILURES + ATTACKS)}
    assert find_tests((DOCS.parent / "tests" / "faults").glob("test_*.py")) - linked == set()


def find_tests(files: Iterable[Path]) -> set[str]:
    return {
        test for file in files for test in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }
