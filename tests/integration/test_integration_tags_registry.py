"""`shipline tags --registry` against a real registry: what is there is told, tag by tag."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from commands import run_shipline
from commits import Work, with_remote
from peers import Registry
from spec_client import Target

_REVISION = "org.opencontainers.image.revision"


def actions(work: Work, image: str) -> list[str]:
    """What is to be done about the tag of the commit, and about `latest`."""
    words = ("tags", "--registry", "--json", "-i", image)
    done = run_shipline(*words, cwd=work.path, environ=work.environ)
    assert done.returncode == 0, done.stderr
    return [one["action"] for one in json.loads(done.stdout)["registry"][image]]


@pytest.fixture
def work(tmp_path: Path) -> Work:
    work, _ = with_remote(tmp_path)
    work.git("checkout", "-q", "-b", "develop")
    work.commit("feat: two")
    return work


def test_tags_are_made_used_again_and_moved_forward_only(work: Work, registry: Registry) -> None:
    target = Target(registry.url, "tags/forward")
    image = f"{registry.address}/{target.repository}"
    first = work.git("rev-parse", "HEAD")

    def publish(commit: str, *tags: str) -> None:
        document = target.image(commit, annotations={_REVISION: commit})
        for tag in tags:
            assert target.push(document, tag).status == 201

    assert actions(work, image) == ["create", "create"]
    publish(first, f"dev-{first[:12]}", "latest")
    assert actions(work, image) == ["reuse", "reuse"]
    second = work.commit("feat: three")
    assert actions(work, image) == ["create", "move"]
    publish(second, f"dev-{second[:12]}", "latest")
    work.git("checkout", "-q", "-B", "develop", first)
    assert actions(work, image) == ["reuse", "keep"]


def test_a_tag_of_another_commit_is_a_conflict(work: Work, registry: Registry) -> None:
    target = Target(registry.url, "tags/conflict")
    other = "f" * 40
    tag = f"dev-{work.git('rev-parse', 'HEAD')[:12]}"
    document = target.image("other", annotations={_REVISION: other})
    assert target.push(document, tag).status == 201
    assert target.push(document, "latest").status == 201
    assert actions(work, f"{registry.address}/{target.repository}") == ["conflict", "keep"]
