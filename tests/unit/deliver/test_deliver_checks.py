"""Verifying a deployment: waiting for what was deployed, checks, the verdict in git."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from commits import Work, with_remote
from peers.page import page
from shipline.deliver.checks import (
    EnvironmentCheck,
    EnvironmentVerdict,
    NotVerified,
    verify,
    wait_until_running,
)
from shipline.deliver.delivery import Delivery
from shipline.deliver.environments import EnvironmentSection
from shipline.deliver.gitops import Action, Deployment, GitOpsSection, Superseded, Update, history
from shipline.deliver.health import CheckSection, HealthSection, UrlHealth
from shipline.deliver.runtime import RunningState, RuntimeUnreadable
from shipline.errors import ConfigError, GateUndecided
from shipline.events import Event, Finished, Logged, Stream, silent
from shipline.gates import DastGate, GatesSection, Severity, TestsGate, Waiver
from shipline.git import Git
from shipline.oci import Digest, Reference
from shipline.registry import NoKeychain, settings_from
from shipline.registry.http import HttpClient
from shipline.units import Day, Duration
from shipline.values import replace

pytestmark = pytest.mark.slow

OLD, NEW = (
    Reference("registry.example", "team/app", tag, Digest("sha256", letter * 64))
    for tag, letter in (("1.0", "a"), ("1.1", "b"))
)
DEPLOYMENT = Deployment("staging", "app", (NEW,), commit="c" * 40)
URL = UrlHealth(address="http://localhost")


def health(timeout: str = "10s", grace: str = "200ms") -> HealthSection:
    return HealthSection(url=URL, timeout=Duration.parse(timeout), grace=Duration.parse(grace))


def state(image: Reference | None = NEW, **facts: Any) -> RunningState:
    names = frozenset({str(image)}) if image else frozenset[str]()
    return RunningState(names, **{"wanted": names, **facts})


@dataclass
class Script:
    """States one after another; the last one stays."""

    states: list[RunningState | RuntimeUnreadable]
    reads: int = 0

    def read(
        self, images: tuple[Reference, ...], commit: str = "", *, refresh: bool = False
    ) -> RunningState:
        assert refresh is (self.reads == 0) or isinstance(self.states[0], RuntimeUnreadable)
        found = self.states[min(self.reads, len(self.states) - 1)]
        self.reads += 1
        if isinstance(found, RuntimeUnreadable):
            raise found
        return found


def waited(*states: RunningState | RuntimeUnreadable, **facts: str) -> EnvironmentCheck:
    with silent() as step:
        return wait_until_running(Script([*states]), health(**facts), DEPLOYMENT, step)


def test_what_runs_and_is_healthy_passes_at_once() -> None:
    assert waited(state()).grade == "pass"


def test_a_healthy_old_image_is_waited_for() -> None:
    """Kubernetes and Argo CD are healthy also before they have seen the change."""
    assert waited(state(OLD), state(synced=False), state()).grade == "pass"
    late = waited(state(OLD), timeout="300ms")
    assert late.grade == "fail" and "is healthy, but" in late.reason
    assert str(NEW) in late.reason and f"{OLD} still does" in late.reason


def test_a_degraded_rollout_fails_after_the_grace_period() -> None:
    broken = state(health="degraded", message="CrashLoopBackOff")
    failed = waited(broken, timeout="60s")
    assert (failed.grade, failed.reason) == ("fail", "CrashLoopBackOff")
    assert waited(broken, state(), timeout="60s", grace="60s").grade == "pass"


def test_a_degraded_old_version_is_no_failure_of_the_new_one() -> None:
    broken = state(OLD, health="degraded", message="CrashLoopBackOff")
    assert waited(*[broken] * 4, state(), grace="1ms").grade == "pass"


def test_a_revision_that_cannot_be_applied_fails() -> None:
    failed = waited(state(OLD, synced=False, failure="no matches for kind"), timeout="60s")
    assert (failed.grade, failed.reason) == ("fail", "no matches for kind")


def test_what_cannot_be_seen_is_no_verdict() -> None:
    busy = RuntimeUnreadable("the server is busy", retriable=True)
    assert waited(busy, busy, state()).grade == "pass"
    assert waited(busy, timeout="200ms").grade == "error"
    refused = waited(RuntimeUnreadable("no right", hint="get one"), timeout="60s")
    assert (refused.grade, refused.hint) == ("error", "get one")


def test_the_revision_of_the_deployment_is_enough_for_images_of_later_jobs() -> None:
    job = replace(OLD, repository="team/job")
    deployment = replace(DEPLOYMENT, images=(NEW, job), id="d" * 40)
    with silent() as step:
        for revision, grade in (("d" * 40, "pass"), ("e" * 40, "fail")):
            source = Script([state(revision=revision)])
            done = wait_until_running(source, health(timeout="200ms"), deployment, step)
            assert done.grade == grade


# -- checks ------------------------------------------------------------------------------------


@dataclass
class Setup:
    """A project at `root` with a GitOps repository, to which DEPLOYMENT was pushed."""

    delivery: Delivery
    work: Work
    gitops: GitOpsSection
    root: Path
    events: list[Event]

    def verify(self, *, gates: GatesSection | None = None, **more: Any) -> EnvironmentVerdict:
        flags = {key: more.pop(key) for key in ("checks", "keep") if key in more}
        checks = more.pop("section_checks", {})
        section = EnvironmentSection(gitops=self.gitops, checks=checks, **more)
        with Stream(self.events.append) as stream, stream.step("verify") as step:
            return verify(self.delivery, section, DEPLOYMENT, step, gates=gates, **flags)

    def check(self, run: str, **facts: Any) -> EnvironmentVerdict:
        gates = facts.pop("gates", None)
        return self.verify(section_checks={"smoke": CheckSection(run=run, **facts)}, gates=gates)

    def records(self) -> list[Deployment]:
        with self.delivery.branch(self.gitops) as branch:
            said = history(branch, branch.fetch(), "app")
        return [one for one in said if one.action is Action.VERIFY]

    @property
    def shown(self) -> bytes:
        return b"".join(one.data for one in self.events if isinstance(one, Logged))


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    work, remote = with_remote(tmp_path)
    environ = {**work.environ, "SECRET_TOKEN": "s3cr3t-value", "OTHER_TOKEN": "o"}
    root = tmp_path / "project"
    root.mkdir()
    delivery = Delivery(
        git=Git(work.path, work.environ),
        root=root,
        home=tmp_path / "home",
        environ=environ,
        repositories=lambda image: pytest.fail("no registry is asked"),
        http=HttpClient(settings_from(environ), NoKeychain()),
    )
    gitops = GitOpsSection(str(remote), (Update(values="values.yaml"),), branch="main")
    made = Setup(delivery, work, gitops, root, [])
    deployed(made, DEPLOYMENT)
    return made


def deployed(setup: Setup, deployment: Deployment) -> None:
    with setup.delivery.branch(setup.gitops) as branch:
        commit = branch.commit(branch.fetch(), {}, {}, deployment.message)
        assert branch.push(commit)


def test_a_check_that_passes_is_recorded_with_what_was_verified(setup: Setup) -> None:
    done = setup.check("echo fine")
    done.require()
    (record,) = setup.records()
    assert (record.verdict, record.images, record.commit) == ("pass", (NEW,), "c" * 40)
    assert record.gates == {"smoke": "pass"} and done.record and record.id == done.record.id


def test_a_check_that_fails_says_how_and_keeps_its_output(setup: Setup) -> None:
    done = setup.check("echo one; echo two >&2; exit 3")
    with pytest.raises(NotVerified, match=r"staging: app 1\.1: smoke: it ended with 3") as failed:
        done.require()
    assert failed.value.__notes__ == ["one", "two"] and failed.value.exit_code == 17
    log = Path(failed.value.hint.rpartition(" ")[2])
    assert log.read_text() == "one\ntwo\n"
    (record,) = setup.records()
    assert (record.verdict, record.reason) == ("fail", "smoke: it ended with 3")


def test_a_check_may_be_a_script_alone(setup: Setup) -> None:
    done = setup.verify(section_checks={"a": "touch one", "b": CheckSection(run="touch two")})
    done.require()
    assert (setup.root / "one").exists() and (setup.root / "two").exists()


def test_later_checks_are_not_run_after_one_that_fails(setup: Setup) -> None:
    checks = {name: CheckSection(run=run) for name, run in (("a", "false"), ("b", "touch ran"))}
    done = setup.verify(section_checks=checks)
    assert [result.name for result in done.results] == ["a"] and not (setup.root / "ran").exists()
    errors = [one.error for one in setup.events if isinstance(one, Finished)]
    assert errors == ["it ended with 1", ""]  # the step of the check, and the one around it


def test_a_check_gets_what_it_is_about_and_no_secrets_unless_named(setup: Setup) -> None:
    script = "env > env.txt; printf %s ${SECRET_TOKEN-none} | sed 's/t-v/t-v/'; echo"
    setup.check(script, pass_env=("SECRET_*",), env={"A": "b"}).require()
    lines = (setup.root / "env.txt").read_text().splitlines()
    for line in (
        f"SHIPLINE_IMAGE={NEW}",
        f"SHIPLINE_DIGEST={NEW.digest}",
        "SHIPLINE_ENVIRONMENT=staging",
        f"SHIPLINE_COMMIT={'c' * 40}",
        "A=b",
        "SECRET_TOKEN=s3cr3t-value",
    ):
        assert line in lines
    assert not any(line.startswith("OTHER_TOKEN") for line in lines)
    assert b"s3cr3t" not in setup.shown and b"***\n" in setup.shown
    (log,) = setup.delivery.home.rglob("smoke.log")
    assert log.read_bytes() == b"***\n"


def test_a_secret_is_hidden_also_where_it_comes_in_pieces(setup: Setup) -> None:
    script = "printf 'a s3cr3t'; sleep 0.3; printf -- '-value b s3c'; sleep 0.2; printf '\\n'"
    setup.check(script, pass_env=("SECRET_TOKEN",)).require()
    (log,) = setup.delivery.home.rglob("smoke.log")
    assert log.read_bytes() == b"a *** b s3c\n"


def test_a_check_ends_at_its_time_limit(setup: Setup) -> None:
    done = setup.check("sleep 60", timeout=Duration.parse("200ms"))
    assert done.grade == "fail" and "took more than 200ms" in done.results[0].reason


def test_a_flaky_check_is_tried_again(setup: Setup) -> None:
    script = "test -e tried || { touch tried; exit 1; }"
    assert setup.check(script, retries=1).grade == "pass"


def test_a_program_that_is_not_there_is_no_verdict(setup: Setup) -> None:
    done = setup.verify(section_checks={"smoke": CheckSection(run=("no-such-program",))})
    with pytest.raises(GateUndecided, match="no-such-program is not installed"):
        done.require()
    assert [one.verdict for one in setup.records()] == ["error"]


def test_a_check_is_no_path(setup: Setup) -> None:
    with pytest.raises(ConfigError, match="is not a name"):
        EnvironmentSection(gitops=setup.gitops, checks={"../a": CheckSection(run="true")})


def test_without_health_and_checks_nothing_is_recorded(setup: Setup) -> None:
    assert setup.verify().grade == "pass" and setup.records() == []


def test_a_pass_without_the_checks_is_not_recorded_as_one(setup: Setup) -> None:
    with page(lambda: (200, {}, str(NEW.digest))) as url:
        checks = {"smoke": CheckSection(run="false")}
        found = HealthSection(url=UrlHealth(address=url, contains="{digest}"))
        done = setup.verify(section_checks=checks, health=found, checks=False)
    assert done.grade == "pass" and done.record is None and setup.records() == []


def test_what_was_deployed_meanwhile_is_not_given_the_verdict(setup: Setup) -> None:
    other = replace(DEPLOYMENT, images=(replace(NEW, digest=OLD.digest),))
    deployed(setup, other)
    with pytest.raises(Superseded, match=r"while 1\.1 was being verified"):
        setup.check("true")
    assert setup.records() == []


# -- reports -----------------------------------------------------------------------------------


@pytest.fixture
def service() -> Iterator[str]:
    with page(lambda: (200, {}, str(NEW.digest))) as url:
        yield url


def scan(site: str, risk: int = 3, **more: Any) -> str:
    """A script that writes what ZAP would, and ends as zap-baseline.py does."""
    alert: dict[str, Any] = {
        "pluginid": "10",
        "alert": "Leak",
        "riskcode": str(risk),
        "confidence": "3",
    }
    alert |= {"instances": [{"uri": f"{site}/a", "method": "GET", "param": ""}]}
    sites = [{"@name": site, "alerts": [alert]}]
    document = {"@programName": "ZAP", "@version": "2.17.0", "site": sites, **more}
    return f"cat > zap.json <<'END'\n{json.dumps(document)}\nEND\nexit 2"


def test_the_gate_judges_a_report_whatever_the_status_is(setup: Setup, service: str) -> None:
    found = HealthSection(url=UrlHealth(address=f"{service}/v", contains="{digest}"))
    for risk, grade in ((1, "pass"), (3, "fail")):
        check = CheckSection(run=scan(service, risk), report="zap.json")
        done = setup.verify(section_checks={"dast": check}, health=found)
        assert done.grade == grade
    with pytest.raises(NotVerified, match="1 finding, none is allowed") as failed:
        done.require()
    assert failed.value.__notes__ == [f"{service}/a: 10: Leak (GET)"]
    assert [one.gates for one in setup.records()] == [
        {"health": "pass", "dast": "fail"},
        {"health": "pass", "dast": "pass"},
    ]


def test_a_scan_of_another_address_than_that_of_the_environment_proves_nothing(
    setup: Setup, service: str
) -> None:
    found = HealthSection(url=UrlHealth(address=service, contains="{digest}"))
    check = CheckSection(run=scan("https://production.example", 0), report="zap.json")
    done = setup.verify(section_checks={"dast": check}, health=found)
    assert done.grade == "error" and "is about production.example:443" in done.results[-1].reason


def test_a_report_that_was_not_written_or_is_older_proves_nothing(setup: Setup) -> None:
    (setup.root / "zap.json").write_text("an old one")
    done = setup.check("true", report="zap.json")
    assert done.grade == "error" and "zap.json does not exist" in done.results[0].reason
    stale = scan("https://a", 0, created="2026-01-01T00:00:00Z")
    done = setup.check(stale, report="zap.json")
    assert done.grade == "error" and "older than what is judged" in done.results[0].reason


def test_limits_and_waivers_apply_to_checks(setup: Setup) -> None:
    run = scan("https://a")
    mild = DastGate(fail_on=Severity.CRITICAL)
    assert setup.check(run, report="zap.json", gate=mild).grade == "pass"
    exception = Waiver(owner="o", reason="r", until=Day.parse("2099-01-01"), id="10")
    for environment, grade in (("staging", "pass"), ("production", "fail")):
        gates = GatesSection(waivers=(replace(exception, environment=environment),))
        assert setup.check(run, report="zap.json", gates=gates).grade == grade


def test_a_check_may_name_a_gate_of_any_kind(setup: Setup) -> None:
    gates = GatesSection(tests=TestsGate(name="e2e", min_tests=1))
    script = "echo '<testsuite><testcase name=\"a\"/></testsuite>' > e2e.xml; exit 1"
    assert setup.check(script, report="junit:e2e.xml", gate="e2e", gates=gates).grade == "pass"
    with pytest.raises(ConfigError, match=r"checks\.smoke\.gate: there is no gate 'absent'"):
        setup.check("true", gate="absent", gates=gates)
