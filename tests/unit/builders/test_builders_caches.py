"""Caches of a build on another machine: what BuildKit is told of them, as buildx tells it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from shipline.build.request import CacheSettings
from shipline.build.result_flags import parse_cache_source, parse_cache_targets
from shipline.builders.caches import open_caches
from shipline.events import Step, silent

TOKEN = {"ACTIONS_RUNTIME_TOKEN": "t"}
AWS = {"AWS_ACCESS_KEY_ID": "i", "AWS_SECRET_ACCESS_KEY": "k", "AWS_SESSION_TOKEN": "s"}
S3 = {"bucket": "b", "region": "r"}
KEY = {"access_key_id": "own", "secret_access_key": "key"}


@pytest.fixture
def step() -> Iterator[Step]:
    with silent() as quiet:
        yield quiet


def read(text: str, environment: Mapping[str, str], step: Step) -> Mapping[str, str]:
    settings = CacheSettings(sources=parse_cache_source(text))
    (found,) = open_caches(settings, environment, step).options.imports
    return found.attrs


def written(text: str, step: Step) -> Mapping[str, str]:
    settings = CacheSettings(targets=parse_cache_targets([text], {}))
    (found,) = open_caches(settings, {}, step).options.exports
    return found.attrs


def test_layers_are_compressed_as_wanted(step: Step) -> None:
    wanted = "compression=zstd,compression-level=3,force-compression=true"
    attributes = written(f"type=registry,ref=u/a,mode=max,ignore-error=false,{wanted}", step)
    assert attributes == {
        "ref": "u/a",
        "mode": "max",
        "compression": "zstd",
        "compression-level": "3",
        "force-compression": "true",
    }
    assert "compression" not in written("type=registry,ref=u/a", step)


@pytest.mark.parametrize(
    ("given", "environment", "implied"),
    [
        ("", {"ACTIONS_RESULTS_URL": "r"}, {"url": "r"}),
        ("", {"ACTIONS_RESULTS_URL": "r", "ACTIONS_CACHE_URL": "c"}, {"url": "c"}),
        (
            "",
            {"ACTIONS_RESULTS_URL": "r", "ACTIONS_CACHE_SERVICE_V2": "True"},
            {"url": "r", "url_v2": "r"},
        ),
        (",version=2", {"ACTIONS_RESULTS_URL": "r"}, {"url": "r", "url_v2": "r", "version": "2"}),
        (",url_v2=own", {"ACTIONS_CACHE_URL": "c"}, {"url": "c", "url_v2": "own"}),
    ],
)
def test_variables_of_actions_are_read_as_buildx_reads_them(
    given: str, environment: Mapping[str, str], implied: Mapping[str, str], step: Step
) -> None:
    assert read(f"type=gha{given}", {**TOKEN, **environment}, step) == {"token": "t", **implied}


def test_a_whole_key_gets_no_session_of_the_environment(step: Step) -> None:
    assert read("type=s3,bucket=b,region=r", AWS, step) == {
        **S3,
        "access_key_id": "i",
        "secret_access_key": "k",
        "session_token": "s",
    }
    own = ",".join(f"{name}={text}" for name, text in KEY.items())
    assert read(f"type=s3,bucket=b,region=r,{own}", AWS, step) == {**S3, **KEY}
