"""Why a step ran again: the part of its key that differs, down to what somebody changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from shipline.events import Stream
from shipline.history import (
    FileTables,
    Reason,
    RunComparison,
    RunDetail,
    RunHistory,
    RunRecorder,
    RunSummary,
    StepChange,
    StepView,
)

Parts = Mapping[str, str]
BASE = {"image busybox": "sha256:aa i", "command": "c1", "variable CC": "v1"}


def run_of(
    history: RunHistory,
    *steps: tuple[str, Parts],
    cached: bool = False,
    fresh: bool = False,
    files: Mapping[str, str] | None = None,
) -> RunDetail:
    """A run with steps of one stage; each is the vertex of its place, and uses the one before."""
    run = history.new_id()
    recorder = RunRecorder(history.directory(run), RunSummary(run, "build", "app", 1.0))
    with Stream(recorder) as stream, stream.step("build") as root:
        for number, (name, parts) in enumerate(steps, 1):
            attributes = {"kind": "run", "number": f"{number}/9", "vertex": f"v{number}"}
            with root.step(name, **attributes, **({"fresh": True} if fresh else {})) as step:
                step.note(parts=json.dumps(parts), files=json.dumps(files or {}))
                if cached:
                    step.cached()
    return history.read(run)


def why(history: RunHistory, before: RunDetail, after: RunDetail, step: int = 0) -> list[Reason]:
    compared = RunComparison(after, before, FileTables(history.root.parent))
    return list(compared.why(after.steps[step]))


def test_only_a_time_of_work_is_compared() -> None:
    ran, again, cached = (
        StepView(1, 0, "RUN make", started=0.0, finished=end, cached=end == 0.0)
        for end in (2.0, 9.0, 0.0)
    )
    assert StepChange(again, ran).slower
    assert not StepChange(again, cached).slower


@pytest.fixture
def history(tmp_path: Path) -> RunHistory:
    return RunHistory(tmp_path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"variable CC": "v2"}, Reason("variable", "CC", "set", "set")),
        ({"variable NEW": "x"}, Reason("variable", "NEW", "", "set")),
        ({"image busybox": "sha256:bb i"}, Reason("image", "busybox", "sha256:aa", "sha256:bb")),
        ({"user": "u"}, Reason("setting", "user")),
        ({}, Reason("evicted")),
    ],
)
def test_the_part_that_differs_is_named(
    history: RunHistory, change: Parts, expected: Reason
) -> None:
    before = run_of(history, ("RUN make", BASE))
    after = run_of(history, ("RUN make", {**BASE, **change}))
    assert why(history, before, after) == [expected]


def test_another_base_image_is_one_reason(history: RunHistory) -> None:
    before = run_of(history, ("RUN make", {"image alpine:3.21": "sha256:aa i"}))
    after = run_of(history, ("RUN make", {"image alpine:3.22": "sha256:bb i"}))
    assert why(history, before, after) == [
        Reason("image", "alpine:3.22", "alpine:3.21", "alpine:3.22")
    ]


def test_an_instruction_that_was_edited_is_compared_with_what_stood_there(
    history: RunHistory,
) -> None:
    before = run_of(history, ("RUN make", BASE))
    after = run_of(history, ("RUN make all", {**BASE, "command": "c2"}))
    assert why(history, before, after) == [Reason("instruction", "", "RUN make", "RUN make all")]


def test_a_step_that_was_not_there_is_new(history: RunHistory) -> None:
    before = run_of(history, ("RUN make", BASE))
    after = run_of(history, ("RUN make", BASE), ("RUN more", {"base": "x v1"}))
    assert why(history, before, after, 1) == [Reason("new")]


def test_the_result_of_another_step_leads_to_what_changed_there(history: RunHistory) -> None:
    def run(value: str, result: str) -> RunDetail:
        first = ("RUN make", {**BASE, "variable CC": value})
        second = ("WORKDIR /x", {"base": f"{result} v1"})
        return run_of(history, first, second, ("RUN test", {"base": f"{result}0 v2"}))

    (found,) = why(history, run("v1", "r1"), run("v2", "r2"), 2)
    assert (found.kind, found.name) == ("step", "RUN make")
    assert list(found.roots()) == [Reason("variable", "CC", "set", "set")]


def test_no_cache_is_the_reason_whatever_else_changed(history: RunHistory) -> None:
    before = run_of(history, ("RUN make", BASE))
    after = run_of(history, ("RUN make", {**BASE, "variable CC": "v2"}), fresh=True)
    assert why(history, before, after) == [Reason("fresh")]


def test_a_step_from_the_cache_needs_no_reason(history: RunHistory) -> None:
    before = run_of(history, ("RUN make", BASE))
    after = run_of(history, ("RUN make", {**BASE, "user": "u"}), cached=True)
    assert why(history, before, after) == []


def test_files_are_named_by_how_they_differ(history: RunHistory) -> None:
    tables = FileTables(history.root.parent)
    plain, owned = 0o100644, (1, 1)
    old = [(name, plain, 0, 0, b"1") for name in ("gone", "edited", "mode", "owner", "same")]
    new = [
        ("edited", plain, 0, 0, b"2"),
        ("mode", 0o100755, 0, 0, b"1"),
        ("owner", plain, *owned, b"1"),
        ("same", plain, 0, 0, b"1"),
        ("added", plain, 0, 0, b"1"),
    ]
    tables.add("sha256:old", 5, lambda: old)
    tables.add("sha256:new", 5, lambda: new)
    before = run_of(history, ("COPY src /", {"unpack": "x"}), files={"src": "sha256:old"})
    after = run_of(history, ("COPY src /", {"unpack": "x"}), files={"src": "sha256:new"})
    files = why(history, before, after)[-1].files
    assert {one.path: (one.how, one.before, one.after) for one in files} == {
        "src/edited": ("changed", "", ""),
        "src/added": ("added", "", ""),
        "src/gone": ("removed", "", ""),
        "src/mode": ("mode", "0644", "0755"),
        "src/owner": ("owner", "0:0", "1:1"),
    }


def test_a_table_that_is_gone_or_damaged_leaves_the_path(history: RunHistory) -> None:
    tables = FileTables(history.root.parent)
    tables.add("sha256:one", 1, lambda: [("a", 0o100644, 0, 0, b"1")])
    (tables.root / "one").write_bytes(b"damaged")
    before = run_of(history, ("COPY src /", {"x": "1"}), files={"src": "sha256:one"})
    after = run_of(history, ("COPY src /", {"x": "1"}), files={"src": "sha256:two"})
    assert why(history, before, after) == [Reason("files", "src", "sha256:one", "sha256:two")]


def test_the_run_before_is_of_the_same_thing(history: RunHistory) -> None:
    first = run_of(history, ("RUN make", BASE)).summary
    other = history.new_id()
    RunRecorder(history.directory(other), RunSummary(other, "build", "other", 1.0)).close()
    last = run_of(history, ("RUN make", BASE)).summary
    found = history.previous(last)
    assert found is not None
    assert found.id == first.id
    assert history.previous(first) is None
