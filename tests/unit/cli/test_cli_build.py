"""`shipline build`: flags to a request, gaps named, contradictions refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest

from shipline.build import BuildRequest, Output, RunOptions, Secret
from shipline.cli.build import command, request_of, shown
from shipline.cli.build_options import plain_switches
from shipline.cli.environment import implied_build_args
from shipline.errors import ConfigError, StepFailed, UsageError
from shipline.events import Step
from shipline.oci import Platform, Reference


def given(*arguments: str) -> dict[str, Any]:
    return command.make_context("build", [*arguments], resilient_parsing=False).params


def request(*arguments: str, environ: Mapping[str, str] | None = None) -> BuildRequest:
    found = given(*arguments, *([] if "-" in arguments[-1:] else ["."]))
    for name in ("progress", "quiet", "builder"):
        del found[name]
    context = found.pop("context")
    return request_of(context, found, {"DOCKER_CONFIG": "/nonexistent", **(environ or {})})


def test_the_command_of_the_article() -> None:
    found = request("--platform", "linux/amd64,linux/arm64", "--push", "--tag", "h:5000/a:1")
    assert found.platforms == (Platform("linux", "amd64"), Platform("linux", "arm64"))
    assert found.tags == (Reference.parse("h:5000/a:1"),)
    assert found.outputs == (Output("image", push=True),)
    assert found.push


def test_defaults() -> None:
    found = request()
    assert found == BuildRequest(found.context)
    assert found.run == RunOptions()


def test_every_documented_flag_is_taken() -> None:
    words = (
        "--add-host a:1.2.3.4 --allow network.host --annotation k=v --attest type=sbom"
        " --build-arg A=1 --build-context n=. --cache-from a/b --cache-to type=inline"
        " --cgroup-parent p -f D --iidfile i --label l=1 --metadata-file m --network none"
        " --no-cache --no-cache-filter a,b --platform local --progress plain --provenance false"
        " --pull --push -q --secret id=a,src=b --shm-size 1g --ssh default -t a/b --target s"
        " --ulimit nofile=1 --resource memory=1g -o type=image --policy x=y"
        " --call check,format=json --builder default --check --load --sbom false"
        " --compress --squash --rm --force-rm --isolation i --security-opt s --print x -m 1g"
        " --memory-swap 1 -c 1 --cpu-period 1 --cpu-quota 1 --cpuset-cpus 0 --cpuset-mems 0"
    )
    assert given(*words.split(), ".")["memory"] == "1g"


def test_switches_may_carry_their_value() -> None:
    found = request("--push=false", "--no-cache=true", "--pull=1", "--rm=false")
    assert (found.push, found.cache.disabled, found.pull) == (False, True, True)
    assert plain_switches(["--push", "-q", "--push=0", "--", "--pull=0"], {"--push"}) == [
        "-q",
        "--",
        "--pull=0",
    ]


def test_what_contradicts_itself_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot currently be used together"):
        request("--no-cache", "--no-cache-filter", "a")
    assert request("--no-cache-filter", "a").cache.disabled_stages == ("a",)


def test_short_flags_may_have_an_equals_sign() -> None:
    found = request("-t=a:1", "-f=D", "-o=out", "-c=2", "-q", "--label", "t=-t=x")
    assert (found.tags, found.dockerfile) == ((Reference.parse("a:1"),), "D")
    assert found.outputs == (Output("local", "out"),)
    assert (found.run.resources.cpu_shares, found.labels) == (2, {"t": "-t=x"})
    assert request("-f==D", "-t=a").dockerfile == "=D"


def test_an_empty_value_is_none_where_buildx_takes_it_so() -> None:
    many = ("annotation", "build-context", "output", "secret", "ssh", "cache-from", "cache-to")
    one = ("call", "file", "iidfile", "metadata-file", "network", "progress", "target")
    plain = request()
    assert request(*(f"--{name}=" for name in (*many, *one))) == plain


def test_the_environment_fills_in() -> None:
    environ = {"DOCKER_DEFAULT_PLATFORM": "linux/arm64", "SOURCE_DATE_EPOCH": "7", "TOKEN": "t"}
    found = request("--build-arg", "TOKEN", "--secret", "id=TOKEN", environ=environ)
    assert found.platforms == (Platform("linux", "arm64"),)
    assert found.build_args == {"SOURCE_DATE_EPOCH": "7", "TOKEN": "t"}
    assert found.secrets == (Secret("TOKEN", env="TOKEN"),)
    own = request("--build-arg", "SOURCE_DATE_EPOCH=9", "--platform", "amd64", environ=environ)
    assert own.build_args == {"SOURCE_DATE_EPOCH": "9"}
    assert own.platforms == (Platform("linux", "amd64"),)


def test_proxies_of_the_docker_configuration_are_build_arguments(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"proxies": {"default": {"httpProxy": "http://p", "noProxy": ""}}}')
    found = implied_build_args({"DOCKER_CONFIG": str(tmp_path)})
    assert found == {"HTTP_PROXY": "http://p", "http_proxy": "http://p"}
    path.write_text("[]")
    with pytest.raises(ConfigError):
        implied_build_args({"DOCKER_CONFIG": str(tmp_path)})


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("-o", "type=image,compatibility-version=20"), "compatibility-version"),
        (("--memory-swap", "1g"), "--memory-swap"),
        (("-m", "2g", "--memory-swap", "1g"), "--memory-swap"),
        (("--cgroup-parent", "../up"), "--cgroup-parent"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(arguments: tuple[str, ...], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        request(*arguments)


def test_refusing_a_statement_is_no_gap() -> None:
    request("--provenance=false", "--sbom=false", "--push", "-t", "a/b")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--push",), "--push"),
        (("--iidfile", "i", "-o", "dir"), "--iidfile"),
        (("--network", "bridge"), "--network"),
        (("-o", "type=registry,name=UPPER"), "UPPER"),
    ],
)
def test_contradictions_are_refused(arguments: tuple[str, ...], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        request(*arguments)


def test_context_and_dockerfile_cannot_both_be_standard_input() -> None:
    with pytest.raises(UsageError, match="standard input"):
        request("-f", "-", "-")


def test_an_unknown_flag_is_refused() -> None:
    with pytest.raises(click.UsageError, match="--colour"):
        given("--colour", ".")


def test_limits_of_the_old_builder_are_those_of_resource() -> None:
    old = request("-m", "1g", "-c", "512", "--cpuset-cpus", "0,2", "--cpu-quota", "50000")
    new = request(
        *("--resource", "memory=1g,cpu-shares=512,cpu-quota=50000"),
        *("--resource", '"cpuset-cpus=0,2"'),
    )
    assert old.run.resources == new.run.resources
    assert old.run.resources.cpuset_cpus == "0,2"


def test_a_failed_build_is_in_the_summary_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    first = StepFailed("RUN a: exit code: 1", status=1, platform="linux/amd64")
    first.add_other(StepFailed("RUN `a```", status=2, platform="linux/arm64"))

    def fail(step: Step) -> None:
        raise first

    with pytest.raises(StepFailed):
        shown("build", fail, "quiet", name="app")
    summary = (tmp_path / "summary").read_text()
    assert summary.startswith("## build app: failed\n\n````\n")
    assert "RUN a: exit code: 1" in summary and "- linux/arm64: RUN `a```" in summary


def test_a_build_of_a_builder_has_a_link_of_docker_desktop_where_that_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHIPLINE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["docker-buildx"])

    def work(step: Step) -> None:
        step.note(reference="default/default/abc")

    shown("check", work, "plain")
    assert "View" not in capfd.readouterr().err
    (tmp_path / ".docker/desktop-build").mkdir(parents=True)
    (tmp_path / ".docker/desktop-build/.lastaccess").touch()
    shown("check", work, "plain")
    link = "docker-desktop://dashboard/build/default/default/abc"
    assert capfd.readouterr().err == f"\nView build details: {link}\n"


def test_a_warning_of_several_targets_is_one_in_the_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHIPLINE_HOME", str(tmp_path))

    def work(step: Step) -> None:
        for vertex, url in (("sha256:a", "u"), ("sha256:b", "u"), ("sha256:b", "v")):
            step.within(target=vertex).warn("told", more={"vertex": vertex, "url": url})

    _, warned = shown("check", work, "quiet")
    assert [one["url"] for one in warned] == ["u", "v"]
