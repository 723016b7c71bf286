"""Facts of images, bills of material, programs that judge."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from gate_samples import CYCLONEDX, SPDX
from hypothesis import given
from hypothesis import strategies as st
from judging import CONTEXT, baseline_after, checks, verdict_of

from shipline.content import MemoryStore
from shipline.errors import ContentError, NotFound
from shipline.gates import (
    CommandGate,
    GateContext,
    GateEnvironment,
    GatesSection,
    ImageGate,
    Outcome,
    SbomGate,
    Verdict,
    image_facts,
    run_gates,
)
from shipline.gates.sbom import denied
from shipline.oci import Descriptor, Index, Manifest, Platform, media
from shipline.units import ByteSize, Duration
from shipline.values import replace


class Shelf:
    """Content of several documents."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def put(self, raw: bytes, media_type: str) -> Descriptor:
        target = Descriptor.of(raw, media_type)
        self.held[str(target.digest)] = raw
        return target

    def fetch(self, target: Descriptor) -> Any:
        if str(target.digest) not in self.held:
            raise NotFound(f"no {target.digest}")
        return MemoryStore(self.held[str(target.digest)]).fetch(target)


def manifest(shelf: Shelf, architecture: str, **config: Any) -> Descriptor:
    document = {"os": "linux", "architecture": architecture, "config": config, "rootfs": {}}
    of_config = shelf.put(json.dumps(document).encode(), media.OCI_CONFIG)
    layers = [shelf.put(b"x" * size, media.OCI_LAYER_GZIP) for size in (1000, 2000)]
    made = Manifest.make(of_config, layers)
    shelf.put(made.raw, made.media_type)
    return replace(made.descriptor, platform=Platform("linux", architecture))


def judged(rules: ImageGate, context: GateContext) -> Verdict:
    (verdict,) = run_gates(GatesSection(image=rules), context, GateEnvironment(Path()))
    return verdict


def context_of(**config: Any) -> GateContext:
    shelf = Shelf()
    return replace(CONTEXT, image=image_facts(shelf, manifest(shelf, "amd64", **config)))


def test_facts_are_read_for_each_platform_and_attestations_are_left_out() -> None:
    shelf = Shelf()
    parts = [manifest(shelf, "amd64", User="app"), manifest(shelf, "arm64")]
    note = replace(
        manifest(shelf, "unknown"),
        annotations={"vnd.docker.reference.type": "attestation-manifest"},
    )
    index = Index.make([*parts, note], annotations={"org.opencontainers.image.base.name": "debian"})
    subject = image_facts(shelf, shelf.put(index.raw, index.media_type))
    first, second = subject.platforms
    assert subject.digest == str(index.descriptor.digest)
    assert (first.platform, first.user, first.root) == ("linux/amd64", "app", False)
    assert (second.platform, second.root, second.layers) == ("linux/arm64", True, 2)
    assert first.size > 3000 and first.base == "debian"


def test_an_image_that_calls_itself_an_attestation_is_judged() -> None:
    shelf = Shelf()
    hidden = replace(
        manifest(shelf, "amd64", User="root"),
        annotations={"vnd.docker.reference.type": "attestation-manifest"},
    )
    index = Index.make([manifest(shelf, "arm64", User="app"), hidden])
    assert index.images == index.manifests
    subject = image_facts(shelf, shelf.put(index.raw, index.media_type))
    assert [(one.platform, one.root) for one in subject.platforms] == [
        ("linux/arm64", False),
        ("linux/amd64", True),
    ]


def test_what_is_no_image_is_a_content_error() -> None:
    shelf = Shelf()
    bad = shelf.put(b"[]", media.OCI_CONFIG)
    made = Manifest.make(bad, [])
    with pytest.raises(ContentError):
        image_facts(shelf, shelf.put(made.raw, made.media_type))
    with pytest.raises(NotFound):
        image_facts(shelf, Descriptor.of(b"x", media.OCI_MANIFEST))


