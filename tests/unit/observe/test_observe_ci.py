"""Progress in the forms of CI systems: groups, sections, annotations."""

from __future__ import annotations

import io
from collections.abc import Mapping

import pytest
from events_for_tests import Script

from shipline.errors import DockerfileError, GateRefused, Span, StepFailed, UsageError
from shipline.observe import annotate, open_sinks

GITHUB = {"GITHUB_ACTIONS": "true"}
GITLAB = {"GITLAB_CI": "true"}


def shown(environ: Mapping[str, str], mode: str = "auto") -> tuple[Script, io.StringIO, int]:
    stream = io.StringIO()
    (sink,) = open_sinks(mode, stream, environ)
    script = Script(sink)
    return script, stream, script.start(0, "build")


def run_make(script: Script, build: int, error: str = "") -> None:
    place: dict[str, str | int] = {"file": "Dockerfile", "line": 3, "end": 4}
    run = script.start(1, "RUN make", build, number="2/3", kind="run", **place)
    script.output(2, run, b"a\nb")
    script.finish(3, run, error=error)


def test_github_folds_the_output_of_a_step() -> None:
    script, stream, build = shown(GITHUB)
    run_make(script, build)
    assert stream.getvalue() == (
        "#1 [2/3] RUN make ...\n::group::#1 [2/3] RUN make DONE 2.0s\na\nb\n::endgroup::\n"
    )


def test_the_output_of_an_image_gives_no_commands_to_github() -> None:
    script, stream, build = shown(GITHUB)
    for command in (b"  ::set-output name=a::b\n", b"x ##[add-mask]y\n"):
        run = script.start(1, "RUN make", build, number="2/3", kind="run")
        script.output(2, run, command)
        script.finish(3, run)
        group, stop, shown_line, go_on, end = stream.getvalue().splitlines()[-5:]
        assert (group[:9], end) == ("::group::", "::endgroup::")
        assert shown_line == command.decode().rstrip("\n")
        token = stop.removeprefix("::stop-commands::")
        assert len(token) == 32 and go_on == f"::{token}::"
    assert stream.getvalue().count(token) == 2  # another one for each


def test_the_output_of_a_step_of_the_pipeline_may_annotate() -> None:
    script, stream, build = shown(GITHUB)
    lint = script.start(1, "lint", build, kind="run", stage="lint")
    script.output(2, lint, b"::error file=a.py::wrong\n")
    script.finish(3, lint)
    assert stream.getvalue().splitlines()[-2] == "::error file=a.py::wrong"


def test_github_marks_the_line_of_a_failed_step() -> None:
    script, stream, build = shown(GITHUB)
    run_make(script, build, "100% wrong")
    assert stream.getvalue().splitlines()[-1] == (
        "::error file=Dockerfile,line=3,endLine=4,title=[2/3] RUN make::100%25 wrong"
    )


def test_a_step_annotates_ten_errors_and_ten_warnings() -> None:
    script, stream, build = shown(GITHUB)
    for _ in range(12):
        script.warn(1, build, "careful")
        run_make(script, build, "no")
    lines = stream.getvalue().splitlines()
    assert sum(line.startswith("::error ") for line in lines) == 10
    assert sum(line.startswith("::warning::") for line in lines) == 10
    assert lines.count("WARN: careful") == 2


def test_gitlab_folds_a_section_with_its_times() -> None:
    script, stream, build = shown(GITLAB)
    run_make(script, build)
    assert stream.getvalue() == (
        "#1 [2/3] RUN make ...\n"
        "\x1b[0Ksection_start:1700000001:step_1[collapsed=true]\r\x1b[0K"
        "#1 [2/3] RUN make DONE 2.0s\n"
        "a\nb\n"
        "\x1b[0Ksection_end:1700000003:step_1\r\x1b[0K\n"
    )


@pytest.mark.parametrize("environ", [{}, {"CI": "true"}])
def test_elsewhere_lines_are_plain(environ: Mapping[str, str]) -> None:
    script, stream, build = shown(environ)
    run_make(script, build)
    assert "#1 DONE 2.0s" in stream.getvalue().splitlines()


def test_plain_stays_plain_in_ci() -> None:
    script, stream, build = shown(GITHUB, "plain")
    run_make(script, build)
    assert "#1 DONE 2.0s" in stream.getvalue().splitlines()


def test_the_report_shows_warnings_alone() -> None:
    script, stream, build = shown({}, "report")
    run_make(script, build)
    script.warn(1, build, "careful")
    assert stream.getvalue() == "WARN: careful\n"


def test_an_error_of_the_dockerfile_is_annotated_at_its_line() -> None:
    error = DockerfileError(
        "unknown instruction: RUM", code="dockerfile-instruction", span=Span("Dockerfile", 3, 3)
    )
    assert annotate(error, GITHUB) == [
        "::error file=Dockerfile,line=3,endLine=3,title=dockerfile-instruction::"
        "unknown instruction: RUM"
    ]
    assert annotate(error, GITLAB) == []


def test_findings_of_gates_that_name_a_file_are_annotated() -> None:
    error = GateRefused("refused", code="gate-refused", verdicts=("lint: 2 findings",))
    error.add_note("lint: src/app.py:7:3: E501 too long")
    error.add_note("lint: and 4 more")
    assert annotate(error, GITHUB) == [
        "::error file=src/app.py,line=7,col=3,title=gate-refused::E501 too long"
    ]


def test_an_error_that_a_step_has_shown_is_not_annotated_again() -> None:
    error = StepFailed("RUN make failed", status=1)
    error.run = "20261130-000000-abcdef"
    assert annotate(error, GITHUB) == []
    assert annotate(UsageError("no such flag", code="flag-value"), GITHUB) == [
        "::error title=flag-value::no such flag"
    ]
