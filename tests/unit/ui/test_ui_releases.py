"""Releases as histories tell them, and what two scans differ in."""

from __future__ import annotations

from pathlib import Path

import pytest

from histories import IMAGES, NOW, said, state
from shipline.deliver.promotion import EnvironmentState
from shipline.deliver.promotion.policy import JudgedGate
from shipline.history import RunState
from shipline.oci import Descriptor, Reference
from shipline.oci.media import OCI_INDEX
from shipline.ship.record import RunRecord, StepRecord
from shipline.ship.runs import Runs
from shipline.ship.steps.build import PushedImage, PushedImages
from shipline.ship.steps.publish import PublishedNames
from shipline.ui.compare import ImageScan, ScannedVulnerability, read_scan, vulnerability_changes
from shipline.ui.registry_evidence import waivers
from shipline.ui.releases import (
    KnownRelease,
    all_releases,
    built_releases,
    find_release,
    happened,
    next_stop,
    stages,
)
from shipline.values import replace
from ui_projects import delivery

DEV = state("dev", said("deploy a", at=-900), said("deploy b", at=-600))
STAGING = state("staging", said("promote a", "staging", at=-700), said("hold c", "staging"))
STATES = {"dev": DEV, "staging": STAGING}


def release(name: str, states: dict[str, EnvironmentState] = STATES) -> KnownRelease:
    found = find_release(all_releases(states, []), name)
    assert found is not None
    return found


def test_releases_are_listed_by_the_last_thing_that_happened_to_them() -> None:
    image = Reference.parse("registry.example/app").at(
        Reference.parse(f"x/y@sha256:{'d' * 64}").digest
    )
    assert image.digest is not None
    digests = frozenset({image.digest})
    at = NOW.timestamp() - 650
    built = KnownRelease((image,), digests, "d", "", "", "run", at, deployed=False)
    again = KnownRelease((IMAGES["a"],), DEV.commits[1].digests, "z", "", "", "", at)
    found = all_releases(STATES, [built, again])
    assert [one.version for one in found] == ["b", "d", "a", "c"]
    assert [one.places for one in found] == [("dev",), (), ("staging",), ()]
    assert found[-1].held == ("staging",)
    refused = replace(built, at=at + 9, failure="a gate")
    assert [one.failure for one in all_releases({}, [refused, built])] == [""]
    assert [one.at for one in all_releases({}, [replace(refused, at=at), refused])] == [at + 9]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("a", "a"),
        (f"sha256:{'b' * 64}", "b"),
        ("b" * 12, "b"),
        (f"registry.example/app@sha256:{'b' * 64}", "b"),
        ("bbbb", None),
        ("", None),
        ("z", None),
    ],
)
def test_a_release_is_found_by_what_people_copy(word: str, expected: str | None) -> None:
    found = find_release(all_releases(STATES, []), word)
    assert (found.version if found else None) == expected


def test_where_a_release_is_and_where_it_was(tmp_path: Path) -> None:
    made = delivery(tmp_path, dev={}, staging={"after": "dev"}, production={"after": "staging"})
    states = {**STATES, "production": state("production")}
    shown = {one.name: (one.word, one.lines) for one in stages(made, states, release("a"))}
    assert shown == {
        "dev": ("was here", ("deploy by Someone", "replaced by b")),
        "staging": ("here", ("promote by Someone",)),
        "production": ("not there", ("has nothing",)),
    }
    assert next_stop(states, made, release("a")) == "production"
    assert next_stop(states, made, release("b")) == "staging"
    assert next_stop(states, made, release("c")) == ""
    assert [one.word for one in stages(made, states, release("c"))][1] == "held"


def test_only_commits_about_exactly_these_images_are_its_history() -> None:
    assert [one.subject for one in happened(STATES, release("a"))] == [
        "promote app a from to staging",
        "deploy app a to dev",
    ]


def test_waivers_are_read_from_the_checks_of_gates() -> None:
    checks = ({"details": ["waived: CVE-1 in zlib: never called", "CVE-2", 7]}, {"name": "age"})
    gate = JudgedGate("scan", "waived", False, "", 0, checks=checks)
    assert waivers({"scan": gate}) == [("scan", "CVE-1 in zlib: never called")]


def flaw(name: str, package: str = "zlib", severity: str = "low") -> ScannedVulnerability:
    return ScannedVulnerability(name, severity, package, "1", "")


