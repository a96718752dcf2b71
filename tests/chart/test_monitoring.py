"""The rendered chart: what Prometheus and Grafana get, and that it names metrics which the operator has."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from support.helm import CHART, ROOT, assert_refused, named, of_kind, render
from trainingtask_operator import metrics

NAME = "tt-trainingtask-operator"
ENABLED = [f"--set=metrics.{part}.enabled=true" for part in ("podMonitor", "prometheusRule", "dashboard")]
RULES = yaml.safe_load((CHART / "files" / "monitoring" / "rules.yaml").read_text(encoding="utf-8"))
DASHBOARD = json.loads((CHART / "files" / "monitoring" / "dashboard.json").read_text(encoding="utf-8"))
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
QUERIES = [rule["expr"] for rule in ALERTS] + [
    target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]
]


def series_of_the_operator() -> Iterator[tuple[str, set[str]]]:
    """Yield the name of each series with its labels."""
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            labels = set(metric._labelnames)
            endings = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}[family.type]
            yield from (
                (family.name + ending, labels | ({"le"} if ending == "_bucket" else set())) for ending in endings
            )


def test_nothing_is_monitored_by_default() -> None:
    assert not {"PodMonitor", "PrometheusRule", "ServiceMonitor"} & {manifest["kind"] for manifest in render()}
    assert f"{NAME}-dashboard" not in [manifest["metadata"]["name"] for manifest in of_kind(render(), "ConfigMap")]


def test_the_pod_monitor_selects_the_operators_metrics_port() -> None:
    manifests = render(*ENABLED, "--set=metrics.podMonitor.labels.release=prometheus")
    monitor, deployment = named(manifests, "PodMonitor", NAME), named(manifests, "Deployment", NAME)
    pod = deployment["spec"]["template"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in [port["name"] for port in pod["spec"]["containers"][0]["ports"]]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_the_service_monitor_selects_a_service_of_the_operators_metrics_port() -> None:
    options = ["--set=metrics.serviceMonitor.enabled=true", "--set=metrics.serviceMonitor.interval=30s"]
    manifests = render(*options, "--set=metrics.serviceMonitor.labels.release=prometheus")
    monitor, service = named(manifests, "ServiceMonitor", NAME), named(manifests, "Service", f"{NAME}-metrics")
    pod = named(manifests, "Deployment", NAME)["spec"]["template"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    others = [other for other in of_kind(manifests, "Service") if other != service]
    assert not [
        o for o in others if monitor["spec"]["selector"]["matchLabels"].items() <= o["metadata"]["labels"].items()
    ]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    (port,), (endpoint,) = service["spec"]["ports"], monitor["spec"]["endpoints"]
    assert endpoint == {"port": port["name"], "path": "/metrics", "interval": "30s"}
    ports = {found["name"]: found["containerPort"] for found in pod["spec"]["containers"][0]["ports"]}
    assert ports[port["targetPort"]] == port["port"]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert_refused("a Prometheus that reads both counts twice", *options, *ENABLED)


def test_the_rules_and_the_dashboard_are_those_of_the_files() -> None:
    manifests = render(*ENABLED)
    assert named(manifests, "PrometheusRule", NAME)["spec"] == RULES
    dashboard = named(manifests, "ConfigMap", f"{NAME}-dashboard")
    assert json.loads(dashboard["data"]["trainingtask.json"]) == DASHBOARD
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_names_metrics_and_labels_of_the_operator(query: str) -> None:
    series = dict(series_of_the_operator())
    named_series = re.findall(r"\btrainingtask_\w+", query)
    assert named_series
    assert set(named_series) <= set(series)
    known = set().union(*(series[name] for name in named_series))
    grouped = {label for labels in re.findall(r"\bby \(([^)]*)\)", query) for label in labels.split(", ")}
    assert grouped | set(re.findall(r"[{,](\w+)=", query)) <= known
    assert all(query.count(opening) == query.count(closing) for opening, closing in ("()", "[]", "{}"))


def test_every_alert_is_on_the_page_with_its_severity() -> None:
    page = (ROOT / "docs" / "how-to" / "alert-on-metrics.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(TrainingTask\w+)` \|", page, re.MULTILINE) == [alert["alert"] for alert in ALERTS]
    for alert in ALERTS:
        assert alert["labels"]["severity"] in ("critical", "warning", "info")
        assert alert["annotations"]["summary"].endswith(".")


def test_the_dashboards_panels_do_not_overlap() -> None:
    panels: list[dict[str, Any]] = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    cells = [
        (place["x"] + column, place["y"] + row)
        for place in places
        for column in range(place["w"])
        for row in range(place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(column for column, _ in cells) < 24
    (variable,) = DASHBOARD["templating"]["list"]
    sources = [target["datasource"]["uid"] for panel in panels for target in panel["targets"]]
    assert set(sources) == {f"${{{variable['name']}}}"}
