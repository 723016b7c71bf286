"""What ship reads from other machines, and what it writes for people and programs."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from shipline.errors import RegistryError, StepFailed, UsageError
from shipline.events import Stream
from shipline.git import Commit, WorkTree
from shipline.history import RunState
from shipline.observe import GroupsSink, boxed
from shipline.oci import Descriptor, Digest, Reference, media
from shipline.ship.preparation import dirty_decision
from shipline.ship.record import RunRecord, StepRecord
from shipline.ship.render import failure_sections, outputs, summary
from shipline.ship.reports import SCANNERS
from shipline.ship.section import Build, Pipeline, StepSection
from shipline.ship.steps.build import PushedImage, PushedImages, image_labels, read_built
from shipline.ship.steps.sign import provenance
from shipline.tags import Event, Situation, TagsSection, decide
from shipline.tags.decision import built_from
from shipline.values import replace

IMAGE = Reference.parse("registry.example/team/app")
DIGEST = Digest.of(b"image")
INDEX = Descriptor(media.OCI_INDEX, DIGEST, 5)
BUILT = PushedImages({"": PushedImage(INDEX, ())})
RUN = RunRecord(
    "20260101-000000-abcdef", "/project", "shipline.yaml", str(IMAGE), "c" * 40, "t", "main",
    False, 1.0,
    (
        StepRecord("test", "command", "k", RunState.FAILED, 1.0, 3.0, reason="test ended | with 1"),
        StepRecord("build", "build", "k", RunState.PASSED, result=BUILT),
    ),
    RunState.FAILED,
)  # fmt: skip


def built(place: Path, content: object) -> Path:
    path = place / "built.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_builds_of_other_machines_are_read(tmp_path: Path) -> None:
    path = built(tmp_path, {"containerimage.digest": str(DIGEST), "image.name": f"{IMAGE}:latest"})
    assert read_built([path, path], {"": IMAGE}) == {"": (DIGEST,)}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        {},
        {"containerimage.digest": "sha256:1"},
        {"containerimage.digest": 1},
        {"containerimage.digest": str(DIGEST), "image.name": "other.example/app:1"},
        {"containerimage.digest": str(DIGEST), "image.name": 3},
    ],
)
def test_other_files_are_no_builds(content: object, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--built"):
        read_built([built(tmp_path, content)], {"": IMAGE})
    with pytest.raises(UsageError, match="cannot read"):
        read_built([tmp_path / "none"], {"": IMAGE})


def test_builds_of_several_targets_are_read_by_target(tmp_path: Path) -> None:
    image, other = {"containerimage.digest": str(DIGEST)}, Reference.parse("a.example/other")
    images = {"web": IMAGE, "other": other}
    path = built(tmp_path, {"web": image, "other": image, "base": {}})
    assert read_built([path], images) == {"web": (DIGEST,), "other": (DIGEST,)}
    with pytest.raises(UsageError, match="no file has the image of the target other"):
        read_built([built(tmp_path, {"web": image})], images)
    with pytest.raises(UsageError, match="no file has a target"):
        read_built([built(tmp_path, image)], images)


def test_a_version_that_is_not_reserved_is_not_written_into_the_image() -> None:
    labels = {"org.opencontainers.image.version": "1.0.0", "a": "b"}
    assert image_labels(labels, fixed=False) == {"a": "b"}
    assert image_labels(labels, fixed=True) == labels


def test_provenance_has_no_credentials_and_no_values() -> None:
    build = Build(args={"TOKEN": "hunter2"})
    found = provenance(RUN, build, "https://me:hunter2@git.example/app.git", {}, 9.0)
    text = json.dumps(found)
    assert "hunter2" not in text
    source = found["buildDefinition"]["externalParameters"]["source"]
    assert source["uri"] == "git+https://git.example/app.git@refs/heads/main"
    assert source["digest"] == {"gitCommit": RUN.commit}
    assert found["runDetails"]["metadata"]["finishedOn"] == "1970-01-01T00:00:09Z"


def test_the_box_says_how_to_continue() -> None:
    error = StepFailed("test ended with 1", status=1, log=tuple(f"line {n}" for n in range(40)))
    pipeline = Pipeline(steps={"test": StepSection(run="make test", working_directory="sub")})
    box = boxed("failed", failure_sections(error, RUN, pipeline), unicode=False)
    for said in (
        "line 39",
        str(DIGEST),
        "cd /project/sub && make test",
        f"shipline ship --resume {RUN.id}",
        f"shipline runs logs {RUN.id} test",
    ):
        assert said in box
    assert "line 9 " not in box


def test_the_box_has_what_the_registry_said() -> None:
    error = RegistryError("refused", host="h", diagnostics=("DENIED: quota",), hint="delete")
    box = boxed("failed", failure_sections(error, None, Pipeline()), unicode=True)
    assert "DENIED: quota" in box and "hint: delete" in box


def test_the_box_names_every_step_that_failed() -> None:
    late = StepRecord("late", "command", "k", RunState.FAILED, reason="late took more than 1s")
    several = replace(RUN, steps=(*RUN.steps, late))
    error = StepFailed("test ended with 1", status=1)
    paragraphs = list(failure_sections(error, several, Pipeline()))
    assert ["also failed:", "- late took more than 1s"] in paragraphs
    assert not any("also failed:" in one for one in failure_sections(error, RUN, Pipeline()))


def test_summary_is_a_table_that_reasons_do_not_break() -> None:
    rows = [line for line in summary(RUN).splitlines() if line.startswith("| test")]
    assert rows == ["| test | ❌ failed | 2.0s | test ended \\| with 1 |"]
    late = replace(RUN, steps=(*RUN.steps, StepRecord("sign", "sign", "k")))
    assert "| sign | not run |  |  |" in summary(late).splitlines()
    assert "\n\n\n" not in summary(late)
    assert outputs(RUN)["digest"] == str(DIGEST)
    assert outputs(RUN)["tags"] == ""


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.0.0.9:1", True),
        ("[::1]:5000", True),
        ("registry.example", False),
        ("10.0.0.1:5000", False),
    ],
)
def test_scanners_speak_http_on_this_machine_only(host: str, here: bool) -> None:
    assert ("TRIVY_INSECURE" in SCANNERS["trivy"].environ(host)) == here


@pytest.mark.parametrize("name", ["trivy", "grype", "syft"])
def test_scanners_get_the_digest_and_write_the_report(name: str) -> None:
    words = SCANNERS[name].command(f"{IMAGE}@{DIGEST}", "/r/eport.json")
    assert any(f"{IMAGE}@{DIGEST}" in word for word in words)
    assert any("/r/eport.json" in word for word in words)
    assert not any("{" in word for word in words)


def test_groups_are_whole_though_steps_run_side_by_side() -> None:
    text = io.StringIO()
    with (
        Stream(GroupsSink(text)) as stream,
        stream.step("ship") as ship,
        ship.step("one", kind="run") as one,
    ):
        one.output(b"a\n")
        with pytest.raises(StepFailed), ship.step("two", kind="run") as two:
            two.output(b"x%\n")
            one.output(b"b")
            raise StepFailed("two: 100%\nbad", status=1)
    lines = text.getvalue().splitlines()
    first = lines.index("::group::#1 one DONE 0.0s")
    assert lines[first : first + 4] == ["::group::#1 one DONE 0.0s", "a", "b", "::endgroup::"]
    assert "::error title=two::two: 100%25 bad" in lines


def test_changes_without_a_commit_are_nobodys_image() -> None:
    event = Event("pull-request", "refs/pull/7/merge", number="7", head="b" * 40)
    decision = decide(TagsSection(), Situation(event, Commit("c" * 40, time=1)))
    assert decision.labels["org.shipline.pull-request.merge"] == "c" * 40
    work_tree = WorkTree("c" * 40, "d" * 40, 1, changes=("a.py",))
    dirty = dirty_decision(decision, work_tree)
    assert built_from(dirty.labels) == built_from(dirty.annotations) == f"{'c' * 40}-dirty"
