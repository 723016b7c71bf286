"""The history: what is kept of a run is what its events said."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from shipline.errors import Cancelled, UsageError
from shipline.events import Event, Stream
from shipline.history import RunHistory, RunRecorder, RunState, RunSummary
from shipline.history.recorder import EVENTS, RECORD


def record(history: RunHistory, run: str = "", **facts: str) -> str:
    """A run of two steps, of which the second fails if `error` is given."""
    run = run or history.new_id()
    recorder = RunRecorder(history.directory(run), RunSummary(run, "build", "app", history.clock()))
    error = facts.pop("error", "")
    with Stream(recorder) as stream, stream.step("build", root="/src", **facts) as root:
        with root.step("FROM base", kind="pull", vertex="aa", platform="linux/amd64") as pull:
            pull.cached()
        with root.step(
            "RUN make", kind="run", vertex="bb", inputs="aa", stage="build", number="1/1"
        ) as step:
            step.output(b"one\n")
            step.output(b"two\n", stream=2)
            with step.step("layer", kind="upload", size=7) as upload:
                upload.progress(3, 7)
                upload.progress(7, 7)
            step.warn("careful", "look twice")
            if error:
                raise ValueError(error)
        root.note(digest="sha256:00", names="a:1 b:2")
    return run


def test_a_run_is_read_as_it_was_told(tmp_path: Path) -> None:
    history = RunHistory(tmp_path)
    run = record(history, commit="c0ffee", dockerfile="FROM base\nRUN make\n")
    (summary,) = history.ls()
    assert (summary.id, summary.state, summary.commit) == (run, RunState.PASSED, "c0ffee")
    assert (summary.done, summary.cached, summary.total, summary.warnings) == (2, 1, 2, 1)
    assert summary.names == ("a:1", "b:2")
    assert summary.digest == "sha256:00"
    detail = history.read(run)
    assert detail.summary == summary
    assert detail.facts == {"dockerfile": "FROM base\nRUN make\n"}
    pull, step = detail.steps
    assert step.inputs == (pull.span,)
    assert [(one.kind, one.current, one.total) for one in step.transfers] == [("upload", 7, 7)]
    assert [one.message for one in step.warnings] == ["careful"]
    assert [(one.stream, one.data) for one in detail.log(step.span)] == [
        (1, b"one\n"),
        (2, b"two\n"),
    ]
    assert step.on_chain
    assert pull.on_chain


def test_a_failed_run_says_where_and_why(tmp_path: Path) -> None:
    history = RunHistory(tmp_path)
    with pytest.raises(ValueError, match="boom"):
        record(history, error="boom")
    (summary,) = history.ls()
    assert (summary.state, summary.error) == (RunState.FAILED, "boom")
    assert history.read(summary.id).steps[1].error == "boom"


def test_a_cancelled_run_is_cancelled(tmp_path: Path) -> None:
    history = RunHistory(tmp_path)
    run = history.new_id()
    recorder = RunRecorder(history.directory(run), RunSummary(run, "build", "app", 1.0))
    with pytest.raises(Cancelled), Stream(recorder) as stream, stream.step("build"):
        raise Cancelled
    assert history.summary(run).state is RunState.CANCELLED


def test_a_killed_run_is_interrupted_and_keeps_what_it_wrote(tmp_path: Path) -> None:
    history = RunHistory(tmp_path)
    run = history.new_id()
    if not (child := os.fork()):
        recorder = RunRecorder(history.directory(run), RunSummary(run, "build", "app", 1.0))
        seen: list[Event] = []  # after the recorder
        with (
            Stream(recorder, seen.append) as stream,
            stream.step("build") as root,
            root.step("RUN", kind="run"),
        ):
            while len(seen) < 2:
                time.sleep(0.001)
            os._exit(0 if history.summary(run).state is RunState.RUNNING else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert history.summary(run).state is RunState.INTERRUPTED
    assert [one.name for one in history.read(run).steps] == ["RUN"]


def test_a_resumed_run_goes_on_with_its_events(tmp_path: Path) -> None:
    history = RunHistory(tmp_path)
    run = record(history)
    record(history, run)
    assert [one.name for one in history.read(run).steps] == ["FROM base", "RUN make"] * 2
    assert len({one.span for one in history.read(run).steps}) == 4


@pytest.mark.parametrize(
    ("damage", "steps"),
    [
        (lambda data: data + b"\x09\0\0\0half", 4),
        (lambda data: data + b"\x04\0\0\0junk", 2),
        (lambda data: b"\x28\xb5\x2f\xfd" + data, 2),
    ],
)
def test_a_resumed_run_whose_events_are_damaged_is_recorded(
    tmp_path: Path, damage: Callable[[bytes], bytes], steps: int
) -> None:
    history = RunHistory(tmp_path)
    run = record(history)
    events = history.directory(run) / EVENTS
    events.write_bytes(damage(events.read_bytes()))
    record(history, run)
    assert len(history.read(run).steps) == steps


def test_a_full_disk_ends_the_recording_and_nothing_else(tmp_path: Path) -> None:
    history = RunHistory(tmp_path)
    run = history.new_id()
    recorder = RunRecorder(history.directory(run), RunSummary(run, "build", "app", 1.0))
    with Path("/dev/full").open("wb", buffering=0) as full:
        recorder._file = full
        with Stream(recorder) as stream, stream.step("build"):
            pass
    assert recorder.failure is not None
    assert stream.failures == ()


def test_a_damaged_record_is_left_out_of_the_list(tmp_path: Path) -> None:
    history = RunHistory(tmp_path)
    record(history)
    (history.directory(record(history)) / RECORD).write_bytes(b"{")
    assert len(list(history.ls())) == 1


def test_many_events_are_compressed_once_the_run_has_ended(tmp_path: Path) -> None:
    history = RunHistory(tmp_path)
    run = history.new_id()
    recorder = RunRecorder(history.directory(run), RunSummary(run, "build", "app", 1.0))
    with (
        Stream(recorder) as stream,
        stream.step("build") as root,
        root.step("RUN", kind="run") as s,
    ):
        for number in range(5000):
            s.output(b"line %d of many\n" % number)
    assert (history.directory(run) / EVENTS).stat().st_size < 100_000
    detail = history.read(run)
    assert len(list(detail.log(detail.steps[0].span))) == 5000


def test_output_beyond_the_limit_is_cut_with_a_warning(tmp_path: Path) -> None:
    history = RunHistory(tmp_path)
    run = history.new_id()
    recorder = RunRecorder(history.directory(run), RunSummary(run, "build", "app", 1.0))
    with (
        Stream(recorder) as stream,
        stream.step("build") as root,
        root.step("RUN", kind="run") as s,
    ):
        for _ in range(70):
            s.output(b"x" * (1 << 20))
    detail = history.read(run)
    kept = sum(len(one.data) for one in detail.log(detail.steps[0].span))
    assert kept == 64 << 20
    assert [one.message for one in detail.steps[0].warnings] == [
        "the output is longer than 64 MB: the rest is not kept"
    ]


def test_a_beginning_of_several_runs_is_ambiguous(tmp_path: Path) -> None:
    history = RunHistory(tmp_path)
    for end in ("aaaaaa", "bbbbbb"):
        (history.root / f"20261130-000001-{end}").mkdir(parents=True)
    with pytest.raises(UsageError, match="matches 2 runs") as caught:
        history.resolve("20261130")
    assert caught.value.code == "run-ambiguous"


def test_the_oldest_runs_go_by_number_and_by_size(tmp_path: Path) -> None:
    history = RunHistory(tmp_path)
    runs = [record(history, f"20261130-00000{number}-aaaaaa") for number in range(6)]
    (history.directory(runs[0]) / "run.json").touch()
    history.keep_within(3, 3 << 20, runs[5])
    assert history.ids() == [runs[5], runs[4], runs[3], runs[0]]
    (history.directory(runs[5]) / EVENTS).write_bytes(bytes(2 << 20))
    (history.directory(runs[3]) / EVENTS).write_bytes(bytes(2 << 20))
    history.keep_within(3, 3 << 20, runs[5])
    assert history.ids() == [runs[5], runs[4], runs[0]]
    history.keep_within(3, 1 << 20, runs[5])
    assert history.ids() == [runs[5], runs[0]]


def test_a_run_that_begins_is_kept_while_others_are_removed(tmp_path: Path) -> None:
    """Its directory may go as that of a run without a process, until its events are locked."""
    history, ended = RunHistory(tmp_path), threading.Event()

    def remove() -> None:
        while not ended.is_set():
            for run in history.ids():
                with suppress(UsageError):
                    history.remove(run)

    with ThreadPoolExecutor(1) as pool:
        removing = pool.submit(remove)
        try:
            for _ in range(300):
                run = history.new_id()
                summary = RunSummary(run, "build", "app", 1.0)
                recorder = RunRecorder(history.directory(run), summary)
                assert history.alive(run)
                recorder.close()
                assert recorder.failure is None
        finally:
            ended.set()
        removing.result()


def test_a_run_that_was_removed_meanwhile_is_none(tmp_path: Path) -> None:
    history = RunHistory(tmp_path)
    with pytest.raises(UsageError, match="there is no run"):
        history.events(history.new_id())
