"""The tables of a run, in Markdown."""

from collections.abc import Callable
from dataclasses import replace
from statistics import median

from scenarios import Measurement, ScaleMeasurement, Size

BASELINE = "plain asyncio"
OPERATOR = "ours"


Round = dict[str, Measurement]


def format_report(rounds: list[Round], scaled: ScaleMeasurement | None, size: Size) -> str:
    """Return the tables: the variants side by side, ours against its goals, and its requests; medians of the rounds."""
    measured = {name: _compute_medians([each[name] for each in rounds]) for name in rounds[0]}
    sections = [_format_variants(measured, size)]
    if OPERATOR in measured:
        sections += [_format_goals(measured[OPERATOR], rounds, scaled, size), _format_requests(measured[OPERATOR])]
    return "\n\n".join(sections)


def _compute_medians(rounds: list[Measurement]) -> Measurement:
    numbers = [name for name, value in vars(rounds[0]).items() if isinstance(value, float)]
    return replace(rounds[-1], **{name: median(getattr(each, name) for each in rounds) for name in numbers})


def _format_variants(measured: dict[str, Measurement], size: Size) -> str:
    lines = [
        f"| system | create → Job, idle p50 | {size.burst:,} tasks: last Job | pod running → status, idle / burst p50 "
        "| Job ended → status, idle / burst p50 | all ended | API requests per task | CPU per task | RSS, peak / after |",
        "|" + "---|" * 9,
    ]
    lines += [
        f"| {name} | {m.idle_job:.0f} ms | {m.last_job:.1f} s | {m.idle_running:.0f} / {m.burst_running:.0f} ms "
        f"| {m.idle_ended:.0f} / {m.burst_ended:.0f} ms | {m.all_ended:.0f} s | {m.requests:.1f} | {m.cpu:.1f} ms "
        f"| {m.peak_rss:.0f} / {m.rss:.0f} MiB |"
        for name, m in measured.items()
    ]
    return "\n".join(lines)


def _format_goals(ours: Measurement, rounds: list[Round], scaled: ScaleMeasurement | None, size: Size) -> str:
    def to_floor(what: Callable[[Measurement], float]) -> float:
        return median(what(each[OPERATOR]) / what(each[BASELINE]) for each in rounds)

    rows: list[tuple[str, float, float, str]] = [
        ("pod running → status, idle p50", ours.idle_running, 25, "ms"),
        ("pod running → status, burst p50", ours.burst_running, 150, "ms"),
        ("Job ended → terminal status, idle p50", ours.idle_ended, 50, "ms"),
        ("Job ended → terminal status, burst p50", ours.burst_ended, 50, "ms"),
        ("API requests per task", ours.requests, 4, ""),
        ("CPU per task", ours.cpu, 12, "ms"),
        (f"peak RSS, {size.burst:,} tasks", ours.peak_rss, 150, "MiB"),
    ]
    if BASELINE in rounds[0]:
        rows[:0] = [
            (f"last of {size.burst:,} Jobs, × the floor", to_floor(lambda each: each.last_job), 1.5, "×"),
            ("create → Job, idle p50, × the floor", to_floor(lambda each: each.idle_job), 2, "×"),
        ]
    if scaled is not None:
        rows += [
            (f"RSS, {size.finished:,} finished tasks", scaled.rss_finished, 250, "MiB"),
            (f"peak RSS, start with {size.finished:,} finished tasks", scaled.peak_rss_finished, 250, "MiB"),
            (f"start → first Job, {size.finished:,} finished tasks", scaled.start_to_job, 5, "s"),
            (f"create → Job while {size.progress:,} report, × quiet", scaled.progress_job / scaled.quiet_job, 2, "×"),
        ]
    lines = ["| goal | measured | at most | |", "|---|---|---|---|"]
    lines += [
        f"| {what} | {value:{'.2f' if unit == '×' else '.1f'}} {unit} | {limit:g} {unit} | {'met' if value <= limit else 'MISSED'} |"
        for what, value, limit, unit in rows
    ]
    if scaled is not None:
        lines += [
            "",
            f"{size.progress:,} trainers made {scaled.reports:.0f} reports a second: the API server used "
            f"{scaled.api_cpu:.2f} cores ({scaled.quiet_api_cpu:.2f} without them), that is "
            f"{1000 * (scaled.api_cpu - scaled.quiet_api_cpu) / max(scaled.reports, 1e-9):.1f} ms a report; the operator "
            f"{scaled.operator_cpu:.2f} cores. A new task's Job took {scaled.progress_job:.0f} ms "
            f"({scaled.quiet_job:.0f} ms without them).",
        ]
    return "\n".join(lines)


def _format_requests(ours: Measurement) -> str:
    """Return the API server's counters of all clients, for the calls that only the operator makes."""
    only_ours = [
        ("POST", "jobs"),
        ("GET", "jobs"),
        ("PATCH", "jobs"),
        ("DELETE", "jobs"),
        ("APPLY", "trainingtasks/status"),
        ("PATCH", "trainingtasks/status"),
        ("GET", "trainingtasks"),
        ("GET", "pods/log"),
    ]
    lines = ["| verb | resource | requests per task |", "|---|---|---|"]
    lines += [
        f"| {verb} | {resource} | {ours.calls.by_call[verb, resource] / ours.tasks:.2f} |"
        for verb, resource in only_ours
        if ours.calls.by_call[verb, resource]
    ]
    return "\n".join(lines)
