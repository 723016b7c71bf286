"""A real Prometheus scrapes nodes and a Pushgateway, and answers the questions of rules and
dashboards; VictoriaMetrics takes the same metrics over OTLP.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from gitops import KUSTOMIZATION, new_gitops
from nodes import Node
from peers.prometheus import prometheus, pushgateway, query, victoria_metrics
from served import served
from shipline.server.http import Request, Response
from shipline.server.metrics import Metrics
from shipline.telemetry.metrics import METRICS
from shipline.values import replace
from ships import Project, coverage, new_project
from spec_client import Target

DOCS = Path(__file__).resolve().parents[2] / "docs"
RULES = sorted((DOCS / "prometheus").glob("*.rules.yml"))
DASHBOARDS = sorted((DOCS / "grafana").glob("*.json"))
PROGRAMS = ("prometheus", "promtool", "prometheus-pushgateway", "victoria-metrics")
CONFIGURATION = """\
image: {image}
build: {platforms: [linux/amd64]}
steps:
  test: {run: mkdir -p out && cp given.xml out/c.xml, reports: {coverage: out/c.xml}}
  scan:
    needs: [build]
    run: mkdir -p out && sed "s|IMAGE|$SHIPLINE_IMAGE|" scan.json > out/s.json
    reports: {vulnerabilities: out/s.json}
gates:
  coverage: {min: 50}
  vulnerabilities: {max: 9}
environments:
  dev: {gitops: {repository: ../deploy.git, updates: [{kustomization: dev}]}}
  live: {gitops: {repository: ../deploy.git, updates: [{kustomization: live}]}, after: dev}
