"""The action's inputs become the flags that docker/build-push-action makes of them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from shipline.deliver.ci import BuildCommand, invocation
from shipline.deliver.ci.action import by_comma, by_line, variable
from shipline.errors import UsageError

COMMIT = "0123456789012345678901234567890123456789"


def read(tmp_path: Path, **inputs: str) -> BuildCommand:
    """What the inputs come to; `_` in a keyword is `-` in the name of the input."""
    (tmp_path / "workspace/src").mkdir(parents=True, exist_ok=True)
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    environ = {variable(name.replace("_", "-")): text for name, text in inputs.items()}
    environ["GITHUB_WORKSPACE"] = str(tmp_path / "workspace")
    environ |= {"GITHUB_SERVER_URL": "https://git.example", "GITHUB_REPOSITORY": "team/app"}
    environ["GITHUB_RUN_ID"], environ["GITHUB_RUN_ATTEMPT"] = "7", "2"
    environ |= {"GITHUB_REF": "refs/heads/main", "GITHUB_SHA": COMMIT} | {
        name: text for name, text in inputs.items() if name.startswith("GITHUB_")
    }

    def keep(value: str) -> Path:
        place = scratch / f"secret{len(list(scratch.iterdir()))}"
        place.write_text(value)
        return place

    return invocation(environ, scratch, keep)


def flags(found: BuildCommand, flag: str) -> list[str]:
    words = found.arguments
    return [value for word, value in pairwise(words) if word == flag]


@pytest.mark.parametrize(
    ("text", "commas", "lines"),
    [
        ("", (), ()),
        ("a,b\nc", ("a", "b", "c"), ("a,b", "c")),
        ('"a,b"\nc', ("a", "b", "c"), ("a,b", "c")),
        ('x="a,b"', ('x="a', 'b"'), ('x="a,b"',)),
        ("  a  \n\n , b", ("a", "b"), ("a", ", b")),
        ('"KEY=one\ntwo"\nB=2', ("KEY=one\ntwo", "B=2"), ("KEY=one\ntwo", "B=2")),
        ('"K=say ""hi"""', ('K=say "hi"',), ('K=say "hi"',)),
    ],
)
def test_lists_are_split_as_the_original_splits_them(
    text: str, commas: tuple[str, ...], lines: tuple[str, ...]
) -> None:
    assert by_comma(text, "x") == commas
    assert by_line(text, "x") == lines


_RUN = "builder-id=https://git.example/team/app/actions/runs/7/attempts/2"


@pytest.mark.parametrize(
    ("given", "flag"),
    [
        ("true", [_RUN]),
        ("mode=max", [f"mode=max,{_RUN}"]),
        ("mode=min,builder-id=me", ["mode=min,builder-id=me"]),
        ("false", ["false"]),
        ("", []),
    ],
)
def test_provenance_names_the_run_as_its_builder(
    tmp_path: Path, given: str, flag: list[str]
) -> None:
    assert flags(read(tmp_path, provenance=given), "--provenance") == flag


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"attests": "type=provenance,mode=min"}, [f"type=provenance,mode=min,{_RUN}"]),
        ({"attests": "type=provenance,builder-id=me"}, ["type=provenance,builder-id=me"]),
        ({"attests": "type=provenance,disabled=true"}, ["type=provenance,disabled=true"]),
        ({"attests": "type=provenance,mode=min", "provenance": "mode=max"}, []),
        ({"attests": "type=sbom\ntype=provenance", "sbom": "false"}, [f"type=provenance,{_RUN}"]),
    ],
)
def test_provenance_and_sbom_come_before_attests(
    tmp_path: Path, given: dict[str, str], found: list[str]
) -> None:
    assert flags(read(tmp_path, **given), "--attest") == found