@pytest.mark.parametrize(
    ("rules", "outcome"),
    [
        ({}, "skipped"),
        ({"max_size": ByteSize(10_000)}, "pass"),
        ({"max_size": ByteSize(3_000)}, "fail"),
        ({"non_root": True}, "fail"),
        ({"max_layers": 2}, "pass"),
        ({"max_layers": 1}, "fail"),
        ({"bases": ("debian*",)}, "incomplete"),
        ({"ports": ("8080",)}, "pass"),
        ({"ports": ()}, "fail"),
        ({"labels": {"team": "a*"}}, "pass"),
        ({"labels": {"team": "b*"}}, "fail"),
        ({"labels": {"owner": "*"}}, "fail"),
        ({"platforms": ("linux/amd64",)}, "pass"),
        ({"platforms": ("linux/amd64", "linux/arm64")}, "fail"),
        ({"revision": True}, "incomplete"),
    ],
)
def test_image_facts_are_judged(rules: dict[str, Any], outcome: str) -> None:
    context = context_of(ExposedPorts={"8080/tcp": {}}, Labels={"team": "alpha"})
    assert judged(ImageGate(**rules), context).outcome == outcome


@pytest.mark.parametrize("user", ["", "root", "0", "0:0", "root:app", " 0", "00", "+0", "-0:1"])
def test_every_name_of_root_is_root(user: str) -> None:
    assert judged(ImageGate(non_root=True), context_of(User=user)).outcome is Outcome.FAIL


def test_no_image_is_doubt() -> None:
    assert judged(ImageGate(max_layers=9), CONTEXT).outcome is Outcome.INCOMPLETE


def test_another_revision_is_doubt_and_the_same_passes() -> None:
    context = context_of(Labels={"org.opencontainers.image.revision": "a" * 40})
    rules = ImageGate(revision=True)
    assert judged(rules, replace(context, revision="a" * 40)).outcome is Outcome.PASS
    assert judged(rules, replace(context, revision="b" * 40)).outcome is Outcome.INCOMPLETE


def test_the_image_of_a_pull_request_is_of_the_merge_that_was_built() -> None:
    head = {"org.opencontainers.image.revision": "a" * 40}
    context = context_of(Labels={**head, "org.shipline.pull-request.merge": "b" * 40})
    rules = ImageGate(revision=True)
    assert judged(rules, replace(context, revision="b" * 40)).outcome is Outcome.PASS


def test_growth_is_measured_against_the_baseline() -> None:
    rules, context = ImageGate(max_growth=10, max_layers=9), context_of()
    before = baseline_after(judged(rules, context))
    assert judged(rules, replace(context, baseline=before)).outcome is Outcome.PASS
    smaller = replace(
        before.gates["image"], numbers=dict.fromkeys(before.gates["image"].numbers, 100)
    )
    before = replace(before, gates={"image": smaller})
    assert judged(rules, replace(context, baseline=before)).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("GPL-3.0-only", True),
        ("MIT OR GPL-3.0-only", False),
        ("MIT AND GPL-3.0-only", True),
        ("(MIT OR GPL-2.0) AND (GPL-2.0 OR Apache-2.0)", False),
        ("GPL-2.0+ WITH Classpath-exception-2.0", True),
        ("gpl-3.0-only", True),
        ("LGPL-3.0-only", False),
        ("GPL-3.0 (see file)", True),
        ("((((", False),
        ("MIT", False),
        ("mit or gpl-3.0-only", False),
        ("MIT OR MIT AND GPL-2.0", False),
        ("MIT AND", False),
        ("GPL-2.0 AND", True),
        ("()", False),
        ("(OR GPL-2.0", True),
        ("GPL-2.0/MIT", True),
        ("the licence GPL-2.0", True),
        ("LicenseRef-GPL-2.0", False),
        ("", False),
        ("(" * 3000 + "GPL-2.0" + ")" * 3000, True),
        ("(MIT OR " * 1000 + "X" + ")" * 1000, False),
        ("MIT OR " * 10_000 + "GPL-2.0", True),
    ],
)
def test_a_licence_that_can_be_avoided_is_not_denied(expression: str, expected: bool) -> None:
    assert denied(expression, ("GPL-*",)) is expected


