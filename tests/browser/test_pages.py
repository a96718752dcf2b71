"""The pages in a real browser: by keyboard, live, without scripts, and with hostile names."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from playwright.sync_api import Page, expect
from sqlalchemy import Engine

from support.sample_history import SampleHistory
from trainingtask_api import TrainingTask
from trainingtask_history.store import record
from trainingtask_history.tables import MetricPoint, RunEvent, RunStatus, TrainingRun, run_id

OpenPage = Callable[..., Page]
UPDATE = 5000  # milliseconds, longer than the pause between two updates
PHONE = {"width": 390, "height": 844}
HOSTILE = '<img src=x onerror="document.title=1">' + "\u202eW" * 20 + "🦜" + "x" * 60


def record_running(engine: Engine, key: str, **changes: Any) -> TrainingRun:
    """Record a running run in a namespace of its own."""
    now = datetime.now(UTC)
    fields: dict[str, Any] = {
        "id": run_id(key, 1), "task_uid": key, "namespace": f"live-{key}", "name": key, "attempt": 1, "dataset": "table",
        "model": "bert", "device": "cpu", "status": "Running", "create_time": now - timedelta(minutes=3),
        "start_time": now - timedelta(minutes=2), "phase": "Training", "step": 10, "total_steps": 100, "eta": "9m",
    }  # fmt: skip
    run = TrainingRun(**(fields | changes))
    record(engine, run)
    return run


def test_the_list_is_usable_by_keyboard(open_page: OpenPage, address: str) -> None:
    page = open_page(f"{address}/runs")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    order = []
    for _ in range(9):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.name || document.activeElement.textContent"))
    assert order == [
        "Pause updates", "text", "state", "namespace", "dataset", "model", "Filter", "More filters", "ids",
    ]  # fmt: skip
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Label")).to_be_focused()
    page.keyboard.type("team=ml")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("label="))
    assert parse_qs(urlsplit(page.url).query) == {"label": ["team=ml"]}  # no empty fields in the address
    assert set(page.locator(".c-namespace").all_text_contents()) == {"ml-team"}


def test_the_focus_is_visible(open_page: OpenPage, address: str) -> None:
    page = open_page(f"{address}/runs")
    for wanted in ("nav a", "input[name=text]", "input[name=ids]", ".c-task a", "button[data-compare]"):
        page.locator(wanted).first.focus()
        page.keyboard.press("Shift")  # a key press makes the focus visible
        outline = page.locator(wanted).first.evaluate("(item) => getComputedStyle(item).outline")
        assert re.search(r"\b[1-9]\d*(\.\d+)?px\b", outline), (wanted, outline)
        assert "none" not in outline, wanted


def test_runs_are_chosen_and_compared_by_keyboard(open_page: OpenPage, address: str) -> None:
    page = open_page(f"{address}/runs?state=Succeeded&limit=5")
    page.locator("input[name=ids]").first.focus()
    page.keyboard.press("Space")
    expect(page.locator("[data-chosen]")).to_have_text("1 ticked: tick one more.")
    button = page.get_by_role("button", name="Compare selected")
    button.press("Enter")
    expect(page.locator("#announcement")).to_have_text("1 ticked: tick one more.")
    assert urlsplit(page.url).path == "/runs"
    page.locator("input[name=ids]").nth(2).press("Space")
    expect(page.locator("[data-chosen]")).to_have_text("2 ticked.")
    button.press("Enter")
    page.wait_for_url(re.compile("/runs/compare"))
    expect(page.get_by_role("heading", level=1)).to_have_text("Compare 2 runs")
    page.go_back()
    expect(page.locator("[data-chosen]")).to_have_text("2 ticked.")


def test_a_live_list_updates_and_keeps_ticks_and_focus(open_page: OpenPage, address: str, engine: Engine) -> None:
    run = record_running(engine, "followed")
    page = open_page(f"{address}/runs?namespace={run.namespace}", own_clock=True)
    expect(page.locator("#live-state")).to_have_text("Live")
    page.locator("input[name=ids]").check()
    page.locator(".c-task a").focus()
    run.step = 55
    record(engine, run)
    page.clock.run_for(UPDATE)
    expect(page.locator(".c-state")).to_contain_text("Training 55%")
    expect(page.locator(".c-task a")).to_be_focused()
    expect(page.locator("input[name=ids]")).to_be_checked()
    run.status, run.finish_time, run.score = RunStatus.SUCCEEDED.value, datetime.now(UTC), 0.625
    record(engine, run)
    page.clock.run_for(UPDATE)
    expect(page.locator(".state")).to_have_text("Succeeded")
    expect(page.locator(".c-score")).to_have_text("0.625")
    expect(page.locator("#announcement")).to_have_text("followed: Succeeded")
    expect(page.locator("#live-state")).to_have_text("Nothing is active")
    expect(page.locator("#live-pause")).to_be_hidden()


def test_updates_can_be_paused(open_page: OpenPage, address: str, engine: Engine) -> None:
    run = record_running(engine, "paused")
    page = open_page(f"{address}/runs/{run.id}", own_clock=True)
    page.get_by_role("button", name="Pause updates").click()
    expect(page.locator("#live-state")).to_have_text("Paused")
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    run.step = 80
    record(engine, run)
    page.clock.run_for(10 * UPDATE)
    assert requested == []
    page.get_by_role("button", name="Go on").click()
    page.clock.run_for(UPDATE)
    expect(page.locator("#run-head")).to_contain_text("Training 80%")
    assert set(requested) == {page.url}


def test_an_unreachable_server_is_retried(open_page: OpenPage, address: str, engine: Engine) -> None:
    run = record_running(engine, "away")
    page = open_page(f"{address}/runs/{run.id}", own_clock=True)
    page.route("**/runs/*", lambda route: route.abort())
    page.clock.run_for(UPDATE)
    expect(page.locator("#live-state")).to_have_text("No answer: tried again")
    page.unroute("**/runs/*")
    run.step = 30
    record(engine, run)
    page.clock.run_for(3 * UPDATE)
    expect(page.locator("#run-head")).to_contain_text("Training 30%")
    expect(page.locator("#live-state")).to_have_text("Live")


def test_no_updates_without_active_runs(open_page: OpenPage, address: str, sample: SampleHistory) -> None:
    page = open_page(f"{address}/runs/{sample.get_run('emotions-bert-base', 2).id}")
    expect(page.locator("#live")).to_be_hidden()


def test_a_live_run_gets_new_curves_and_events(open_page: OpenPage, address: str, engine: Engine) -> None:
    run = record_running(engine, "grows")
    page = open_page(f"{address}/runs/{run.id}", own_clock=True)
    expect(page.locator("#run-curves")).to_have_text("None yet.")
    points = [MetricPoint(run_id=run.id, name="training_loss", step=step, value=1 / step) for step in range(1, 30)]
    event = RunEvent(run_id=run.id, time=datetime.now(UTC), type="Interrupted", reason="Evicted", message="Drained.")
    record(engine, run, points=points, events=[event])
    page.clock.run_for(UPDATE)
    expect(page.locator(".chart .u-wrap canvas")).to_be_visible()
    expect(page.locator(".timeline")).to_contain_text("Drained.")
    wait_until_drawn(page)


def wait_until_drawn(page: Page) -> None:
    """Wait until each chart has pixels in the colour of each of its lines."""
    page.wait_for_function(
        """() => [...document.querySelectorAll(".chart")].every((chart) => {
            const canvas = chart.querySelector("canvas");
            const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            return [...chart.querySelectorAll(".legend .line")].every((line) => {
                const [red, green, blue] = getComputedStyle(line).stroke.match(/\\d+/g).map(Number);
                for (let at = 0; at < pixels.length; at += 4)
                    if (pixels[at] === red && pixels[at + 1] === green && pixels[at + 2] === blue && pixels[at + 3] === 255) return true;
                return false;
            });
        })"""
    )


def test_curves_are_drawn_and_show_values_on_hover(open_page: OpenPage, address: str, sample: SampleHistory) -> None:
    run = sample.get_run("emotions-bert-base", 2)
    for scheme in ("light", "dark"):
        page = open_page(f"{address}/runs/{run.id}", color_scheme=scheme)
        expect(page.locator(".chart canvas")).to_have_count(3)
        wait_until_drawn(page)
    value = page.locator(".chart").nth(1).locator(".value")
    last = value.text_content()
    page.locator(".chart").nth(1).locator(".u-over").hover(position={"x": 2, "y": 20})
    expect(value).to_have_text(re.compile(r"^0\.\d+ at 134$"))
    page.mouse.move(0, 0)
    expect(value).to_have_text(last or "")


def test_charts_resize_with_the_window(open_page: OpenPage, address: str, sample: SampleHistory) -> None:
    page = open_page(f"{address}/runs/{sample.get_run('emotions-bert-base', 2).id}")
    page.set_viewport_size(PHONE)
    page.wait_for_function(
        "[...document.querySelectorAll('.chart canvas')].every((one) => one.getBoundingClientRect().right <= 390)"
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("getComputedStyle(document.body).backgroundColor === 'rgb(18, 21, 25)'")
    wait_until_drawn(page)


def test_ten_compared_runs_have_ten_styles(open_page: OpenPage, address: str, sample: SampleHistory) -> None:
    ids = [str(run.id) for run in sample.runs if run.model in ("bert", "albert", "roberta") and run.score][:10]
    page = open_page(f"{address}/runs/compare?ids={','.join(ids)}")
    chart = page.locator(".chart").first
    expect(chart.locator(".legend li")).to_have_count(10)
    expect(chart.locator("canvas")).to_be_visible()
    styles = chart.locator(".legend .line").evaluate_all(
        "(all) => all.map((one) => getComputedStyle(one).stroke + getComputedStyle(one).strokeDasharray)"
    )
    assert len(set(styles)) == 10


def test_the_task_is_copied_as_yaml(open_page: OpenPage, address: str, sample: SampleHistory) -> None:
    run = sample.get_run("emotions-bert-base", 2)
    page = open_page(f"{address}/runs/{run.id}", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy as YAML").click()
    expect(page.locator("#announcement")).to_have_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    task = TrainingTask.model_validate(yaml.safe_load(copied))
    assert (task.metadata.name, task.spec.model.name) == ("emotions-bert-base", "bert")


def test_all_pages_work_without_scripts(open_page: OpenPage, address: str, sample: SampleHistory) -> None:
    page = open_page(f"{address}/runs?text=emotions&state=Succeeded", java_script_enabled=False)
    expect(page.locator("#live")).to_be_hidden()
    for box in page.locator("input[name=ids]").all()[:2]:
        box.check()
    page.get_by_role("button", name="Compare selected").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Compare 2 runs")
    page.get_by_role("link", name="Runs", exact=True).first.click()
    page.get_by_label("State").select_option("Failed")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("tr[data-run]")).to_have_count(5)
    page.get_by_role("link", name="Runs", exact=True).first.click()
    page.get_by_role("link", name="Older runs").click()
    expect(page.locator("tr[data-run]").first).to_be_visible()
    page.goto(f"{address}/runs/{sample.get_run('emotions-bert-base', 2).id}")
    expect(page.locator(".chart .outline polyline").first).to_be_visible()
    expect(page.locator("button.copy").first).to_be_hidden()
    page.get_by_text("The numbers of these curves").click()
    expect(page.get_by_role("region", name="Mean average precision by step")).to_be_visible()
    expect(page.locator("#yaml")).to_contain_text("kind: TrainingTask")


def test_an_active_run_refreshes_without_scripts(open_page: OpenPage, address: str, sample: SampleHistory) -> None:
    page = open_page(f"{address}/runs/{sample.get_run('emotions-roberta-large-batch').id}", java_script_enabled=False)
    assert page.locator("meta[http-equiv=refresh]").get_attribute("content") == "10"


def test_hostile_and_long_names_do_not_break_the_layout(open_page: OpenPage, address: str, engine: Engine) -> None:
    labels = [{"label": f"{number} {HOSTILE}", "f1": 0.5, "support": 3} for number in range(1000)]
    runs = [
        record_running(
            engine, f"hostile-{number}", namespace="hostile", name=HOSTILE, dataset=HOSTILE, model=HOSTILE, status="Failed",
            finish_time=datetime.now(UTC), error_reason="x" * 128, error_message=HOSTILE * 30, log_tail=HOSTILE * 50,
            labels={HOSTILE: HOSTILE}, spec={"field": HOSTILE * 3, "number": number},
            evaluate_result={"micro": {"f1": 0.5}, "per_label": labels}, score=0.5,
        )
        for number in range(2)
    ]  # fmt: skip
    page = open_page("about:blank")
    for viewport in (PHONE, {"width": 1000, "height": 900}):
        page.set_viewport_size(viewport)
        for path in ("/runs?namespace=hostile", f"/runs/{runs[0].id}", f"/runs/compare?ids={runs[0].id},{runs[1].id}"):
            page.goto(address + path)
            assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"], (viewport, path)
            assert page.title() != "1"
            assert page.locator("img").count() == 0


def test_reduced_motion_disables_animation(open_page: OpenPage, address: str) -> None:
    page = open_page(f"{address}/runs", reduced_motion="reduce")
    expect(page.locator("#live")).to_be_visible()
    assert page.locator("#live .dot").evaluate("(dot) => getComputedStyle(dot).animationName") == "none"
