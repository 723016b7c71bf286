"""The box: place, output, status and hint, within its width and its alphabet."""

from __future__ import annotations

import json

import pytest

from shipline.dockerfile.parser import parse
from shipline.errors import (
    DockerfileError,
    GateRefused,
    RegistryError,
    ShiplineError,
    Span,
    StepFailed,
    UsageError,
)
from shipline.observe import failure_box, failure_line
from shipline.observe.text import cells

FAILED = StepFailed(
    "RUN make all did not succeed",
    status=2,
    span=Span("app/Dockerfile", 9, 10, text="RUN make \\\n    all"),
    platform="linux/arm64",
    log=tuple(f"line {n}" for n in range(50)),
    hint="add the target to the Makefile " * 5,
)


def test_a_failed_step_tells_all_that_is_known() -> None:
    box = failure_box(FAILED, unicode=False)
    for part in ("linux/arm64", "app/Dockerfile:9", ">>>  9 | RUN make \\", ">>> 10 |     all"):
        assert part in box
    assert "exit code: 2" in box
    assert "hint: add the target" in box


def test_only_the_last_lines_of_the_output_are_shown() -> None:
    box = failure_box(FAILED, unicode=False)
    assert "line 49" in box
    assert "line 20" in box
    assert "line 19" not in box


@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("width", [40, 60, 100])
def test_no_line_of_the_box_is_wider_than_the_terminal(unicode: bool, width: int) -> None:
    box = failure_box(FAILED, unicode=unicode, width=width)
    assert max(map(cells, box.splitlines())) <= width
    assert box.isascii() is not unicode


def test_lines_of_logs_stay_whole() -> None:
    assert f"| hint: {FAILED.hint}".rstrip() in failure_box(FAILED, unicode=False).splitlines()


def test_source_lines_show_no_login_of_a_url() -> None:
    source = "FROM scratch\nADD https://carol:secret@host/f /f\nADD https://token@host/g /g\n"
    box = failure_box(
        DockerfileError("no", span=Span("Dockerfile", 3, 3, source=source)), unicode=False
    )
    assert "ADD https://host/f /f" in box and "ADD https://host/g /g" in box
    assert "secret" not in box and "token" not in box


def test_a_wrapped_source_line_continues_below_its_text() -> None:
    error = DockerfileError("no", span=Span("Dockerfile", 3, 3, text="RUN " + "word " * 20))
    lines = failure_box(error, unicode=False, width=50).splitlines()
    start = next(at for at, line in enumerate(lines) if "RUN" in line)
    assert lines[start + 1].index("word") == lines[start].index("RUN")


def test_a_wrong_dockerfile_shows_its_line() -> None:
    error = DockerfileError(
        "unknown instruction: RUM", span=Span("Dockerfile", 3, 3, text="RUM ls")
    )
    assert ">>> 3 | RUM ls" in failure_box(error, unicode=False)


def test_every_line_of_an_instruction_is_shown_with_its_neighbours() -> None:
    text = "FROM a\nENV b=c\nUSER d\nRUN <<EOF\n\tfalse\nEOF\nCMD x\nCMD y\nCMD z\n"
    with pytest.raises(StepFailed) as caught:
        raise StepFailed("no", status=1, span=parse(text).nodes[3].span)
    lines = failure_box(caught.value, unicode=False).splitlines()
    start = lines.index("| Dockerfile:4")
    assert lines[start + 1 : start + 8] == [
        "|     2 | ENV b=c",
        "|     3 | USER d",
        "| >>> 4 | RUN <<EOF",
        "| >>> 5 |         false",
        "| >>> 6 | EOF",
        "|     7 | CMD x",
        "|     8 | CMD y",
    ]


def test_the_middle_of_a_long_instruction_is_left_out() -> None:
    text = "FROM a\nRUN <<EOF\n" + "".join(f"echo {n}\n" for n in range(500)) + "EOF\n"
    box = failure_box(DockerfileError("no", span=parse(text).nodes[1].span), unicode=False)
    assert len(box.splitlines()) < 50
    assert ">>>   2 | RUN <<EOF" in box
    assert ">>> 503 | EOF" in box
    assert "echo 250" not in box


@pytest.mark.parametrize(
    ("error", "title"),
    [
        (UsageError("no", hint="do"), "usage error"),
        (RegistryError("no", host="r", diagnostics=("DENIED",)), "registry error"),
        (GateRefused("no", verdicts=("coverage: 3 %",)), "refused by policy"),
    ],
)
def test_every_family_has_the_same_layout(error: ShiplineError, title: str) -> None:
    error.add_note("Dockerfile:1: FROM x")
    lines = failure_box(error, unicode=False).splitlines()
    assert lines[0].startswith(f"+- {title} --")
    assert lines[1] == "| no"
    assert "|   Dockerfile:1: FROM x" in lines


def test_what_a_program_wrote_cannot_leave_the_box() -> None:
    error = StepFailed("failed", status=1, log=("\x1b[2Jgone\x1b[H", "a\rb", "\x9b1A"))
    box = failure_box(error, unicode=False)
    assert "\x1b" not in box
    assert "\x9b" not in box


def test_the_other_failures_are_named_after_the_first() -> None:
    first = StepFailed("RUN a: exit code: 1", status=1, platform="linux/amd64")
    first.add_other(
        StepFailed(
            "RUN b: exit code: 2\nand why",
            status=2,
            platform="linux/arm64",
            span=Span("Dockerfile", 4, 4),
        )
    )
    box = failure_box(first, unicode=False)
    assert "| also failed:\n| - linux/arm64: Dockerfile:4: RUN b: exit code: 2\n" in box
    value = json.loads(failure_line(first, first.code, 5))["error"]["others"]
    assert [(one["platform"], one["code"]) for one in value] == [("linux/arm64", "step")]
