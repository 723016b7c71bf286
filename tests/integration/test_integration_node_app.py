"""examples/node-app goes from a commit to a signed image of two architectures, and through CI."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builds import document, get, tags
from commands import run_shipline
from nodes import Node, node
from peers import can_run_arm64, push_base_images
from runner import Event, Ran, Runner

ROOT = Path(__file__).parents[2]
PASSWORD = "correct horse"
SCAN = """
steps:
  scan:
    run: |
      mkdir -p reports
      echo '{"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "x"}}, "results": []}]}' \\
        > reports/scan.sarif
    reports: {analysis: reports/scan.sarif}
"""
pytestmark = [pytest.mark.peers, pytest.mark.root]


@dataclass(frozen=True)
class World:
    """A registry that also has the base images, the project's repository, and a key."""

    registry: Node
    origin: Path
    key: str
    public: Path

    @property
    def secrets(self) -> dict[str, str]:
        return {
            "COSIGN_PRIVATE_KEY": self.key,
            "COSIGN_PASSWORD": PASSWORD,
            "REGISTRY_USERNAME": "ci",
            "REGISTRY_PASSWORD": "pw-of-the-registry",
            "GITHUB_TOKEN": "token",
        }

    @property
    def environment(self) -> dict[str, str]:
        mirror = f"docker.io={self.registry.url}"
        kept = {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "npm_", "NODE_"))}
        identity = {"NAME": "ci", "EMAIL": "ci@example.com"}
        return {
            **kept,
            **{f"GIT_{who}_{k}": v for who in ("AUTHOR", "COMMITTER") for k, v in identity.items()},
            "SHIPLINE_MIRRORS": mirror,
            "PIP_COMPILE": "0",  # modules are compiled when they are imported
            "DOCKER_CONFIG": str(self.origin.parent / "docker"),
        }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    for program in ("npm", "git", "crun"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    if os.geteuid() or not can_run_arm64():
        pytest.skip("needs root and an emulator of arm64")
    work = tmp_path_factory.mktemp("node-app")
    with node(work / "registry") as registry:
        push_base_images(registry, "node")
        key = work / "ci"
        shipline(work, "key", "generate", "-o", str(key), COSIGN_PASSWORD=PASSWORD)
        origin = _repository(work, registry, _program(work))
        yield World(registry, origin, Path(f"{key}.key").read_text(), Path(f"{key}.pub"))


def shipline(cwd: Path, *words: str, **environment: str) -> str:
    done = run_shipline(*words, cwd=cwd, environ=os.environ | environment, timeout_s=300)
    assert done.returncode == 0, done.stderr[-6000:] + done.stdout[-2000:]
    return done.stdout


def git(cwd: Path, *words: str) -> str:
    who = ["-c", "user.name=Dev", "-c", "user.email=dev@example.com"]
    done = subprocess.run(
        ["git", *who, *words], cwd=cwd, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def _program(work: Path) -> str:
    """What pip is asked for: a commit of this program, as in a workflow that nobody configured."""
    copy = work / "program"
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    git(copy, "init", "-q", "-b", "main")
    git(copy, "add", ".")
    git(copy, "commit", "-q", "-m", "feat: all")
    return f"git+file://{copy}@{git(copy, 'rev-parse', 'HEAD')}"


def _repository(work: Path, registry: Node, program: str) -> Path:
    """A server's repository with the example, whose image goes to `registry`."""
    source, origin = work / "source", work / "origin.git"
    ignored = shutil.ignore_patterns("node_modules", "reports", ".shipline")
    shutil.copytree(ROOT / "examples/node-app", source, ignore=ignored)
    file = source / "shipline.yaml"
    text = file.read_text().replace("registry.example", registry.address)
    text = text.replace("\nsteps:\n", SCAN)  # a report that the server shows: SARIF
    file.write_text(f"{text}\nci:\n  install: {program}\n")
    git(work, "init", "-q", "--bare", "-b", "main", str(origin))
    git(source, "init", "-q", "-b", "main")
    shipline(source, "ci", "github")
    git(source, "add", ".")
    git(source, "commit", "-q", "-m", "feat: shorten links")
    git(source, "push", "-q", str(origin), "main")
    return origin


def clone(world: World, place: Path) -> Path:
    git(place, "clone", "-q", str(world.origin), "clone")
    return place / "clone"


def published(world: World, tag: str) -> str:
    """The digest under the tag, once it is a signed image for both architectures."""
    index = document(world.registry, "team/links", tag)
    images = [one["platform"]["architecture"] for one in index["manifests"]]
    assert sorted(one for one in images if one != "unknown") == ["amd64", "arm64"]
    name = f"{world.registry.address}/team/links:{tag}"
    shipline(world.origin, "verify", "--key", str(world.public), name)
    if cosign := shutil.which("cosign"):
        flags = ["--insecure-ignore-tlog=true", "--allow-insecure-registry"]
        command: list[str | Path] = [cosign, "verify", *flags, "--key", world.public, name]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return name


def test_a_workflow_takes_a_push_to_a_signed_image(world: World, tmp_path: Path) -> None:
    sha = git(world.origin, "rev-parse", "main")
    workflow = git(world.origin, "show", "main:.github/workflows/shipline.yml")
    runner = Runner(tmp_path / "runner", world.origin, world.environment)

    ran = runner.run(workflow, Event("push", "refs/heads/main", sha), world.secrets)
    jobs = list(dict.fromkeys(step.partition("/")[0] for step in ran.steps))
    assert jobs == ["test", "findings", "build", "release"]
    published(world, "v0.1.0")
    assert git(world.origin, "rev-parse", "v0.1.0^{commit}") == sha
    assert "v0.1.0" in ran.summary
    _keeps_secrets(world, ran)
    _a_fork_builds_and_nothing_else(world, runner, workflow, sha)


def _a_fork_builds_and_nothing_else(world: World, runner: Runner, workflow: str, sha: str) -> None:
    """A pull request of a fork reads the cache of the push, and has no secret."""
    before = tags(world.registry, "team/links")
    head = {"sha": sha, "ref": "feature/x", "repo": {"full_name": "someone/fork"}}
    payload = {"number": 1, "pull_request": {"number": 1, "head": head, "base": {"ref": "main"}}}
    pull = Event("pull_request", "refs/pull/1/merge", sha, payload)
    for job in ("findings", "build", "release"):
        assert runner.run(workflow, pull, {}, only=job).steps == []
    tried = runner.run(workflow, pull, {}, only="try")
    assert [step for step in tried.steps if step.endswith("/Build")] == ["try/Build"] * 2
    assert "CACHED" in tried.log
    assert tags(world.registry, "team/links") == before


def _keeps_secrets(world: World, ran: Ran) -> None:
    """No secret is in the log, and only jobs of releases had one."""
    for name, secret in world.secrets.items():
        if len(secret) > 5:
            assert secret not in ran.log, name
    for step, environment in ran.environments.items():
        if step.startswith(("test/", "findings/")):
            assert not set(environment.values()) & set(world.secrets.values())


def test_one_command_takes_a_commit_to_a_signed_image(world: World, tmp_path: Path) -> None:
    place = clone(world, tmp_path)
    git(place, "checkout", "-q", "-b", "feature/one-command")
    git(place, "commit", "-q", "--allow-empty", "-m", "feat: by hand")
    subprocess.run(["npm", "ci", "--silent"], cwd=place, check=True)
    environment = world.environment | {
        "SHIPLINE_HOME": str(tmp_path / "home"),
        "COSIGN_PRIVATE_KEY": world.key,
        "COSIGN_PASSWORD": PASSWORD,
    }
    shipline(place, "ship", "--progress", "plain", **environment)
    sha = git(place, "rev-parse", "HEAD")
    tag = next(one for one in tags(world.registry, "team/links") if one.startswith("feature-"))
    assert sha[:12] in tag
    published(world, tag)
    assert get(world.registry, "/v2/")[0] == 200