def test_vulnerabilities_are_new_fixed_or_in_both_the_worst_first() -> None:
    before = ImageScan("", "", "", (flaw("A"), flaw("B"), flaw("E", "old")))
    after = ImageScan(
        "", "", "", (flaw("B"), flaw("C"), flaw("D", severity="high"), flaw("E", "new"))
    )
    found = [(one.change, one.vulnerability.id) for one in vulnerability_changes(before, after)]
    assert found == [
        *(("new", name) for name in "DCE"),
        *(("fixed", name) for name in "AE"),
        ("in both", "B"),
    ]


def test_a_scan_is_read_as_in_toto_has_it_and_nothing_else() -> None:
    severity = [{"method": "severity", "score": "HIGH"}, {"method": "cvss", "score": "7.5"}]
    entry = {"id": "CVE-1", "severity": severity, "annotations": [{"package": "zlib"}]}
    predicate = {
        "scanner": {"uri": "pkg:generic/trivy", "version": "0.59", "result": [entry]},
        "metadata": {"scanFinishedOn": "2026-11-30T00:00:00+00:00"},
    }
    scan = read_scan(predicate, "release")
    assert scan is not None and (scan.scanner, scan.signer) == ("trivy 0.59", "release")
    assert scan.found == (ScannedVulnerability("CVE-1", "high", "zlib", "", ""),)
    for wrong in ("text", {}, {**predicate, "scanner": {"result": [{"id": 1}]}}, {"scanner": 7}):
        assert read_scan(wrong, "") is None


def test_releases_that_share_an_image_have_addresses_of_their_own() -> None:
    both = replace(said("deploy a", at=-300), images=(IMAGES["a"], IMAGES["b"]))
    every = all_releases({"dev": state("dev", said("deploy a"), both)}, [])
    assert [len(one.digests) for one in every] == [2, 1]
    for one in every:
        assert find_release(every, one.word) is one
    assert find_release(every, "b" * 12) is every[0]


def test_what_another_clone_pushed_is_listed_and_other_images_are_not(tmp_path: Path) -> None:
    image = Reference.parse("registry.example/app")
    project = replace(delivery(tmp_path), targets={"": image})
    runs = Runs(tmp_path)
    pushed = PushedImages({"": PushedImage(Descriptor.of(b"index", OCI_INDEX), ())})
    built = StepRecord("build", "build", "k", RunState.PASSED, result=pushed)
    for end, root, name in (
        ("a" * 6, str(tmp_path), image),
        ("b" * 6, "/another/clone", image),
        ("c" * 6, str(tmp_path), "registry.example/renamed"),
    ):
        run = f"20260101-000000-{end}"
        with runs.hold(run) as recorder:
            recorder.begin(
                RunRecord(
                    run, root, "shipline.yaml", str(name), "c" * 40, "t" * 40, "main",
                    False, 1.0, (built,), RunState.PASSED,
                )
            )  # fmt: skip
    assert {one.run[-6:] for one in built_releases(project)} == {"a" * 6, "b" * 6}


def test_what_a_gate_refused_is_no_release(tmp_path: Path) -> None:
    image = Reference.parse("registry.example/app")
    project = replace(delivery(tmp_path), targets={"": image})
    runs, why = Runs(tmp_path), "the gate image refused: 1.1 MB"
    names = PublishedNames((f"{image}:v1@sha256:{'a' * 64}",), "1")
    ends = {
        "e" * 6: ((), RunState.FAILED, why),
        "f" * 6: (
            (StepRecord("publish", "publish", "k", RunState.PASSED, result=names),),
            RunState.PASSED,
            "",
        ),
    }
    for end, (steps, result, error) in ends.items():
        pushed = PushedImages({"": PushedImage(Descriptor.of(end.encode(), OCI_INDEX), ())})
        built = StepRecord("build", "build", "k", RunState.PASSED, result=pushed)
        name = f"20260101-000000-{end}"
        with runs.hold(name) as recorder:
            recorder.begin(
                RunRecord(
                    name, str(tmp_path), "shipline.yaml", str(image), "c" * 40, "t" * 40, "main",
                    False, 1.0, (built, *steps), result, error=error,
                )
            )  # fmt: skip
    assert sorted(one.failure for one in built_releases(project)) == ["", why]
