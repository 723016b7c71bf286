"""As docker's plugin, or called as buildx is: the same command line below."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import pytest

from shipline import __version__
from shipline.cli import main
from shipline.cli.entry import cancel_with_docker, own_arguments

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
        ("/usr/bin/shipline", "buildx version", "--version"),
        (PLUGIN, "shipline build -t x .", "build -t x ."),
        (PLUGIN, "-D shipline version", "-D version"),
        (PLUGIN, "--tls --tlscacert=/ca -l debug shipline build .", "build ."),
        (BUILDX, "buildx build --push .", "build --push ."),
        (BUILDX, "buildx version", "--version"),
        (BUILDX, "build .", "build ."),
    ],
)
def test_the_name_of_the_plugin_and_dockers_options_go(
    program: str, arguments: str, own: str
) -> None:
    assert own_arguments(program, arguments.split(), {}) == own.split()


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


def test_the_end_of_docker_interrupts(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGINT, lambda *_: os._exit(7))
            cancel_with_docker({"DOCKER_CLI_PLUGIN_SOCKET": str(tmp_path / "s")})
            signal.alarm(60)
            while True:
                signal.pause()
        accepted, _ = listening.accept()
        accepted.close()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