@pytest.mark.parametrize(
    ("expression", "pattern", "expected"),
    [
        ("GPL-3.0", "GPL-3.0-only", True),
        ("GPL-3.0+", "GPL-3.0-or-later", True),
        ("gpl-3.0+ WITH GCC-exception-3.1", "*-or-later", True),
        ("GPL-3.0 OR MIT", "GPL-3.0-only", False),
        ("GPL-3.0+", "GPL-3.0", True),
        ("GPL-3.0+", "GPL-3.0-only", False),
        ("GPL-2.0-only WITH Classpath-exception-2.0", "* WITH Classpath-*", True),
        ("MIT", "LicenseRef-MIT-Bootstrap", False),
    ],
)
def test_a_licence_is_denied_by_its_old_and_its_new_name(
    expression: str, pattern: str, expected: bool
) -> None:
    assert denied(expression, (pattern,)) is expected


@given(st.lists(st.sampled_from(["MIT", "OR", "AND", "WITH", *"()+/éx", "GPL-2.0"]), max_size=9))
def test_whatever_the_text_there_is_a_verdict(words: list[str]) -> None:
    assert denied(" ".join(words), ("GPL-*",)) in (True, False)
    assert denied("".join(words), ("GPL-*",)) in (True, False)


@pytest.mark.parametrize(
    ("rules", "outcome"),
    [
        ({}, "pass"),
        ({"min_components": 3}, "fail"),
        ({"deny_licenses": ("MIT",)}, "fail"),
        ({"deny_licenses": ("GPL*",), "unknown_licenses": "deny"}, "pass"),
        ({"deny_packages": ("@acme/*",)}, "fail"),
        ({"deny_packages": ("pkg:npm/*",)}, "fail"),
    ],
)
def test_bills_of_material_are_judged(rules: dict[str, Any], outcome: str) -> None:
    assert verdict_of(SbomGate(**rules), CYCLONEDX).outcome == outcome


def test_an_empty_bill_of_material_is_doubt() -> None:
    assert verdict_of(SbomGate(), {**SPDX, "packages": []}).outcome is Outcome.INCOMPLETE


def program(tmp_path: Path, script: str, timeout: str = "20s") -> Verdict:
    """The verdict of a shell script."""
    rules = CommandGate(run=script, timeout=Duration.parse(timeout))
    section = GatesSection(commands={"own": rules})
    (verdict,) = run_gates(section, context_of(), GateEnvironment(tmp_path, os.environ))
    return verdict


def test_a_program_gets_the_question_and_gives_the_verdict(tmp_path: Path) -> None:
    answer = {
        "outcome": "fail",
        "reason": "too blue",
        "measured": "9",
        "limit": "<= 3",
        "findings": [{"message": "here", "path": "a.css", "line": 3}],
    }
    (tmp_path / "answer").write_text(json.dumps(answer))
    verdict = program(tmp_path, "cat > question; cat answer; exit 1")
    assert (verdict.outcome, verdict.reason) == (Outcome.FAIL, "too blue")
    assert verdict.deciding_check.locations[0].line == 3
    question = json.loads((tmp_path / "question").read_text())
    assert question["protocol"] == 1 and question["gate"] == "own"
    assert question["image"]["platforms"][0]["platform"] == "linux/amd64"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 0", "gave no verdict"),
        ("exit 3", "status 3"),
        ("echo all good", "not a verdict in JSON"),
        ("echo '[]'", "not an object"),
        ('echo \'{"outcome": "pass"}\'', "no reason"),
        ('echo \'{"outcome": "waived", "reason": "x"}\'', "cannot answer"),
        ('echo \'{"outcome": "pass", "reason": "x"}\'; exit 1', "exited with status 1"),
        ("head -c 20000000 /dev/zero", "more than 16 MiB"),
        ("echo '" + "[" * 100_000 + "'", "not a verdict in JSON"),
    ],
)
def test_a_program_that_gives_no_verdict_is_an_error(
    tmp_path: Path, script: str, reason: str
) -> None:
    verdict = program(tmp_path, script)
    assert verdict.outcome is Outcome.ERROR and reason in verdict.reason


def test_a_program_that_does_not_end_is_killed_with_its_children(tmp_path: Path) -> None:
    begin = time.monotonic()
    verdict = program(tmp_path, "sleep 600 & echo $! > child; sleep 600", timeout="1s")
    assert verdict.outcome is Outcome.ERROR and "within 1 s" in verdict.reason
    assert time.monotonic() - begin < 60
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 60
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(child)


def _alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_names_of_checks_tell_the_platform() -> None:
    assert checks(judged(ImageGate(max_layers=9), context_of())) == {"layers linux/amd64": "pass"}
