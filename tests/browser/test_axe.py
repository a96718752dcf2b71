"""axe finds no violation on any page, wide and on a phone, light and dark; no page is wider than its window."""

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from support.sample_history import SampleHistory

WIDE = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}
# The only rule whose result depends on the colour scheme.
CONTRAST = ["color-contrast"]


def addresses(address: str, empty: str, sample: SampleHistory) -> dict[str, str]:
    """Return the address of each kind of page."""
    succeeded = [str(run.id) for run in sample.runs if run.status == "Succeeded"][:4]
    running = sample.get_run("emotions-roberta-large-batch")
    return {
        "list": f"{address}/runs?label=team=ml",
        "no match": f"{address}/runs?namespace=nowhere",
        "refused filter": f"{address}/runs?label=nothing",
        "empty": f"{empty}/runs",
        "running": f"{address}/runs/{running.id}",
        "succeeded": f"{address}/runs/{sample.get_run('emotions-bert-base', 2).id}",
        "failed": f"{address}/runs/{sample.get_run('emotions-bert-base', 1).id}",
        "waiting": f"{address}/runs/{sample.get_run('queries-auto').id}",
        "two compared": f"{address}/runs/compare?ids={succeeded[0]},{running.id}",
        "several compared": f"{address}/runs/compare?ids={','.join(succeeded)}",
        "sign in": f"{address}/session?problem=unknown",
        "not found": f"{address}/runs/none",
    }


@pytest.mark.parametrize(
    ("viewport", "scheme", "rules"),
    [(WIDE, "light", None), (PHONE, "dark", None), (WIDE, "dark", CONTRAST), (PHONE, "light", CONTRAST)],
    ids=["wide-light", "phone-dark", "wide-dark-contrast", "phone-light-contrast"],
)
def test_no_page_has_a_violation(
    open_page: Callable[..., Page],
    address: str,
    empty_address: str,
    sample: SampleHistory,
    viewport: dict[str, int],
    scheme: str,
    rules: list[str] | None,
) -> None:
    page = open_page("about:blank", viewport=viewport, color_scheme=scheme)
    found: dict[str, str] = {}
    for name, url in addresses(address, empty_address, sample).items():
        page.goto(url)
        page.locator("details").evaluate_all("all => all.forEach((one) => { one.open = true; })")
        results = Axe().run(page, options={"resultTypes": ["violations"], **({"runOnly": rules} if rules else {})})
        if results.violations_count:
            found[name] = results.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"], name
    assert found == {}