"""
SCAN = {
    "SchemaVersion": 2,
    "ArtifactName": "IMAGE",
    "ArtifactType": "container_image",
    "Metadata": {"RepoDigests": ["IMAGE"], "ImageConfig": {"architecture": "amd64", "os": "linux"}},
    "Results": [
        {
            "Target": "app",
            "Class": "os-pkgs",
            "Packages": [{"Name": "libc6"}],
            "Vulnerabilities": [
                {
                    "VulnerabilityID": "CVE-2024-1",
                    "PkgName": "libc6",
                    "InstalledVersion": "1",
                    "FixedVersion": "2",
                    "Severity": "CRITICAL",
                }
            ],
        }
    ],
}

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, PROGRAMS)), reason=f"needs {', '.join(PROGRAMS)}"
)


@dataclass(frozen=True)
class Landscape:
    """Ports of the peers, two nodes of which the second follows the first, and a project whose runs
    send their metrics.
    """

    prometheus: int
    gateway: int
    victoria: int
    primary: Node
    edge: Node
    project: Project

    def exposed(self) -> dict[str, set[str]]:
        """The names of all samples that the program makes, with their labels."""
        found: dict[str, set[str]] = {}
        for address in (self.primary.address, self.edge.address, f"127.0.0.1:{self.gateway}"):
            with urlopen(f"http://{address}/metrics") as answer:
                text = answer.read().decode()
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    found.setdefault(sample.name, set()).update(sample.labels)
        return found


@pytest.fixture(scope="module")
def landscape(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Landscape]:
    work = tmp_path_factory.mktemp("metrics")
    places = {name: work / name for name in ("primary", "edge", "project")}
    for place in places.values():
        place.mkdir()
    with ExitStack() as stack:
        enter = stack.enter_context
        gateway, victoria = enter(pushgateway(work)), enter(victoria_metrics(work))
        primary = enter(served(places["primary"], "role: primary\n" + WEBHOOK))
        target = Target(primary.url, "cached/app")
        assert target.push(target.image("x"), "v1").status == 201
        edge = enter(served(places["edge"], EDGE.format(primary=primary.address)))
        assert Target(edge.url, "cached/app").call("GET", "manifests/v1").status == 200
        jobs = {"shipline-registry": [primary.address, edge.address]}
        jobs["pushgateway"] = [f"127.0.0.1:{gateway}"]
        scraped = [
            {"job_name": name, "honor_labels": True, "static_configs": [{"targets": targets}]}
            for name, targets in jobs.items()
        ]
        port = enter(prometheus(work, scraped, rules=RULES))
        project = _project(places["project"], primary, gateway, victoria)
        project.ship().ok()
        project.commit("fix: two", app="two\n")
        project.ship("--until", "dev").ok()
        project.run("rollback", "--env", "dev").ok()
        project.commit("fix: less covered", given__xml=coverage(1))
        project.ship().failed(9)
        project.run("env", "metrics", "--send").ok()
        yield Landscape(port, gateway, victoria, primary, edge, project)


WEBHOOK = "webhooks: [{name: ci, url: 'http://127.0.0.1:9/', allow: [127.0.0.0/8]}]\n"
EDGE = """\
role: edge
replication: [{{name: main, from: "{primary}", repositories: [team/**]}}]
upstreams: [{{url: "http://{primary}", match: "cached/*"}}]
"""


def _project(place: Path, node: Node, gateway: int, victoria: int) -> Project:
    files = {"given__xml": coverage(9), "scan__json": json.dumps(SCAN), "__gitignore": "out\n"}
    project = new_project(place, node, CONFIGURATION, **files)
    kustomizations = {
        f"{name}/kustomization.yaml": KUSTOMIZATION.replace("{image}", project.image)
        for name in ("dev", "live")
    }
    new_gitops(place / "deploy.git", project.environ(), kustomizations)
    otlp = f"http://127.0.0.1:{victoria}/opentelemetry/v1/metrics"
    environ = {
        "SHIPLINE_PUSHGATEWAY": f"http://127.0.0.1:{gateway}",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": otlp,
    }
    return replace(project, environment=environ)


def wait(port: int, question: str) -> list[dict[str, Any]]:
    """The samples that an expression has now; waits until there are some."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if found := query(port, question):
            return found
        time.sleep(0.2)
    raise AssertionError(f"no answer to {question}")


def rules() -> Iterator[tuple[str, str]]:
    """Names and expressions of all rules."""
    for path in RULES:
        for group in YAML(typ="safe").load(path)["groups"]:
            for rule in group["rules"]:
                yield rule.get("record") or rule["alert"], rule["expr"]


def panels() -> Iterator[tuple[str, str, str]]:
    """Dashboard, panel, and each of its expressions, as Grafana asks them."""
    for path in DASHBOARDS:
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            for target in panel["targets"]:
                yield path.stem, panel["title"], _asked(target["expr"])


def variables() -> Iterator[tuple[str, str]]:
    """The metrics and labels that the variables of dashboards list."""
    for path in DASHBOARDS:
        for one in json.loads(path.read_text())["templating"]["list"]:
            if match := re.fullmatch(r"label_values\((\w+), (\w+)\)", str(one["query"])):
                yield match[1], match[2]


def _asked(expression: str) -> str:
    text = expression.replace("$__rate_interval", "1m").replace("$__range_s", "3600")
    text = text.replace("$__range", "1h")
    return re.sub(r"\$(pipeline|environment|instance)", ".*", text)


SELECTOR = re.compile(r"([a-z_]\w*(?::\w+)*)(?:\{([^}]*)\})?(?=[\s)\[/*>,]|$)")
WORDS = ("by", "on", "and", "or", "unless", "offset", "ignoring", "without", "time")


def selected(expression: str) -> Iterator[tuple[str, Sequence[str]]]:
    """The metrics that an expression reads, with the labels that it selects by."""
    without = re.sub(r"\b(by|on|ignoring|without)\s*\([^)]*\)", "", expression)
    for match in SELECTOR.finditer(without):
        named = match[1] == "up" or (match[1] not in WORDS and re.search("[_:]", match[1]))
        if named and not without[match.end() :].lstrip().startswith("("):
            yield match[1], re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", match[2] or "")


def grouped(expression: str) -> set[str]:
    """The labels that it groups and joins by."""
    lists = re.findall(r"\b(?:by|on|ignoring|without)\s*\(([^)]*)\)", expression)
    return {label.strip() for found in lists for label in found.split(",")}


def test_what_rules_and_dashboards_read_is_what_the_program_exports(landscape: Landscape) -> None:
    exposed = landscape.exposed()
    expressions = dict(rules())
    recorded = {name: grouped(text) for name, text in expressions.items() if ":" in name}
    known: Mapping[str, set[str]] = {**exposed, **recorded, "up": set()}
    for place, text in [*rules(), *((f"{a}: {b}", text) for a, b, text in panels())]:
        read = [*selected(text)]
        assert read, f"{place}: nothing is read by {text}"
        for metric, labels in read:
            assert metric in known, f"{place}: {metric} is not exported"
            assert {*labels} <= known[metric] | {"instance", "job"}, f"{place}: {metric} {labels}"
        all_labels = set[str]().union(*(known[metric] for metric, _ in read))
        assert grouped(text) <= all_labels | {"instance", "job"}, f"{place}: {grouped(text)}"
    for metric, label in variables():
        assert label in known[metric] | {"instance"}, f"label_values({metric}, {label})"


def test_runs_make_every_metric_of_the_table(landscape: Landscape) -> None:
    exposed = landscape.exposed()
    missing = {one.name for one in METRICS} - {name.removesuffix("_count") for name in exposed}
    assert missing == set()


def test_prometheus_evaluates_every_query_and_rule(landscape: Landscape) -> None:
    port = landscape.prometheus
    pulls = 'shipline_registry_requests_total{route="manifests",method="GET"} >= 1'
    assert wait(port, pulls)
    assert wait(port, "shipline_registry:request_duration_seconds:p99_5m > 0")
    assert wait(port, 'shipline_registry_stored{kind="manifests"} >= 1')
    counted = 'shipline_run_duration_seconds_count{pipeline="app",kind="ship"}'
    results = {one["metric"]["result"]: one["value"][1] for one in wait(port, counted)}
    assert results == {"success": "2", "failure": "1"}
    assert wait(port, 'shipline_run_errors_total{reason="policy"} == 1')
    assert wait(port, 'shipline_vulnerabilities{severity="critical",fixable="yes"} == 1')
    assert wait(port, 'shipline_environment_deployed_timestamp_seconds{environment="live"} > 0')
    for _, _, expression in panels():
        query(port, expression)
    with urlopen(f"http://127.0.0.1:{port}/api/v1/rules") as answer:
        groups = json.load(answer)["data"]["groups"]
    states = {
        rule["name"]: rule["lastError"]
        for group in groups
        for rule in group["rules"]
        if "lastError" in rule
    }
    assert not any(states.values()), states
    assert {rule["health"] for group in groups for rule in group["rules"]} <= {"ok", "unknown"}


def test_metrics_cost_less_than_three_hundredths_of_a_pull(landscape: Landscape) -> None:
    """Of the processor's time for it, in one run."""
    address, number = landscape.primary.address, 1000

    def used() -> float:
        with urlopen(f"http://{address}/metrics") as answer:
            return float(re.findall(rb"^process_cpu_seconds_total (\S+)", answer.read(), re.M)[0])

    with closing(HTTPConnection(address)) as connection:
        before = used()
        for _ in range(number):
            connection.request("GET", "/v2/cached/app/manifests/v1")
            assert connection.getresponse().read()
        pull_s = (used() - before) / number
    metrics, request, response = Metrics(), Request("GET", "/"), Response.of(200, (), b"x")
    began = time.process_time()
    for _ in range(number):
        metrics.record(request, response, 0.001)
    assert (time.process_time() - began) / number < 0.03 * pull_s


def test_metrics_over_otlp_have_the_same_names_and_labels(landscape: Landscape) -> None:
    port = landscape.victoria
    wait(port, 'shipline_run_duration_seconds_count{result="failure"}')
    wait(port, 'cicd_pipeline_run_duration_seconds_count{cicd_pipeline_result="success"}')
    wait(port, 'cicd_pipeline_run_errors_total{cicd_pipeline_name="app"}')
    wait(port, "shipline_deployments_total")
    exposed = landscape.exposed()
    for metric in METRICS:
        name = f"{metric.name}_count" if metric.kind == "histogram" else metric.name
        if name in exposed:
            labels = {label for one in query(port, name) for label in one["metric"]}
            assert {*metric.labels} - {"target", "stage"} <= labels, f"{name}: {labels}"


def test_rules_of_the_docs_are_good_and_fire_when_they_say() -> None:
    for words in (["check", "rules", *map(str, RULES)], ["test", "rules", str(TESTS)]):
        done = subprocess.run(
            ["promtool", *words], capture_output=True, text=True, cwd=TESTS.parent
        )
        assert done.returncode == 0, done.stdout + done.stderr


TESTS = Path(__file__).with_name("prometheus_rules.yml")
