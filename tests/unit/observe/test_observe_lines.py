"""Plain progress: BuildKit's form, every line complete and numbered."""

from __future__ import annotations

import io

from events_for_tests import Script

from shipline.observe import LinesSink


def shown(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def open_script() -> tuple[Script, io.StringIO, int]:
    stream = io.StringIO()
    script = Script(LinesSink(stream))
    return script, stream, script.start(0, "build")


def test_a_step_is_told_from_its_start_to_its_end() -> None:
    script, stream, build = open_script()
    run = script.start(0, "RUN make", build, platform="linux/arm64", number="2/3", kind="run")
    script.output(0.312, run, b"compi")
    script.output(0.5, run, b"ling\nlink")
    script.finish(1.44, run)
    assert shown(stream) == [
        "#1 [linux/arm64 2/3] RUN make",
        "#1 0.500 compiling",
        "#1 1.440 link",
        "#1 DONE 1.4s",
        "",
    ]


def test_the_builder_is_named_before_its_steps() -> None:
    stream = io.StringIO()
    script = Script(LinesSink(stream))
    build = script.start(0, "build", builder="farm", driver="remote")
    script.start(0, "RUN make", build, kind="run")
    first = '#0 building with "farm" instance using remote driver'
    assert shown(stream) == [first, "", "#1 RUN make"]


def test_the_ends_are_told_apart() -> None:
    script, stream, build = open_script()
    for error, cached in (("", True), ("no\nway", False), ("interrupted", False)):
        span = script.start(0, "step", build, kind="copy")
        script.finish(0, span, error, cached)
    assert [line for line in shown(stream) if " step" not in line and line] == [
        "#1 CACHED",
        "#2 ERROR: no way",
        "#3 CANCELED",
    ]


def test_internal_steps_and_stages_are_labelled() -> None:
    script, stream, build = open_script()
    script.start(0, "load context", build, kind="internal")
    script.start(0, "COPY . .", build, platform="linux/amd64", stage="app", number="1/2")
    linux = "linux/amd64"
    script.start(0, "COPY .", build, platform=linux, single=True, stage="app", number="2/12")
    script.start(0, "load a", build, kind="resolve", platform=linux, single=True, target="web")
    assert shown(stream) == [
        "#1 [internal] load context",
        "#2 [linux/amd64 app 1/2] COPY . .",
        "#3 [app  2/12] COPY .",
        "#4 [web internal] load a",
    ]


def test_a_status_is_a_line_of_its_step() -> None:
    script, stream, build = open_script()
    export = script.start(0, "exporting to image", build, kind="export")
    script.finish(0, script.start(0, "exporting config sha256:a", export, kind="status"))
    assert shown(stream) == ["#1 exporting to image", "#1 exporting config sha256:a 0.0s done"]


def test_transfers_belong_to_their_step_and_are_told_now_and_then() -> None:
    script, stream, build = open_script()
    copy = script.start(0, "COPY", build, kind="copy")
    upload = script.start(0, "layer", copy, kind="upload")
    for tenth in range(1, 50):
        script.progress(tenth / 10, upload, tenth * 1_000_000, 49_000_000)
    script.finish(5, upload)
    assert shown(stream) == [
        "#1 COPY",
        "#1 layer 20.00MB / 49.00MB 40% 2.0s (10.00MB/s, 2.9s left)",
        "#1 layer 40.00MB / 49.00MB 81% 4.0s (10.00MB/s)",
        "#1 layer 49.00MB / 49.00MB 100% 5.0s done",
    ]


def test_a_pull_outside_of_a_step_is_a_step() -> None:
    script, stream, build = open_script()
    script.start(0, "FROM alpine", build, kind="pull", platform="linux/amd64")
    assert shown(stream) == ["#1 [linux/amd64] FROM alpine"]


def test_warnings_are_shown_with_their_hint() -> None:
    script, stream, build = open_script()
    script.warn(0, build, "old syntax", "write it again")
    assert shown(stream) == ["WARN: old syntax", "WARN: hint: write it again"]


def test_streams_of_a_step_do_not_mix_within_a_line() -> None:
    script, stream, build = open_script()
    run = script.start(0, "RUN", build, kind="run")
    script.output(0, run, b"out", 1)
    script.output(0, run, b"err\n", 2)
    script.output(0, run, b"put\n", 1)
    assert shown(stream)[1:] == ["#1 0.000 err", "#1 0.000 output"]


def test_a_line_without_end_is_shown_in_pieces() -> None:
    script, stream, build = open_script()
    run = script.start(0, "RUN", build, kind="run")
    for _ in range(3):
        script.output(0, run, b"x" * 40_000)
    assert [len(line) for line in shown(stream)] == [len("#1 RUN"), len("#1 0.000 ") + 80_000]


def test_a_closed_stream_does_not_stop_the_work() -> None:
    script, stream, build = open_script()
    stream.close()
    script.start(0, "RUN", build, kind="run")
