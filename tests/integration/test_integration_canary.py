"""Canaries with real parts: Prometheus scrapes a service in two versions behind nginx, whose
weights come from the GitOps repository. All of them run at once.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest

from canary_sites import Behaviour, Site, running_site
from commands import Forked
from nodes import node
from peers.process import free_port
from peers.prometheus import prometheus
from serving import serving
from shipline.cli import main
from shipline.oci import Reference
from ships import Project, new_project
from spec_client import Target

pytestmark = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("nginx")),
    reason="needs the Debian packages prometheus and nginx-light",
)

ENVIRONMENT = """\
{name}:
  gitops:
    repository: ../{name}.git
    updates: [{{manifests: stable.yaml}}]
  canary:
    weights: {{httproute: route.yaml, stable: app, canary: app-canary}}
    updates: [{{manifests: canary.yaml}}]
    steps: [{{weight: 20, hold: 2s}}, {{weight: 50, hold: 2s}}]
    analysis:
      prometheus: {{url: "http://127.0.0.1:{port}"}}
      interval: 500ms
      timeout: 2s
      count: 2
      failure-limit: 1
      metrics:
        - name: errors
          promql: >-
            sum(rate(web_requests_total{{code="500",site="{name}",service="{{{{canary}}}}"}}
            [{{{{window}}}}])) /
            sum(rate(web_requests_total{{site="{name}",service="{{{{canary}}}}"}}[{{{{window}}}}]))
          max: 0.04
          max-increase: 0.03
          samples: &samples >-
            sum(increase(web_requests_total{{site="{name}",service="{{{{canary}}}}"}}[{{{{window}}}}]))
          min-samples: 10
          window: 2s
        - name: latency
          promql: >-
            sum(rate(web_seconds_sum{{site="{name}",service="{{{{canary}}}}"}}[{{{{window}}}}])) /
            sum(rate(web_seconds_count{{site="{name}",service="{{{{canary}}}}"}}[{{{{window}}}}]))
          max-ratio: 1.5
          samples: *samples
          min-samples: 10
          window: 2s
