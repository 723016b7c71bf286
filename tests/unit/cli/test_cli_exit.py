"""How the program ends: one status for each kind of failure, and nothing left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_engine
import pytest

from commands import run_shipline
from shipline.cli.failures import ProgramSettings, report
from shipline.oci import Digest

PROGRAM = (sys.executable, str(Path(__file__).with_name("fake_engine.py")))
PLAIN = {**os.environ, "NO_COLOR": "1", "PYTHONUTF8": "0", "LC_ALL": "C.UTF-8"}


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return run_shipline(*arguments, environ={**PLAIN, **environ}, program=fake_engine.run)


def test_a_mistake_in_the_words_has_the_code_of_usage(tmp_path: Path) -> None:
    done = run("build", "--pusj", str(tmp_path))
    assert done.returncode == 2
    assert "code: usage (shipline explain usage)" in done.stderr


def test_success_is_zero_and_progress_goes_to_standard_error(tmp_path: Path) -> None:
    done = run("build", str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "")
    assert "#3 [linux/amd64 2/3] RUN make" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("built sha256:")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--push",), ["pushed docker.io/a/b:1@sha256:", "pushed docker.io/library/c:latest@"]),
        (("--load",), ["loaded docker.io/a/b:1@sha256:", "loaded docker.io/library/c:latest@"]),
        (("-o", "out"), ["wrote out"]),
        (("-o", "type=oci,dest=x.tar"), ["built docker.io/a/b:1@", "built docker", "wrote x.tar"]),
        (("--progress", "quiet"), []),
    ],
)
def test_a_build_ends_with_the_digest_and_the_names_that_were_given(
    tmp_path: Path, words: tuple[str, ...], told: list[str]
) -> None:
    done = run("build", "-t", "a/b:1", "-t", "c", *words, str(tmp_path))
    assert done.returncode == 0
    lines = done.stderr.splitlines()[-len(told) :] if told else done.stderr.splitlines()
    assert len(lines) == len(told)
    assert all(line.startswith(start) for line, start in zip(lines, told, strict=True))


def test_a_list_of_no_runs_says_so_beside_its_output(tmp_path: Path) -> None:
    done = run("runs", SHIPLINE_HOME=str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "no runs yet: `shipline ship` starts one\n"


def test_the_box_of_a_build_says_how_to_repeat_it(tmp_path: Path) -> None:
    words = ("--target", "fail", "--build-arg", "A_TOKEN=abc1", "--label", "a=b c", str(tmp_path))
    done = run("build", *words)
    shown = f"build --target fail --build-arg A_TOKEN --label 'a=b c' {tmp_path}"
    assert f" again: shipline {shown}\n" in done.stderr
    assert "abc1" not in done.stdout + done.stderr
    assert "again:" not in run("build", "--pusj", str(tmp_path)).stderr


def test_a_failed_step_is_5_and_ends_with_the_box(tmp_path: Path) -> None:
    done = run("build", "--target", "fail", str(tmp_path))
    assert done.returncode == 5
    assert "#1 ERROR: RUN make all did not succeed" in done.stderr
    assert done.stderr.rstrip().endswith("╰" + "─" * 74)
    assert ">>>  9 | RUN make \\" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_box_is_ascii_where_nothing_else_can_be_written(tmp_path: Path) -> None:
    command = [*PROGRAM, "build", "--target", "fail", str(tmp_path)]
    environ = {**PLAIN, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.stderr.isascii()
    assert "+- step failed on linux/arm64 -" in done.stderr


def test_debug_shows_where_an_error_comes_from(tmp_path: Path) -> None:
    done = run("--debug", "build", "--target", "fail", str(tmp_path))
    assert done.returncode == 5
    assert "Traceback" in done.stderr


def test_a_bug_is_1_with_a_traceback(tmp_path: Path) -> None:
    done = run("build", "--target", "crash", str(tmp_path))
    assert done.returncode == 1
    assert "ZeroDivisionError: a bug" in done.stderr


@pytest.mark.parametrize(
    "arguments", [("nothing",), ("build",), ("build", "--colour", "."), ("build", "/missing")]
)
def test_a_wrong_command_line_is_2(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_quiet_prints_the_digest_alone(tmp_path: Path) -> None:
    done = run("build", "-q", str(tmp_path))
    assert done.returncode == 0
    assert done.stdout.startswith("sha256:")
    assert done.stderr == ""


def test_results_are_written_for_other_programs(tmp_path: Path) -> None:
    ids, facts = tmp_path / "id", tmp_path / "facts.json"
    files = ("--iidfile", str(ids), "--metadata-file", str(facts))
    assert run("build", "-t", "a/b:1", "-t", "c", *files, str(tmp_path)).returncode == 0
    found = json.loads(facts.read_bytes())
    assert found["containerimage.descriptor"]["digest"] == found["containerimage.digest"]
    assert found["image.name"] == "docker.io/a/b:1,docker.io/library/c:latest"
    config = str(Digest.of(b"{}"))
    assert (ids.read_text(), found["containerimage.config.digest"]) == (config, config)
    assert found["buildx.build.ref"].startswith("native/native0/")


def test_a_failed_build_leaves_no_older_image_id(tmp_path: Path) -> None:
    ids = tmp_path / "id"
    ids.write_text("sha256:old")
    run("build", "--target", "fail", "--iidfile", str(ids), str(tmp_path))
    assert not ids.exists()


def test_rawjson_is_json_to_the_last_line_of_progress(tmp_path: Path) -> None:
    done = run("build", str(tmp_path), BUILDKIT_PROGRESS="rawjson")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert lines[0]["vertexes"][0]["name"].startswith("[internal]")


@pytest.mark.parametrize(
    ("words", "code", "status"),
    [
        (("--target", "fail"), "step", 5),
        (("--target", "crash"), "bug", 1),
        (("--network", "none-such"), "flag-value", 2),
    ],
)
def test_rawjson_stays_json_when_the_build_fails(
    tmp_path: Path, words: tuple[str, ...], code: str, status: int
) -> None:
    done = run("build", *words, str(tmp_path), BUILDKIT_PROGRESS="rawjson")
    error = [json.loads(line) for line in done.stderr.splitlines()][-1]["error"]
    assert (done.returncode, error["code"], error["exitCode"]) == (status, code, status)
    assert error["message"]
    if code == "step":
        assert error["location"]["start"] == {"line": 9}
        assert (error["exitStatus"], error["platform"]) == (2, "linux/arm64")


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    command = [*PROGRAM, "build", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def write_to_nobody(_: list[str]) -> int:
    return report(BrokenPipeError(), ProgramSettings())


def test_output_that_nobody_reads_any_more_is_no_bug() -> None:
    done = run_shipline(program=write_to_nobody)
    assert (done.returncode, done.stderr) == (1, "")


def waiting(directory: Path, target: str = "wait") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*PROGRAM, "build", "--target", target, str(directory)],
        env=PLAIN,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_cancels_and_waits_for_cleanup(
    tmp_path: Path, number: signal.Signals
) -> None:
    with waiting(tmp_path) as process:
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "cleaned up\n")
    assert "#1 CANCELED" in stderr
    assert "WARN: cancelling" in stderr
    assert "Traceback" not in stderr


def test_the_second_signal_exits_at_once(tmp_path: Path) -> None:
    with waiting(tmp_path, "stubborn") as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "cleaning up\n"
        before = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=40) == 130
        assert time.monotonic() - before < 30


def test_check_prints_warnings_and_is_1_where_there_are_some(tmp_path: Path) -> None:
    file, home = tmp_path / "Dockerfile", str(tmp_path / "home")
    file.write_text("FROM scratch\nMAINTAINER me\n")
    done = run("build", "--check", str(tmp_path), SHIPLINE_HOME=home)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "Check complete, 1 warning has been found!",
        "",
        "WARNING: MaintainerDeprecated"
        " - https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/",
        "Maintainer instruction is deprecated in favor of using label",
        f"{file}:2",
        "--------------------",
        "   1 |     FROM scratch",
        "   2 | >>> MAINTAINER me",
        "   3 |     ",
        "--------------------",
    ]
    found = run(
        "build", "--call", "check,format=json,ignorestatus", str(tmp_path), SHIPLINE_HOME=home
    )
    assert found.returncode == 0
    assert json.loads(found.stdout)["warnings"][0]["ruleName"] == "MaintainerDeprecated"
    file.write_text("FROM scratch\nCOPY $FOO/x /x\nCMD echo\n")
    done = run("build", "--check", str(tmp_path), SHIPLINE_HOME=home)
    assert "UndefinedVar - " in done.stdout
    assert "/json-args-recommended/" in done.stdout
    file.write_text("FROM scratch\nCOPY a /a\n")
    done = run("build", "--check", str(tmp_path), SHIPLINE_HOME=home)
    assert (done.returncode, done.stdout) == (0, "Check complete, no warnings found.\n")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("FROM scratch\nRUM ls\n", 2, "unknown instruction: RUM"),
        ("FROM scratch\nCOPY --chmod=u=7 a /\n", 2, "invalid chmod parameter"),
        ("FROM scratch\nADD --checksum=sha256:00 a /\n", 2, "--checksum"),
        (
            "FROM scratch AS a\nCOPY --chmod=x a /\nFROM scratch\nCOPY a /\n",
            2,
            "invalid chmod parameter",
        ),
        ("FROM scratch\nCOPY --from=3 a /\n", 2, "invalid stage index 3"),
        ("# check=error=true\nFROM scratch\nMAINTAINER me\n", 3, "lint violation found"),
    ],
)
def test_a_check_of_what_cannot_be_built_is_1_and_a_build_error_in_json(
    tmp_path: Path, text: str, line: int, message: str
) -> None:
    (tmp_path / "Dockerfile").write_text(text)
    home = str(tmp_path / "home")
    done = run("build", "--check", str(tmp_path), SHIPLINE_HOME=home)
    assert (done.returncode, "no warnings" in done.stdout) == (1, False)
    assert message in done.stderr and f">>> {line} | {text.splitlines()[line - 1]}" in done.stderr
    call = "--call=check,format=json,ignorestatus"
    done = run("build", call, str(tmp_path), SHIPLINE_HOME=home)
    error = json.loads(done.stdout)["buildError"]
    assert (done.returncode, message in error["message"]) == (1, True)
    assert error["location"] == {"ranges": [{"start": {"line": line}, "end": {"line": line}}]}


def test_a_check_has_the_warnings_before_an_instruction_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch AS A\nMAINTAINER me\nBAD\nENV a b\n")
    words = ("build", "--call=check,format=json", "--metadata-file", str(tmp_path / "made"))
    done = run(*words, str(tmp_path), SHIPLINE_HOME=str(tmp_path / "home"))
    found, told = json.loads(done.stdout), json.loads((tmp_path / "made").read_text())
    rules = [one["ruleName"] for one in found["warnings"]]
    assert rules == ["StageNameCasing", "MaintainerDeprecated"]
    assert "unknown instruction: BAD" in found["buildError"]["message"]
    assert (told["result.json"], told["result.statuscode"]) == (found, "1")
    assert told["result.txt"].startswith("\nWARNING: StageNameCasing")


@pytest.mark.parametrize("method", ["check", "outline"])
@pytest.mark.parametrize("flag", ["network=host", "security=insecure", "device=a.b/c=d,required"])
def test_a_call_needs_no_entitlements(tmp_path: Path, method: str, flag: str) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM scratch AS a\nRUN --{flag} b\n")
    done = run("build", f"--call={method}", str(tmp_path), SHIPLINE_HOME=str(tmp_path / "home"))
    assert done.returncode == 0, done.stderr


def test_the_check_tells_what_cannot_be_read_before_what_cannot_be_built(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM $NONE AS A\nSHELL []\n")
    words = ("build", "--call=check,format=json", str(tmp_path))
    found = json.loads(run(*words, SHIPLINE_HOME=str(tmp_path / "home")).stdout)
    assert "StageNameCasing" in [one["ruleName"] for one in found["warnings"]]
    assert "SHELL requires at least one argument" in found["buildError"]["message"]


@pytest.mark.parametrize(
    ("text", "warning", "message"),
    [
        (
            "FROM scratch AS A\nMAINTAINER me\nBAD\nENV a b\n",
            "StageNameCasing: Stage name 'A' should be lowercase (line 1)",
            "dockerfile parse error on line 3: unknown instruction: BAD",
        ),
        (
            "FROM --platform=$BULIDPLATFORM scratch\n",
            "UndefinedArgInFrom: FROM argument 'BULIDPLATFORM' is not declared "
            "(did you mean BUILDPLATFORM?) (line 1)",
            "empty platform value from expression $BULIDPLATFORM (did you mean BUILDPLATFORM?)",
        ),
        (
            "ARG MY_ARCH=amd64\nFROM --platform=linux/${MYARCH} scratch\n",
            "UndefinedArgInFrom: FROM argument 'MYARCH' is not declared (did you mean MY_ARCH?)",
            'failed to parse platform linux/${MYARCH}: "" is an invalid component of "linux/": '
            'platform specifier component must match "^[A-Za-z0-9_.-]+$": invalid argument '
            "(did you mean MY_ARCH?)",
        ),
        (
            "FROM Busybox\n",
            "InvalidDefaultArgInFrom: Default value for ARG Busybox results in empty or invalid",
            'failed to parse stage name "Busybox": invalid reference format',
        ),
    ],
)
def test_a_build_has_the_warnings_about_what_cannot_be_built(
    tmp_path: Path, text: str, warning: str, message: str
) -> None:
    (tmp_path / "Dockerfile").write_text(text)
    words = ("build", "--progress=plain", str(tmp_path))
    done = run_shipline(*words, environ={**PLAIN, "SHIPLINE_HOME": str(tmp_path / "home")})
    assert done.returncode == 4, done.stderr
    assert warning in done.stderr
    assert message in done.stderr


def test_a_check_with_a_target_leaves_out_stages_that_it_does_not_need(tmp_path: Path) -> None:
    text = "FROM scratch AS a\nCOPY --chmod=x a /\nFROM scratch AS b\nCOPY a /\n"
    (tmp_path / "Dockerfile").write_text(text)
    words = ("build", "--check", "--target", "b", str(tmp_path))
    assert run(*words, SHIPLINE_HOME=str(tmp_path / "home")).returncode == 0


def test_a_check_tells_that_the_frontend_is_another(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("# syntax=example.com/dockerfile:1\nFROM scratch\n")
    done = run("build", "--check", str(tmp_path), SHIPLINE_HOME=str(tmp_path / "home"))
    assert "the built-in Dockerfile frontend is used" in done.stderr
    assert (done.returncode, done.stdout) == (0, "Check complete, no warnings found.\n")


def test_a_check_of_no_dockerfile_is_a_usage_error(tmp_path: Path) -> None:
    done = run("build", "--check", str(tmp_path), SHIPLINE_HOME=str(tmp_path / "home"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot read the Dockerfile" in done.stderr
    (tmp_path / "Containerfile").write_text("FROM scratch\n")
    done = run("build", "--check", str(tmp_path), SHIPLINE_HOME=str(tmp_path / "home"))
    assert f"did you mean -f {tmp_path}/Containerfile?" in done.stderr


@pytest.mark.parametrize(
    ("command", "redirection", "reason", "status"),
    [
        *(
            (command, ">/dev/full", "No space left on device", 8)
            for command in ("--version", "--help", "bake --print", "du", "completion bash")
        ),
        *((command, ">&-", "Bad file descriptor", 2) for command in ("--version", "bake --print")),
    ],
)
def test_standard_output_that_cannot_be_written_is_one_message(
    tmp_path: Path, command: str, redirection: str, reason: str, status: int
) -> None:
    (tmp_path / "docker-bake.hcl").write_text('target "default" {}\n')
    done = subprocess.run(
        ["sh", "-c", f"exec {sys.executable} -m shipline {command} {redirection}"],
        cwd=tmp_path,
        env={**os.environ, "SHIPLINE_HOME": str(tmp_path / "home")},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert f"cannot write standard output: {reason}" in done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("cannot write") == 1
    assert done.returncode == status


def test_standard_error_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "shipline", "bake", "--print"]
        assert subprocess.run(command, cwd=tmp_path, stdout=full, stderr=full).returncode == 1


STREAMS = """\
import os, sys
from shipline.cli.failures import ProgramSettings, open_standard_streams, report
open_standard_streams()
assert sys.stdin.read() == ""
print("hidden", file=sys.stderr)
sys.exit(report(FileNotFoundError(2, "No such file or directory", os.devnull), ProgramSettings()))
"""


def test_closed_standard_streams_are_replaced() -> None:
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", STREAMS]
    assert subprocess.run(command).returncode == 2


def test_a_working_directory_that_was_removed_is_named(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    command = ["sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh", sys.executable, "-m", "shipline"]
    done = subprocess.run(
        [*command, "build", str(tmp_path)], cwd=tmp_path / "gone", capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert "code: working-directory-removed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.root
def test_without_dev_null_there_is_one_message_and_no_traceback() -> None:
    script = 'mount -t tmpfs none /dev && exec "$@" <&-'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", STREAMS]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "/dev/null is missing" in done.stderr
    assert "code: no-dev-null" in done.stderr
    assert "Traceback" not in done.stderr
