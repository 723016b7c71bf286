"""Every flag of `docker buildx build` is taken: honoured, or refused by a line that names it."""

from __future__ import annotations

from typing import Any

import click
import pytest

from shipline.build import BuildRequest
from shipline.cli.build import command, request_of
from shipline.cli.failures import ProgramSettings
from shipline.errors import UsageError

HONOURED = {
    "--add-host": "a:1.2.3.4",
    "--allow": "network.host",
    "--annotation": "k=v",
    "--attest": "type=provenance",
    "--build-arg": "A=1",
    "--build-context": "n=.",
    "--cache-from": "a/b",
    "--cache-to": "type=inline",
    "--call": "outline",
    "--cgroup-parent": "p",
    "--check": None,
    "--cpu-period": "1000",
    "--cpu-quota": "1000",
    "--cpu-shares": "1",
    "--cpuset-cpus": "0",
    "--cpuset-mems": "0",
    "--file": "D",
    "--iidfile": "i",
    "--label": "l=1",
    "--load": None,
    "--memory": "1g",
    "--metadata-file": "m",
    "--network": "none",
    "--no-cache": None,
    "--no-cache-filter": "a",
    "--output": "type=cacheonly",
    "--platform": "linux/arm64",
    "--print": "targets",
    "--provenance": "true",
    "--pull": None,
    "--resource": "memory=1g",
    "--sbom": "true",
    "--policy": "reset=true",
    "--secret": "id=a,src=b",
    "--shm-size": "1g",
    "--ssh": "default",
    "--tag": "a/b",
    "--target": "s",
    "--ulimit": "nofile=1",
}
"""Flags of buildx 0.29 to 0.36, hidden ones included, with a value; each is in the request."""
WITH_ANOTHER = {"--memory-swap": ("2g", "--memory=1g"), "--push": (None, "--tag=a/b")}
SHOWN = {"--progress": "plain", "--quiet": None, "--builder": "default", "--debug": None}
NEEDLESS = {"--rm": None, "--force-rm": None}
WARNED = {"--compress": None, "--squash": None, "--isolation": "i", "--security-opt": "s"}
REFUSED = {
    "--invoke": "on-error",
    "--on": "error",
    "--detach": None,
    "--root": "r",
    "--server-config": "c",
}
SHORT = {"-f": "D", "-o": "d", "-t": "a/b", "-m": "1g", "-c": "1", "-q": None, "-D": None}


def words(flag: str, value: str | None) -> list[str]:
    return [flag] if value is None else [flag, value]


def parsed(*arguments: str) -> dict[str, Any]:
    context = command.make_context("build", [*arguments, "."], obj=ProgramSettings())
    return context.params


def request(*arguments: str) -> BuildRequest:
    given = parsed(*arguments)
    for name in ("progress", "quiet", "builder"):
        del given[name]
    return request_of(given.pop("context"), given, {"DOCKER_CONFIG": "/nonexistent"})


@pytest.mark.parametrize("flag", HONOURED)
def test_a_flag_of_buildx_changes_the_request(flag: str) -> None:
    assert request(*words(flag, HONOURED[flag])) != request()


@pytest.mark.parametrize("flag", WITH_ANOTHER)
def test_a_flag_that_needs_another_changes_the_request_with_it(flag: str) -> None:
    value, other = WITH_ANOTHER[flag]
    assert request(*words(flag, value), other) != request(other)


@pytest.mark.parametrize("flag", [*SHOWN, *NEEDLESS, *SHORT])
def test_a_flag_of_the_display_or_a_short_one_is_taken(flag: str) -> None:
    parsed(*words(flag, {**SHOWN, **NEEDLESS, **SHORT}[flag]))


@pytest.mark.parametrize("flag", WARNED)
def test_a_flag_without_effect_says_so(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert request(*words(flag, WARNED[flag])) == request()
    assert capsys.readouterr().err == f"warning: {flag} has no effect\n"


@pytest.mark.parametrize("flag", REFUSED)
def test_a_flag_that_is_missing_is_refused_by_name(flag: str) -> None:
    with pytest.raises(UsageError, match=f"^{flag}"):
        request(*words(flag, REFUSED[flag]))


def test_there_is_no_flag_besides_those_of_buildx_but_for_registries() -> None:
    known = {*HONOURED, *WITH_ANOTHER, *SHOWN, *NEEDLESS, *WARNED, *REFUSED}
    ours = {name for one in command.params for name in one.opts if name.startswith("--")}
    assert ours - known == {"--insecure", "--ca", "--registry-mirror"}
    assert known <= ours


def test_debugging_may_be_asked_for_after_the_command() -> None:
    settings = ProgramSettings()
    command.make_context("build", ["-D", "."], obj=settings)
    assert settings.debug


def test_a_flag_of_one_letter_takes_its_value_as_in_buildx() -> None:
    assert [parsed(*given)["tag"] for given in (["-t", "a"], ["-ta"], ["-t=a"])] == [("a",)] * 3


def test_a_hidden_flag_is_no_suggestion() -> None:
    with pytest.raises(click.NoSuchOption) as caught:
        parsed("--foo")
    assert not caught.value.possibilities
    with pytest.raises(click.NoSuchOption) as caught:
        parsed("--plattform=x")
    assert caught.value.possibilities == ["--platform"]
    with pytest.raises(click.NoSuchOption) as caught:
        parsed("--tt=x")
    assert not {one for one in caught.value.possibilities or () if not one.startswith("--")}
