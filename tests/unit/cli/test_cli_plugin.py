"""As docker's plugin, or called as buildx is: the same command line below."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest

from shipline import __version__
from shipline.cli import main
from shipline.cli.entry import cancel_with_docker, own_arguments
from shipline.cli.failures import _as_buildx
from shipline.registry.manifests import no_image

PLUGIN = "/home/me/.docker/cli-plugins/docker-shipline"
BUILDX = "/usr/libexec/docker/cli-plugins/docker-buildx"


@pytest.mark.parametrize(
    "program, arguments, own",
    [
        ("/usr/bin/shipline", "build .", "build ."),
        ("/usr/bin/shipline", "buildx build .", "build ."),
        ("/usr/bin/shipline", "buildx -D du --verbose", "-D du --verbose"),
        ("/usr/bin/shipline", "buildx build -D .", "-D build ."),
        ("/usr/bin/shipline", "buildx imagetools inspect a --debug", "-D imagetools inspect a"),
        ("/usr/bin/shipline", "buildx ls", "builder ls"),
        ("/usr/bin/shipline", "buildx inspect b -D", "-D builder inspect b"),
        ("/usr/bin/shipline", "ls", "ls"),
        ("/usr/bin/shipline", "version", "version"),
        ("/usr/bin/shipline", "buildx version", "--version buildx"),
        ("/usr/bin/shipline", "buildx install", "builder install"),
        (PLUGIN, "shipline build -t x .", "build -t x ."),
        (PLUGIN, "-D shipline version", "-D version"),
        (PLUGIN, "--tls --tlscacert=/ca -l debug shipline build .", "build ."),
        (BUILDX, "buildx build --push .", "build --push ."),
        (BUILDX, "buildx version", "--version buildx"),
        (BUILDX, "buildx version --builder b", "--version buildx"),
        (BUILDX, "buildx", "--help"),
        (BUILDX, "--config /c buildx", "--help"),
        (
            BUILDX,
            "buildx history export --builder b -o x --finalize r",
            "history export -o x --finalize r",
        ),
        (BUILDX, "buildx inspect --bootstrap --builder=b", "builder inspect --bootstrap"),
        (BUILDX, "buildx build --builder b .", "build --builder b ."),
        (
            BUILDX,
            "buildx create --buildkitd-flags --debug --debug",
            "-D builder create --buildkitd-flags --debug",
        ),
        (BUILDX, "build .", "build ."),
        (BUILDX, "buildx dial-stdio --progress auto", "builder dial-stdio --progress auto"),
        ("/usr/local/bin/buildx", "build -D .", "-D build ."),
        ("/usr/local/bin/buildx", "--builder b ls", "builder ls"),
    ],
)
def test_the_name_of_the_plugin_and_dockers_options_go(
    program: str, arguments: str, own: str
) -> None:
    assert own_arguments(program, arguments.split(), {}) == own.split()


def test_the_builder_of_a_command_is_that_of_the_environment() -> None:
    for words in ("buildx inspect --builder one", "buildx inspect --builder=one"):
        environ: dict[str, str] = {}
        assert own_arguments(BUILDX, words.split(), environ) == ["builder", "inspect"]
        assert environ == {"BUILDX_BUILDER": "one"}


def test_the_version_of_buildx_is_one_that_actions_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["buildx", "version"]) == 0
    module, version = capsys.readouterr().out.split()
    assert module == "github.com/docker/buildx"
    assert re.fullmatch(r"v0\.[0-9]+\.[0-9]+\+shipline\.[0-9A-Za-z.-]+", version)


def test_install_makes_it_the_builder_of_docker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    file = tmp_path / "config.json"
    file.write_text('{"auths": {"h": {}}, "aliases": {"x": "y"}}')
    assert main(["buildx", "install"]) == 0
    assert json.loads(file.read_text())["aliases"] == {"x": "y", "builder": "buildx"}
    assert main(["buildx", "uninstall"]) == 0
    assert json.loads(file.read_text()) == {"auths": {"h": {}}, "aliases": {"x": "y"}}


def test_a_failure_ends_with_the_line_of_buildx(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nNONE\n")
    monkeypatch.setenv("SHIPLINE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("sys.argv", [BUILDX])
    for words, last in (
        (["build", str(tmp_path)], "ERROR: failed to build: failed to solve: dockerfile parse"),
        (["build", "--bogus"], "ERROR: unknown flag: --bogus"),
        (["build", "--output"], "ERROR: flag needs an argument: --output"),
        (["bake", "-f", os.devnull, "none"], "ERROR: failed to find target none"),
        (["build", "--build-context", "bad", "."], "ERROR: invalid context value: bad"),
        (["build", "--add-host", "bad", "."], "ERROR: failed to build: invalid host bad"),
        (["bogus"], 'ERROR: unknown command: "bogus"'),
        (["imagetools", "create"], "ERROR: no SOURCE is given"),
        (
            ["build", "--progress=rawjson", str(tmp_path)],
            "ERROR: failed to build: failed to solve:",
        ),
    ):
        assert main(words) != 0
        assert capfd.readouterr().err.splitlines()[-1].startswith(last)
    monkeypatch.setattr("sys.argv", ["shipline"])
    main(["build", str(tmp_path)])
    assert "\nERROR: " not in capfd.readouterr().err


def test_exit_statuses_are_those_of_buildx(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nNONE\n")
    monkeypatch.setenv("SHIPLINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BUILDX_CONFIG", str(tmp_path / "buildx"))
    monkeypatch.delenv("DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND", raising=False)
    build, flag = ["build", str(tmp_path)], ["build", "--bogus", "."]
    commands = (build, ["build", str(tmp_path / "none")], ["bake", "-f", str(tmp_path / "none")])
    others = (["inspect", "none"], ["bogus"], ["build", "--progress=bogus", "."])
    monkeypatch.setattr("sys.argv", [BUILDX])
    for words in (*commands, *others, flag, ["build", "--no-cache=maybe", "."]):
        assert main(words) == 1, words
    monkeypatch.setenv("DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND", "docker")
    assert [main(words) for words in (*commands, *others)] == [1] * 6
    for words in (["--output"], ["--no-cache=maybe", "."], ["--shm-size=x", "."]):
        assert main(["build", *words]) == 125, words
    assert main(flag) == main(["du", "--filter=x"]) == 125
    assert own_arguments(BUILDX, ["buildx", "--builder"], {}) == ["--builder"]
    assert main(["--builder"]) == 125
    assert main(["imagetools"]) == 0
    monkeypatch.setattr("sys.argv", ["shipline"])
    assert (main(build), main(["buildx", *build]), main(flag)) == (4, 1, 2)


def test_an_absent_image_is_not_found_as_in_buildx() -> None:
    arguments = ["imagetools", "inspect", "r.example/a:1"]
    digest = "sha256:" + "0" * 64
    for name, shown in (("1", "r.example/a:1"), (digest, f"r.example/a@{digest}")):
        error = no_image("r.example/a", name)
        assert _as_buildx(error, arguments) == f"ERROR: {shown}: not found"


def test_what_the_line_of_buildx_says_in_full_has_no_box(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for flag in ("--build-arg", "--label"):
        monkeypatch.setattr("sys.argv", ["/usr/local/bin/buildx"])
        assert main(["build", flag, "=VALUE", "."]) != 0
        said = 'ERROR: invalid key-value pair "=VALUE": empty key\n'
        assert capfd.readouterr().err == said


def test_a_failure_in_json_shows_the_lines_of_the_dockerfile_as_buildx(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.Dockerfile").write_text("FROM scratch\nNONE\n")
    bake = tmp_path / "bake.json"
    target = {"context": str(tmp_path), "dockerfile": "a.Dockerfile"}
    bake.write_text(json.dumps({"target": {"one": target, "two": target}}))
    monkeypatch.setenv("SHIPLINE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("sys.argv", [BUILDX])
    monkeypatch.chdir(tmp_path)
    assert main(["bake", "-f", str(bake), "--progress=rawjson", "one", "two"]) != 0
    *source, last = [
        line for line in capfd.readouterr().err.splitlines() if not line.startswith("{")
    ]
    assert source == [
        "a.Dockerfile:2",
        "-" * 20,
        "   1 |     FROM scratch",
        "   2 | >>> NONE",
        "   3 |     ",
        "-" * 20,
    ]
    assert re.match("ERROR: target (one|two): failed to solve: dockerfile parse", last)


def test_help_names_the_command_that_was_called(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for program, named in (BUILDX, "docker buildx"), (PLUGIN, "shipline"):
        monkeypatch.setattr("sys.argv", [program])
        main(["build", "--help"])
        assert capfd.readouterr().out.startswith(f"Usage: {named} build [OPTIONS]")


def test_help_has_what_programs_search_for_in_that_of_buildx(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [BUILDX])
    main(["--help"])
    shown = capfd.readouterr().out
    assert "--builder string" in shown
    assert re.search("^  create +Create a builder", shown, re.MULTILINE)
    assert re.search("^  ls +List builders", shown, re.MULTILINE)
    assert "deploy" not in shown


def test_what_a_plugin_starts_is_no_plugin() -> None:
    inherited = {"DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND": "docker"}
    assert own_arguments("/usr/bin/shipline", ["version"], inherited) == ["version"]


def test_dockers_options_become_its_variables() -> None:
    environ: dict[str, str] = {}
    words = "--config /c -H=unix:///s -c other --tlsverify buildx --builder b build ."
    assert own_arguments(BUILDX, words.split(), environ) == ["build", "."]
    assert environ == {
        "DOCKER_CONFIG": "/c",
        "DOCKER_HOST": "unix:///s",
        "DOCKER_CONTEXT": "other",
        "DOCKER_TLS_VERIFY": "1",
        "BUILDX_BUILDER": "b",
    }


def test_docker_is_told_what_the_plugin_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["docker-cli-plugin-metadata"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["SchemaVersion"] == "0.1.0" and found["Vendor"] == "shipline"
    assert found["Version"] == __version__


def test_docker_compose_is_told_a_version_of_buildx(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [BUILDX, "docker-cli-plugin-metadata"])
    assert main() == 0
    version = json.loads(capsys.readouterr().out)["Version"]
    assert version[0] == "v" and [*map(int, version[1:].split("."))] >= [0, 17, 0]


def test_the_end_of_docker_interrupts(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGINT, lambda *_: os._exit(7))
            cancel_with_docker({"DOCKER_CLI_PLUGIN_SOCKET": str(tmp_path / "s")})
            signal.alarm(60)
            while True:  # not `pause`, which a signal that came just before it does not end
                time.sleep(0.01)
        accepted, _ = listening.accept()
        accepted.close()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