def test_inputs_become_flags(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        tags="reg.example/a:1,reg.example/a:2\nreg.example/b:1",
        platforms="linux/amd64,linux/arm64",
        build_args='A=1,2\nB=x y\n"C=1\n2"',
        push="true",
        pull="TRUE",
        load="false",
        file="docker/Dockerfile",
        cache_from="type=registry,ref=reg.example/cache",
    )
    assert flags(found, "--tag") == ["reg.example/a:1", "reg.example/a:2", "reg.example/b:1"]
    assert flags(found, "--platform") == ["linux/amd64", "linux/arm64"]
    assert flags(found, "--build-arg") == ["A=1,2", "B=x y", "C=1\n2"]
    assert flags(found, "--cache-from") == ["type=registry,ref=reg.example/cache"]
    assert {"--push", "--pull"} <= set(found.arguments)
    assert "--load" not in found.arguments
    assert found.arguments[-2:] == ("--", f"https://git.example/team/app.git#{COMMIT}")


def test_a_value_is_never_taken_for_a_flag_or_context(tmp_path: Path) -> None:
    found = read(tmp_path, context="--push", target="--load")
    assert found.arguments[-2:] == ("--", "--push")
    assert flags(found, "--target") == ["--load"]


def test_a_secret_is_in_a_file_and_masked_and_on_no_command_line(tmp_path: Path) -> None:
    found = read(tmp_path, secrets='"TOKEN=hush\nhush"\nEMPTY=', secret_envs="NPM=NPM_TOKEN")
    first, second = flags(found, "--secret")
    assert "hush" not in str(found.arguments)
    assert "hush" not in repr(found)
    assert Path(first.partition("src=")[2]).read_text() == "hush\nhush"
    assert second == "id=NPM,env=NPM_TOKEN"
    assert found.masked == ("hush\nhush",)
    assert len(found.warnings) == 1  # as the original: a secret this run may not see is left out


def test_the_token_goes_to_the_own_server_alone(tmp_path: Path) -> None:
    ours = read(tmp_path, github_token="t", context="https://git.example/team/app.git#main")
    assert flags(ours, "--secret")[0].startswith("id=GIT_AUTH_TOKEN,src=")
    for context in (".", "https://evil.example/team/app.git"):
        assert not flags(read(tmp_path, github_token="t", context=context), "--secret")


@pytest.mark.parametrize("outputs", ["out", "type=local,dest=x", "type=tar,dest=x.tar"])
def test_files_have_no_image_id(outputs: str, tmp_path: Path) -> None:
    assert read(tmp_path, outputs=outputs).iidfile is None
    assert read(tmp_path, outputs="type=image,push=true").iidfile is not None
    assert read(tmp_path, call="check").iidfile is None


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"push": "yes"}, "input push: 'yes' is neither true nor false"),
        ({"secret_envs": "X"}, "input secret-envs: 'X' is not ID=VALUE"),
        ({"secret_files": "X=/nowhere"}, "there is no file /nowhere"),
    ],
)
def test_an_input_that_cannot_be_read_is_named(
    inputs: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        read(tmp_path, **inputs)


@pytest.mark.parametrize(
    ("given", "context"),
    [
        ({"GITHUB_REF": "refs/tags/v1"}, f"#{COMMIT}"),
        ({"GITHUB_REF": "refs/pull/7/merge"}, "#refs/pull/7/merge"),
        ({"GITHUB_REF": "main", "GITHUB_SHA": ""}, "#refs/heads/main"),
        ({"GITHUB_REF": "", "GITHUB_SHA": ""}, ""),
        ({"context": "{{defaultContext}}:docker"}, f"#{COMMIT}:docker"),
    ],
)
def test_the_commit_of_the_job_is_the_default_context(
    given: dict[str, str], context: str, tmp_path: Path
) -> None:
    found = read(tmp_path, github_token="t", **given)
    assert found.arguments[-1] == f"https://git.example/team/app.git{context}"
    assert flags(found, "--secret")[0].startswith("id=GIT_AUTH_TOKEN,src=")


def test_a_job_without_a_repository_needs_a_context(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not say what its repository is"):
        invocation({"GITHUB_WORKSPACE": str(tmp_path)}, tmp_path, lambda value: tmp_path)