"""
VERSIONS = {
    "old": Behaviour(),
    "good": Behaviour(),
    "errors": Behaviour(fail_every=10),
    "slow": Behaviour(delay_s=0.04),
}
CASES = {"good": "good", "errors": "errors", "slow": "slow", "idle": "good", "lost": "good"}
"""The image that each environment gets."""


@dataclass
class Running:
    """A `shipline canary` in its environment."""

    project: Project
    site: Site
    image: str
    process: Forked | None = None
    status: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        return self.site.work / f"{self.site.name}.log"

    @property
    def told(self) -> str:
        return self.log.read_text()

    def start(self, *words: str, verb: str = "canary") -> None:
        self.log.touch()
        arguments = [verb, "--env", self.site.name, *words]
        self.process = Forked(
            main,
            arguments,
            cwd=self.project.root,
            environ=self.project.environ(),
            stdout=self.log,
            stderr=self.log,
        )

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        assert self.process.wait(20) == -signal.SIGKILL

    def end(self) -> None:
        assert self.process
        try:
            self.status = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(self.told) from None

    def has_weight(self, weight: int) -> bool:
        return f"weight: {weight}\n" in self.site.show("route.yaml")


def run_through(case: Running, *, kills: bool = False) -> None:
    case.start(case.image)
    for weight in (20, 50) if kills else ():
        case.site.until(partial(case.has_weight, weight))
        case.kill()
        case.start("--resume" if weight == 50 else case.image)
    case.end()


def run_idle(case: Running) -> None:
    case.start(case.image)
    case.site.until(lambda: case.told.count("no_data") >= 16)  # the hold is over for long
    case.facts["weights"] = list(case.site.weights)
    assert case.process
    case.process.send_signal(signal.SIGTERM)
    case.end()


def run_lost(case: Running, work: Path, port: int) -> None:
    jobs = [scraped({"lost": case.site})]
    with prometheus(work, jobs, interval="200ms", port=port):
        case.start(case.image)
        case.site.until(lambda: "latency: pass" in case.told)
    before = case.told  # Prometheus may have answered until it was gone

    def failed(times: int) -> bool:
        return case.told.removeprefix(before).count("latency: error") >= times

    for name, times in (("first", 1), ("fifth", 5)):
        case.site.until(partial(failed, times))
        case.facts[f"at the {name} error"] = list(case.site.weights)
    with prometheus(work, jobs, interval="200ms", port=port):
        case.end()


def scraped(sites: Mapping[str, Site]) -> dict[str, Any]:
    targets = [
        {"targets": [f"127.0.0.1:{port}"], "labels": {"site": name, "service": service}}
        for name, site in sites.items()
        for service, port in site.ports.items()
    ]
    return {"job_name": "web", "static_configs": targets}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Future[Running]]]:
    work = tmp_path_factory.mktemp("canary")
    with ExitStack() as stack:
        running = stack.enter_context(node(work / "data"))
        target = Target(running.url, "team/app")
        images = {}
        for name in VERSIONS:
            digest = target.push(target.image(name), name)["Docker-Content-Digest"]
            images[name] = Reference.parse(f"{running.address}/team/app:{name}@{digest}")
        behaviours = {str(images[name].digest): one for name, one in VERSIONS.items()}
        sites = {name: Site(name, work, behaviours) for name in CASES}
        shared = {name: site for name, site in sites.items() if name != "lost"}
        port = stack.enter_context(prometheus(work, [scraped(shared)], interval="200ms"))
        ports = dict.fromkeys(CASES, port) | {"lost": free_port()}
        text = "image: {image}\nbuild: {platforms: [linux/amd64]}\nenvironments:\n" + "".join(
            indent(ENVIRONMENT.format(name=name, port=ports[name]), "  ") for name in CASES
        )
        project = new_project(work, running, text)
        for name, site in sites.items():
            site.create(images["old"])
            stack.enter_context(running_site(site, clients=0 if name == "idle" else 2))
        started = {
            name: Running(project, site, str(images[CASES[name]])) for name, site in sites.items()
        }
        lost = work / "lost-prometheus"
        lost.mkdir()
        pool = stack.enter_context(ThreadPoolExecutor(len(CASES)))
        runs: Mapping[str, Callable[[Running], None]] = {
            "good": partial(run_through, kills=True),
            "errors": run_through,
            "slow": run_through,
            "idle": run_idle,
            "lost": partial(run_lost, work=lost, port=ports["lost"]),
        }

        def run(name: str) -> Running:
            runs[name](started[name])
            return started[name]

        yield {name: pool.submit(run, name) for name in CASES}


def ended(cases: Mapping[str, Future[Running]], name: str) -> Running:
    return cases[name].result(120)


def is_back(case: Running) -> bool:
    """Whether the repository has what it had before."""
    old = case.image.replace(CASES[case.site.name], "old").partition("@")[0]
    files = [case.site.show(path) for path in ("stable.yaml", "canary.yaml")]
    return all(f"image: {old}@" in text for text in files) and case.has_weight(0)


def test_a_good_version_reaches_all_traffic_through_two_kills(
    cases: Mapping[str, Future[Running]],
) -> None:
    case = ended(cases, "good")
    assert case.status == 0, case.told
    assert case.site.subjects() == [
        "give app good 20 % in good",
        "give app good 20 % in good",  # taken up again
        "give app good 50 % in good",
        "give app good 50 % in good",
        "deploy app good to good",
        "give app good 0 % in good",
        "verify app good in good: pass",
    ]
    assert case.image in case.site.show("stable.yaml")
    assert [weight for weight in case.site.weights if weight][:1] == [20]
    assert case.site.statuses[200] > 100 and not case.site.statuses[500]


@pytest.mark.parametrize("name", ["errors", "slow"])
def test_a_bad_version_is_rolled_back(cases: Mapping[str, Future[Running]], name: str) -> None:
    case = ended(cases, name)
    metric = {"errors": "errors", "slow": "latency"}[name]
    assert case.status == 9, case.told
    assert case.site.subjects()[-2:] == [
        f"roll back app to old in {name}",
        f"hold app {name} in {name}",
    ]
    assert f"rolled back and held: {metric}: fail" in case.told
    assert is_back(case)
    again = case.project.run("canary", "--env", name, case.image)
    assert (
        again.status == 9 and f"it is held in {name} by" in again.err and "canary at" in again.err
    )
    case.site.until(lambda: case.site.weights[-1] == 0)


def test_an_idle_service_is_held(cases: Mapping[str, Future[Running]]) -> None:
    case = ended(cases, "idle")
    assert case.facts["weights"][-1] == 20 and 50 not in case.site.weights
    assert case.site.subjects() == ["give app good 20 % in idle"]
    assert "pass" not in case.told and "Traceback" not in case.told
    assert case.status not in (0, None)


def test_the_loss_of_prometheus_holds_and_its_return_goes_on(
    cases: Mapping[str, Future[Running]],
) -> None:
    case = ended(cases, "lost")
    assert case.facts["at the fifth error"] == case.facts["at the first error"]
    assert case.facts["at the first error"][-1] in (20, 50)
    assert case.status == 0, case.told
    assert case.site.subjects()[-3:] == [
        "deploy app good to lost",
        "give app good 0 % in lost",
        "verify app good in lost: pass",
    ]
    assert "Traceback" not in case.told


CHAIN = """\
image: {image}
build: {platforms: [linux/amd64]}
environments:
  dev:
    gitops: {repository: ../dev.git, updates: [{manifests: stable.yaml}]}
  live:
    after: dev
    gitops: {repository: ../live.git, updates: [{manifests: stable.yaml}]}
    canary:
      weights: {httproute: route.yaml, stable: app, canary: app-canary}
      updates: [{manifests: canary.yaml}]
      steps: [{weight: 20, hold: HOLD}]
