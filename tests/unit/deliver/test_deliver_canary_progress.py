"""A canary from its first weight to its end, as its commits tell it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from commits import Work, with_remote
from serving import ReceivedRequest, Reply, serving
from shipline.deliver.canary.progress import Canary, CanaryFailed, CanaryRuns
from shipline.deliver.canary.section import (
    Analysis,
    CanarySection,
    CanaryStep,
    Metric,
    MetricServer,
    Weights,
)
from shipline.deliver.canary.state import in_progress
from shipline.deliver.canary.weights import ending
from shipline.deliver.delivery import Delivery
from shipline.deliver.drift import GIT, find_environment_drift
from shipline.deliver.environments import EnvironmentSection
from shipline.deliver.gitops import (
    RECORDS,
    Action,
    Deployment,
    GitOpsSection,
    PlannedChange,
    Superseded,
    Update,
    deploy,
    history,
    record,
)
from shipline.deliver.promotion import read_states
from shipline.errors import NotFound, UsageError
from shipline.git import Git, RemoteBranch, RemoteUnreachable, remote_branch
from shipline.oci import Descriptor, Reference
from shipline.registry.credentials import NoKeychain
from shipline.registry.hosts import HostSettings
from shipline.registry.http import HttpClient
from shipline.supply import Attachable
from shipline.units import Duration
from shipline.values import replace

pytestmark = pytest.mark.slow

NEW = Reference.parse(f"registry.example/team/app:2@sha256:{'ab' * 32}")
OLD = Reference.parse(f"registry.example/team/app:1@sha256:{'cd' * 32}")
THIRD = Reference.parse(f"registry.example/team/app:3@sha256:{'ef' * 32}")
PAIR: dict[str, Any] = {"stable": "app", "canary": "app-canary"}
FILES = {
    "stable.yaml": f"spec: {{containers: [{{name: app, image: {OLD}}}]}}\n",
    "canary.yaml": f"spec: {{containers: [{{name: app, image: {OLD}}}]}}\n",
    "route.yaml": "kind: HTTPRoute\nspec: {rules: [{backendRefs: [{name: app, weight: 100},"
    " {name: app-canary, weight: 0}]}]}\n",
    "rollout.yaml": "kind: Rollout\nspec:\n  strategy: {canary: {steps: [{setWeight: 100},"
    " {pause: {duration: 1}}]}}\n"
    f"  template: {{spec: {{containers: [{{name: app, image: {OLD}}}]}}}}\n",
}


@dataclass
class Place:
    """A GitOps repository, and a server of metrics whose answers are `values`; the last one is
    repeated.
    """

    work: Work
    remote: Path
    root: Path
    url: str = ""
    values: list[Any] = field(default_factory=lambda: [0])
    http: HttpClient = field(
        default_factory=lambda: HttpClient(HostSettings(connect_s=1), NoKeychain())
    )

    def respond(self, request: ReceivedRequest) -> Reply:
        value = self.values.pop(0) if len(self.values) > 1 else self.values[0]
        result = [] if value is None else [{"metric": {}, "value": [0, str(value)]}]
        answer = {"status": "success", "data": {"resultType": "vector", "result": result}}
        return 200, {}, json.dumps(answer).encode()

    def opened(self, name: str = "gitops") -> AbstractContextManager[RemoteBranch]:
        return remote_branch(self.root / name, self.work.environ, str(self.remote), "main")

    def said(self) -> list[Deployment]:
        """What was said, oldest first, without the first deployment."""
        with self.opened("reader") as branch:
            return history(branch, branch.fetch(RECORDS), "app", "live")[::-1][1:]

    def file(self, path: str) -> str:
        with self.opened("reader") as branch:
            return branch.read(branch.files(branch.fetch())[path]).decode()

    def say(self, made: Deployment) -> None:
        """By somebody else."""
        with self.opened("others") as branch:
            record(branch, "app", lambda _: made)

    def canary(self, home: str = "home", **more: Any) -> Canary:
        given = {
            "section": self.section(),
            "gitops": GitOpsSection(
                repository=str(self.remote), updates=(Update(manifests="stable.yaml"),)
            ),
            "images": {"": NEW},
            "deployment": Deployment("live", "app", (NEW,), commit="c0ffee"),
            "open_branch": lambda: self.opened(home),
            "http": self.http,
            "environ": {},
            "home": self.root / home,
        }
        return Canary(**{**given, **more})

    def section(self, hold: str = "50ms", **more: Any) -> CanarySection:
        given: dict[str, Any] = {
            "weights": Weights(httproute="route.yaml", **PAIR),
            "steps": tuple(
                CanaryStep(weight=weight, hold=Duration.parse(hold)) for weight in (5, 50)
            ),
            "updates": (Update(manifests="canary.yaml"),),
            "analysis": Analysis(
                prometheus=MetricServer(url=self.url),
                metrics=(Metric(name="errors", promql="e", max=1),),
                interval=Duration(20),
            ),
        }
        return CanarySection(**{**given, **more})


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    work, remote = with_remote(tmp_path)
    for path, text in FILES.items():
        (work.path / path).write_text(text)
    work.git("add", "-A")
    work.commit(Deployment("live", "app", (OLD,)).message)
    work.git("push", "-q", "origin", "HEAD:main")
    made = Place(work, remote, tmp_path)
    with serving(made.respond) as served:
        made.url = served.url
        yield made
        made.http.close()


def told(said: list[Deployment]) -> list[str]:
    return [
        " ".join(
            filter(
                None,
                [
                    one.action,
                    "" if one.weight is None else str(one.weight),
                    one.step,
                    one.verdict,
                    one.version,
                ],
            )
        )
        for one in said
    ]


def test_a_good_version_takes_over_step_by_step(place: Place) -> None:
    files: list[str] = []
    settled: list[str] = []
    canary = place.canary(
        on_message=lambda line: files.append(place.file("route.yaml")) if "%" in line else None,
        settle=lambda: settled.append(place.file("stable.yaml") + place.file("route.yaml")),
    )
    done = canary.advance()
    said = place.said()
    assert told(said) == [
        "weight 5 1/2 2",
        "weight 50 2/2 pass 2",
        "deploy 2/2 pass 2",
        "weight 0 2/2 pass 2",
        "verify pass 2",
    ]
    assert done and done.id == said[2].id
    assert [FILES["route.yaml"].replace("100", "95").replace("weight: 0", "weight: 5")] == files[:1]
    assert str(NEW) in settled[0] and "weight: 50}, {name: app-canary, weight: 50" in settled[0]
    assert place.file("route.yaml") == FILES["route.yaml"]
    assert str(NEW) in place.file("stable.yaml") and str(NEW) in place.file("canary.yaml")
    assert said[0].previous == (OLD,) and said[0].commit == "c0ffee"
    assert place.canary().advance() is None
    assert len(place.said()) == len(said)


def test_no_step_begins_while_changes_are_not_allowed(place: Place) -> None:
    lines: list[str] = []
    answers = iter(["window: mon-fri"] * 3)
    canary = place.canary(closed_reason=lambda: next(answers, ""), on_message=lines.append)
    canary.advance()
    held = lines.index("step 1/2 is held: window: mon-fri")
    measured = [line.startswith("step 1/2: errors") for line in lines[held + 1 :]]
    assert measured.index(False) >= 3, lines
    assert told(place.said())[:2] == ["weight 5 1/2 2", "weight 50 2/2 pass 2"]


def test_what_waits_for_a_window_is_taken_back_at_once(place: Place) -> None:
    place.values = [0, 0, 0, 0, 0, 9]
    with pytest.raises(CanaryFailed):
        place.canary(closed_reason=lambda: "freeze: holidays").advance()
    assert told(place.said())[1].startswith("rollback")


def test_a_promotion_says_where_it_is_from(place: Place) -> None:
    source = Deployment("live", "app", (NEW,), action=Action.PROMOTE, source="staging")
    place.canary(deployment=source).advance()
    promoted = place.said()[2]
    assert (promoted.action, promoted.source, promoted.weight) == (Action.PROMOTE, "staging", None)


def test_a_bad_version_is_rolled_back_and_held_in_one_push(place: Place) -> None:
    place.values = [0, 9]  # how often a step is measured depends on the load
    with pytest.raises(CanaryFailed, match="fail, rolled back and held: errors: fail: 9"):
        place.canary().advance()
    said = place.said()
    assert told(said)[-2:] == ["rollback fail 1", "hold 2"]
    assert said[-2].previous == (NEW,) and "more than 1" in said[-1].reason
    assert {path: place.file(path) for path in FILES} == FILES
    with pytest.raises(CanaryFailed, match="is held"):
        place.canary().advance()
    assert len(place.said()) == len(said)
    place.say(Deployment("live", "app", (NEW,), action=Action.RELEASE))
    place.values = [0]
    assert place.canary().advance()


def test_a_frozen_canary_waits_for_a_person(place: Place) -> None:
    place.values = [9]
    section = place.section(on_failure="freeze")
    with pytest.raises(CanaryFailed, match="frozen"):
        place.canary(section=section).advance()
    assert told(place.said()) == ["weight 5 1/2 2", "weight 5 1/2 fail 2"]
    assert "weight: 5}" in place.file("route.yaml")
    place.values = [0]
    with pytest.raises(CanaryFailed, match="frozen there: canary at 5 %: fail"):
        place.canary(section=section).advance()
    assert place.canary("other", section=section, resume=True).advance()


def test_no_data_at_the_deadline_fails(place: Place) -> None:
    place.values = [None]
    section = place.section()
    assert section.analysis
    section = replace(section, analysis=replace(section.analysis, deadline=Duration(100)))
    with pytest.raises(CanaryFailed, match="no_data, rolled back"):
        place.canary(section=section).advance()
    assert told(place.said())[-2:] == ["rollback no_data 1", "hold 2"]


class Killed(BaseException):
    """Ends a process without any handling."""


def killed_at(line: str) -> Callable[[str], None]:
    def tell(told: str) -> None:
        if line in told:
            raise Killed

    return tell


LINES = ["5 %", "50 %", "deploy app", "give app 2 0 %", "roll back"]


@pytest.mark.parametrize("line", LINES)
def test_it_goes_on_from_every_commit(place: Place, line: str) -> None:
    place.values = [0, 9] if line == "roll back" else [0]
    with pytest.raises(Killed):
        place.canary(on_message=killed_at(line)).advance()
    before = told(place.said())
    if line == "roll back":
        with pytest.raises(CanaryFailed, match="is held"):
            place.canary().advance()
    else:
        done = place.canary().advance()
        assert (done is None) == (line == "give app 2 0 %")
    after = told(place.said())
    assert after[: len(before)] == before
    if line != "roll back":
        assert [one for one in after if one.startswith("deploy")] == ["deploy 2/2 pass 2"]
        assert after[-2:] == ["weight 0 2/2 pass 2", "verify pass 2"]
        assert str(NEW) in place.file("stable.yaml")
    assert place.file("route.yaml") == FILES["route.yaml"]


def test_elsewhere_its_clock_may_be_ahead(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Killed):
        place.canary(on_message=killed_at("5 %")).advance()
    now = time.time() - 600
    monkeypatch.setattr("shipline.deliver.canary.progress.time.time", lambda: now)
    with pytest.raises(CanaryRuns, match="went on 0 s ago"):
        place.canary("other").advance()


def test_elsewhere_it_goes_on_once_the_first_is_gone(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Killed):
        place.canary(on_message=killed_at("5 %")).advance()
    with pytest.raises(CanaryRuns, match="in another process"):
        place.canary("other").advance()
    monkeypatch.setattr("shipline.deliver.canary.progress._MARGIN_S", -1)
    time.sleep(0.2)  # until the first one counts as gone: commits have whole seconds
    place.canary("other").advance()
    assert told(place.said())[:3] == ["weight 5 1/2 2", "weight 5 1/2 2", "weight 50 2/2 pass 2"]


def test_one_process_of_a_machine_has_it(place: Place) -> None:
    found: list[str] = []

    def tell(line: str) -> None:
        with pytest.raises(CanaryRuns, match="a process of this machine"):
            place.canary().advance()
        found.append(line)

    place.canary(on_message=tell).advance()
    assert found


def test_the_one_that_was_taken_for_gone_stops(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shipline.deliver.canary.progress._MARGIN_S", -1)
    taken: list[str] = []

    def tell(line: str) -> None:
        if "5 %" in line and not taken:
            taken.append(line)
            time.sleep(0.2)  # until it counts as gone: commits have whole seconds
            with pytest.raises(Killed):
                place.canary("other", on_message=killed_at("5 %")).advance()

    with pytest.raises(Superseded, match="somebody else went on"):
        place.canary(on_message=tell, section=place.section(hold="300ms")).advance()
    assert told(place.said()) == ["weight 5 1/2 2", "weight 5 1/2 2"]


def other_image(place: Place) -> None:
    with pytest.raises(CanaryRuns, match="live gives 5 % to app 2"):
        place.canary(images={"": THIRD}, deployment=Deployment("live", "app", (THIRD,))).advance()


def test_another_image_waits_for_its_end(place: Place) -> None:
    with pytest.raises(Killed):
        place.canary(on_message=killed_at("5 %")).advance()
    other_image(place)
    with place.opened() as branch:
        there = in_progress(branch, "app", "live")
    assert there == Deployment("live", "app", (NEW,), commit="c0ffee")


def test_a_deployment_ends_it(place: Place) -> None:
    done: list[str] = []

    def tell(line: str) -> None:
        if "5 %" in line and not done:
            made = Deployment("live", "app", (THIRD,))
            change = ending(place.section(), PlannedChange(made, {"": THIRD}))
            with place.opened("others") as branch:
                places = (Update(manifests="stable.yaml"),)
                done.append(deploy(branch, places, "app", lambda _: change).commit)

    with pytest.raises(Superseded, match="deploy app 3 to live"):
        place.canary(on_message=tell).advance()
    assert place.file("route.yaml") == FILES["route.yaml"]
    assert str(THIRD) in place.file("stable.yaml") and str(THIRD) in place.file("canary.yaml")


def by_hand(place: Place, path: str, old: str, new: str) -> None:
    """A plain commit by somebody."""
    text = place.file(path)
    assert old in text
    place.work.git("fetch", "-q", "origin", "main")
    place.work.git("reset", "-q", "--hard", "FETCH_HEAD")
    (place.work.path / path).write_text(text.replace(old, new))
    place.work.git("add", "-A")
    place.work.commit("a hotfix")
    place.work.git("push", "-q", "origin", "HEAD:main")


CHANGES = [
    ("stable.yaml", str(OLD), str(THIRD)),
    ("canary.yaml", str(NEW), str(THIRD)),
    ("route.yaml", "weight: 5}", "weight: 6}"),
    ("route.yaml", "HTTPRoute", "Service"),
]


@pytest.mark.parametrize("looks", [True, False], ids=["looked", "committed"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_by_hand_ends_it(
    place: Place, change: tuple[str, str, str], looks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shipline.deliver.canary.progress._CHECK_INTERVAL_S", 0 if looks else 3600)

    def tell(line: str) -> None:
        if "give app 2 5 %" in line:
            by_hand(place, *change)

    hold = "1h" if looks else "50ms"
    with pytest.raises(Superseded, match=rf"live was changed by hand.*{change[0]}"):
        place.canary(on_message=tell, section=place.section(hold=hold)).advance()
    assert change[2] in place.file(change[0])
    with pytest.raises(Superseded, match=rf"live was changed by hand.*{change[0]}"):
        place.canary(resume=True).advance()
    by_hand(place, change[0], change[2], change[1])
    assert place.canary(resume=True).advance()


class NothingThere:
    def resolve(self, name: str) -> Descriptor:
        raise NotFound(name)


def test_status_and_drift_say_what_was_changed_by_hand_during_it(place: Place) -> None:
    canary = place.canary(on_message=killed_at("5 %"))
    section = EnvironmentSection(gitops=canary.gitops, canary=canary.section)
    delivery = Delivery(
        git=Git(place.work.path, place.work.environ),
        root=place.root,
        home=place.root / "status",
        environ=place.work.environ,
        repositories=lambda image: cast(Attachable, NothingThere()),
        http=place.http,
        image=NEW,
        environments={"live": section},
    )

    def differences() -> list[str]:
        found = find_environment_drift(delivery, delivery.environments, {"": NEW}, {}, None)
        return [one.detail for one in found if one.place == GIT and one.drifted]

    with pytest.raises(Killed):
        canary.advance()
    assert not read_states(delivery)["live"].edited and not differences()
    by_hand(place, "route.yaml", "weight: 5}", "weight: 100}")
    edited = read_states(delivery)["live"].edited
    assert edited.startswith("route.yaml differs since") and differences() == [edited]


def test_the_end_does_not_undo_what_was_changed_by_hand(place: Place) -> None:
    def tell(line: str) -> None:
        if "deploy app 2" in line:
            by_hand(place, "stable.yaml", str(NEW), str(THIRD))

    with pytest.raises(Superseded, match=r"stable\.yaml differs since [0-9a-f]{7,} by .* <.*>"):
        place.canary(on_message=tell).advance()
    assert str(THIRD) in place.file("stable.yaml")


def test_other_changes_by_hand_do_not_matter(place: Place) -> None:
    def tell(line: str) -> None:
        if "give app 2 5 %" in line:
            by_hand(place, "rollout.yaml", "Rollout", "Other")
            by_hand(place, "stable.yaml", "spec:", "# of the app\nspec:")

    assert place.canary(on_message=tell).advance()
    assert place.file("stable.yaml").startswith("# of the app\n")


@pytest.mark.parametrize("hold", ["500ms", "10ms"])
def test_a_repository_that_is_gone_for_a_moment_is_waited_for(
    place: Place, hold: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shipline.deliver.canary.progress._CHECK_INTERVAL_S", 0)
    monkeypatch.setattr("shipline.deliver.canary.progress._RETRY_PAUSE_S", 0.01)
    away = place.remote.with_name("away")
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        if "give app 2 5 %" in line:
            place.remote.rename(away)
        elif "tried again" in line and sum("tried again" in one for one in told) == 2:
            away.rename(place.remote)

    assert place.canary(on_message=tell, section=place.section(hold=hold)).advance()
    assert sum("tried again" in one for one in told) == 2


def test_a_repository_that_stays_away_ends_it_with_its_lease(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shipline.deliver.canary.progress._CHECK_INTERVAL_S", 0)
    monkeypatch.setattr("shipline.deliver.canary.progress._MARGIN_S", 0.1)

    def tell(line: str) -> None:
        if "give app 2 5 %" in line:
            place.remote.rename(place.remote.with_name("away"))

    with pytest.raises(RemoteUnreachable):
        place.canary(on_message=tell).advance()


def test_a_rollback_waits_for_the_repository_as_long_as_the_canary_is_held(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given up, it would leave the bad version its share, with nobody to measure it."""
    monkeypatch.setattr("shipline.deliver.canary.progress._RETRY_PAUSE_S", 0.1)
    monkeypatch.setattr("shipline.deliver.canary.progress._MARGIN_S", 0.1)
    away = place.remote.with_name("away")
    place.values = [9]
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        if "errors: fail" in line:
            place.remote.rename(away)
        elif sum("tried again" in one for one in told) == 5 and away.exists():
            away.rename(place.remote)

    with pytest.raises(CanaryFailed, match="rolled back"):
        place.canary(on_message=tell, section=place.section(hold="60s")).advance()
    assert {path: place.file(path) for path in FILES} == FILES


