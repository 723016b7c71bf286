"""Records: what a step handed on is read back as it was, also from records of earlier versions."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from shipline.errors import ContentError, NotFound
from shipline.oci import Digest, Platform, Reference
from shipline.ship.plan import ProjectConfig
from shipline.ship.record import KEYS, RunRecord, as_json
from shipline.ship.runs import Runs
from shipline.ship.section import RESERVED, Build, Pipeline
from shipline.ship.steps import KINDS, decode
from shipline.ship.steps.build import LocalImages, digest_of, pushed_images
from shipline.ship.steps.gates import gate_verdicts
from shipline.ship.steps.publish import ReservedVersion, names_of, version_of
from shipline.tags import TagsSection

DIGEST = str(Digest.of(b"image"))
CHILD = str(Digest.of(b"child"))
NAME = "20260101-000000-abcdef"
RESULTS: dict[str, dict[str, Any]] = {
    "command": {},
    "build": {
        "digest": DIGEST,
        "descriptor": {
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "digest": DIGEST,
            "size": 644,
        },
        "platforms": {"linux/amd64": CHILD},
    },
    "gates": {
        "statements": [{"type": "urn:t", "content": {"outcome": "pass", "gates": []}}],
        "verdicts": ["coverage: pass: 9 of 10 lines ran"],
    },
    "reserve": {
        "version": "0.1.0",
        "git_tag": "v0.1.0",
        "tags": [{"name": "v0.1.0", "mutable": False}],
    },
    "sign": {"keys": ["94cc"]},
    "copy": {"copies": ["mirror.example/app"]},
    "publish": {"names": ["a.example/app:v0.1.0"], "version": "0.1.0"},
}


def written(**changes: Any) -> dict[str, Any]:
    """A record as shipline wrote it before it said how keys are made."""
    times = {"started": 1.0, "finished": 2.0, "attempts": 1, "reason": "", "reports": {"r": DIGEST}}
    steps = [
        {"name": kind, "kind": kind, "key": "old", "state": "passed", **times, "results": results}
        for kind, results in RESULTS.items()
    ]
    return {
        "version": 1,
        "id": NAME,
        "root": "/project",
        "file": "shipline.yaml",
        "image": "a.example/app",
        "commit": "c" * 40,
        "tree": "7" * 40,
        "branch": "main",
        "dirty": False,
        "started": 1.0,
        "steps": steps,
        "state": "failed",
        "finished": 3.0,
        "resumed": 0,
        "error": "",
        "exit_code": 5,
        **changes,
    }


def read(document: dict[str, Any]) -> RunRecord:
    return RunRecord.from_json(json.loads(json.dumps(document)), decode)


def test_results_are_read_as_they_were_written() -> None:
    run = read(written())
    assert run.keys == 1 != KEYS
    assert digest_of(run) == DIGEST
    image = pushed_images(run)[""]
    assert image.platforms == (("linux/amd64", Digest.parse(CHILD)),)
    assert gate_verdicts(run).statements == {"": [("urn:t", {"outcome": "pass", "gates": []})]}
    assert names_of(run) == ("a.example/app:v0.1.0",)
    assert version_of(run) == "0.1.0"
    reserved = run.result("reserve", ReservedVersion)
    assert reserved is not None and reserved.tags == (("v0.1.0", False),)
    assert json.loads(json.dumps(run.to_json())) == written(keys=1, images={})


def test_an_image_that_was_not_pushed_has_only_a_digest() -> None:
    image = decode("build", {"built": DIGEST})
    assert isinstance(image, LocalImages) and image.digests == {"": Digest.parse(DIGEST)}
    assert image.to_json() == {"built": DIGEST}


def test_results_of_several_targets_are_read_as_they_were_written() -> None:
    build = next(step["results"] for step in written()["steps"] if step["kind"] == "build")
    statement = {"type": "urn:t", "content": {"outcome": "pass"}}
    for kind, results in (
        ("build", {"targets": {"web": build, "worker": build}}),
        ("build", {"built": {"web": DIGEST, "worker": DIGEST}}),
        ("gates", {"statements": {"web": [statement], "worker": []}, "verdicts": ["a: pass"]}),
        ("publish", {"names": ["a/b:1"], "images": [f"a/b:1@{DIGEST}"], "version": ""}),
    ):
        found = decode(kind, results)
        assert found is not None and found.to_json() == results


def test_keys_of_a_later_version_are_passed_over() -> None:
    steps = [{**step, "more": 1} for step in written()["steps"]]
    assert read(written(steps=steps, more=1)) == read(written())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "of another version of shipline"),
        ({"state": "lost"}, "damaged"),
        ({"steps": [{**written()["steps"][1], "results": {"digest": DIGEST}}]}, "damaged"),
        ({"steps": [{**written()["steps"][1], "kind": "canary"}]}, "an unknown kind: canary"),
    ],
)
def test_a_record_that_cannot_be_read_says_why(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ContentError, match=message):
        read(written(**changes))
    directory = tmp_path / "runs" / NAME
    directory.mkdir(parents=True)
    (directory / "run.json").write_text(json.dumps(written(**changes)))
    with pytest.raises(NotFound, match=f"{NAME}: .*{message}") as raised:
        Runs(tmp_path).read(NAME)
    assert raised.value.hint == f"shipline runs rm {NAME}"


PROJECT = ProjectConfig(Path("/p"), "shipline.yaml", Pipeline(), TagsSection())


def test_the_names_of_the_chains_own_steps_are_reserved() -> None:
    own = [name for kind in KINDS for name in kind.names_in(PROJECT)]
    assert tuple(own) == RESERVED


@dataclass(frozen=True)
class Section:
    name: str
    many: tuple[str, ...] = ()
    extra: int = 5
    nested: Build = field(default_factory=Build)


def test_a_key_has_what_was_written_and_nothing_else() -> None:
    build = Build(args={"b": "2", "a": "1"}, platforms=(Platform.parse("linux/arm64"),))
    found = as_json(Section("n", ("x",), nested=build))
    platform = {"os": "linux", "architecture": "arm64"}
    nested = {"args": {"a": "1", "b": "2"}, "platforms": [platform]}
    assert found == {"name": "n", "many": ["x"], "nested": nested}
    assert as_json(Reference.parse("a.example/b")) == {"host": "a.example", "repository": "b"}
    with pytest.raises(TypeError):
        as_json(object())