"""


def test_a_promotion_takes_over_step_by_step_and_a_rollback_ends_it(tmp_path: Path) -> None:
    with node(tmp_path / "data") as running:
        target = Target(running.url, "team/app")
        images = {}
        for name in ("old", "new"):
            digest = target.push(target.image(name), name)["Docker-Content-Digest"]
            images[name] = Reference.parse(f"{running.address}/team/app:{name}@{digest}")
        project = new_project(tmp_path, running, CHAIN.replace("HOLD", "1h"))
        dev, live = (Site(name, tmp_path, {}) for name in ("dev", "live"))
        dev.create(images["new"])
        live.create(images["old"])
        files = {path: live.show(path) for path in ("stable.yaml", "canary.yaml", "route.yaml")}
        case = Running(project, live, str(images["new"]))
        case.start(verb="promote")
        live.until(lambda: case.has_weight(20))
        case.kill()
        shown = project.run("status").ok().out
        assert "canary new 20 %" in shown
        assert project.run("drift", "--env", "live").out.count("live") >= 1
        project.run("rollback", "--env", "live").ok()
        assert {path: live.show(path) for path in files} == files
        assert live.subjects()[1:] == ["roll back app to old in live", "hold app new in live"]
        refused = project.run("promote", "--env", "live")
        assert refused.status == 9 and "held in live" in refused.err
        project.run("release", "--env", "live").ok()
        project.write(
            "shipline.yaml", CHAIN.replace("{image}", project.image).replace("HOLD", "1s")
        )
        done = project.run("promote", "--env", "live").ok()
        assert live.subjects()[4:] == [
            "give app new 20 % in live",
            "promote app new from dev to live",
            "give app new 0 % in live",
            "verify app new in live: pass",
        ]
        assert done.out.strip() == live.git("rev-parse", "main~2").strip()
        assert str(images["new"]) in live.show("stable.yaml") and case.has_weight(0)
        again = project.run("promote", "--env", "live").ok()
        assert "has" in again.err and len(live.subjects()) == 8
        project.run(
            "deploy", "--env", "live", str(images["old"]), "--emergency", "new is slow"
        ).ok()
        assert {path: live.show(path) for path in files} == files
        status = [500]
        with serving(lambda _: (status[0], {}, b"")) as page:
            text = (project.root / "shipline.yaml").read_text()
            health = f"health: {{timeout: 1s, url: {{address: {page.url}}}}}"
            project.write(
                "shipline.yaml", text.replace("    canary:", f"    {health}\n    canary:")
            )
            unhealthy = project.run("promote", "--env", "live")
            assert unhealthy.status in (11, 17), unhealthy.err
            assert live.subjects()[-1] == "promote app new from dev to live"
            assert case.has_weight(20) and str(images["new"]) in live.show("stable.yaml")
            status[0] = 200
            project.run("promote", "--env", "live").ok()
            assert live.subjects()[-1] == "give app new 0 % in live" and case.has_weight(0)