def test_a_hold_meanwhile_rolls_back(place: Place) -> None:
    def tell(line: str) -> None:
        if "give app 2 5 %" in line:
            place.say(Deployment("live", "app", (NEW,), action=Action.HOLD, reason="by hand"))

    with pytest.raises(CanaryFailed, match="is held: by hand"):
        place.canary(on_message=tell).advance()
    assert told(place.said())[-2:] == ["rollback fail 1", "hold 2"]
    assert place.file("route.yaml") == FILES["route.yaml"]


def test_a_hold_is_seen_before_anything_else_when_it_goes_on(place: Place) -> None:
    with pytest.raises(Killed):
        place.canary(on_message=killed_at("5 %")).advance()
    place.say(Deployment("live", "app", (NEW,), action=Action.HOLD, reason="by hand"))
    with pytest.raises(CanaryFailed, match="is held: by hand"):
        place.canary(section=place.section(hold="1h")).advance()
    assert told(place.said())[-2:] == ["rollback fail 1", "hold 2"]


def test_without_analysis_time_alone_passes(place: Place) -> None:
    assert place.canary(section=place.section(analysis=None)).advance()
    assert told(place.said())[:2] == ["weight 5 1/2 2", "weight 50 2/2 pass 2"]


def test_a_long_hold_is_ended_by_what_others_do(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shipline.deliver.canary.progress._CHECK_INTERVAL_S", 0)

    def tell(line: str) -> None:
        if "give app 2 5 %" in line:
            place.say(Deployment("live", "app", (THIRD,)))

    with pytest.raises(Superseded, match="deploy app 3 to live"):
        place.canary(on_message=tell, section=place.section(hold="1h")).advance()


def test_while_it_is_held_for_longer_commits_say_why(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shipline.deliver.canary.progress._MARGIN_S", 0.1)
    place.values = [None] * 30 + [0]
    place.canary().advance()
    said = told(place.said())
    assert said[0] == "weight 5 1/2 2" and said[1] == "weight 5 1/2 no_data 2"
    assert said[-1] == "verify pass 2"


def test_a_rollout_has_one_image_and_ends_with_all_traffic(place: Place) -> None:
    gitops = GitOpsSection(
        repository=str(place.remote), updates=(Update(manifests="rollout.yaml"),)
    )
    section = place.section(weights=Weights(rollout="rollout.yaml"), updates=())
    seen: list[str] = []
    place.canary(
        section=section,
        gitops=gitops,
        on_message=lambda line: seen.append(place.file("rollout.yaml")) if "%" in line else None,
    ).advance()
    running = FILES["rollout.yaml"].replace(str(OLD), str(NEW)).replace("{duration: 1}", "{}")
    assert seen[0] == running.replace("setWeight: 100", "setWeight: 5")
    assert place.file("rollout.yaml") == FILES["rollout.yaml"].replace(str(OLD), str(NEW))
    assert told(place.said()) == [
        "weight 5 1/2 2",
        "weight 50 2/2 pass 2",
        "deploy 2/2 pass 2",
        "weight 0 2/2 pass 2",
        "verify pass 2",
    ]
    place.values = [9]
    third: dict[str, Any] = {
        "images": {"": THIRD},
        "deployment": Deployment("live", "app", (THIRD,)),
    }
    before = place.file("rollout.yaml")
    with pytest.raises(CanaryFailed):
        place.canary(section=section, gitops=gitops, **third).advance()
    assert place.file("rollout.yaml") == before


def test_the_first_version_has_no_canary(place: Place) -> None:
    with pytest.raises(UsageError, match="new has no version"):
        place.canary(deployment=Deployment("new", "app", (NEW,))).advance()
