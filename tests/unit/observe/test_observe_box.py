"""The box: place, output, status and hint, within its width and its alphabet."""

from __future__ import annotations

import pytest

from shipline.errors import DockerfileError, ShiplineError, Span, StepFailed
from shipline.observe import failure_box
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
    assert "line 30" in box
    assert "line 29" not in box


@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("width", [40, 60, 100])
def test_every_line_of_the_box_is_equally_wide(unicode: bool, width: int) -> None:
    box = failure_box(FAILED, unicode=unicode, width=width)
    widths = {cells(line) for line in box.splitlines()}
    assert len(widths) == 1
    assert max(widths) <= width
    assert box.isascii() is not unicode


def test_a_wrong_dockerfile_shows_its_line() -> None:
    error = DockerfileError(
        "unknown instruction: RUM", span=Span("Dockerfile", 3, 3, text="RUM ls")
    )
    assert ">>> 3 | RUM ls" in failure_box(error, unicode=False)


def test_an_error_without_a_place_has_no_box() -> None:
    assert failure_box(ShiplineError("no"), unicode=True) == ""
    assert failure_box(DockerfileError("no"), unicode=True) == ""


def test_what_a_program_wrote_cannot_leave_the_box() -> None:
    error = StepFailed("failed", status=1, log=("\x1b[2Jgone\x1b[H", "a\rb", "\x9b1A"))
    box = failure_box(error, unicode=False)
    assert "\x1b" not in box
    assert "\x9b" not in box
