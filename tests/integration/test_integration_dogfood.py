"""shipline ships itself: its own shipline.yaml, in a clone, into an image that builds."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from builds import context, document, tags
from commands import run_shipline
from commits import WHO
from linters import GITLAB, WORKFLOW, complaints
from peers import Docker, Registry, can_run_arm64, push_base_images
from pods import settings_of
from shipline import __version__

pytestmark = [pytest.mark.peers, pytest.mark.root]

ROOT = Path(__file__).parents[2]
GENERATED = (".github/workflows/shipline.yml", ".gitlab-ci.yml")
NAME = "owner/shipline"
TAG = "v0.1.0-dev.1"


@dataclass(frozen=True)
class Clone:
    """A clone whose image goes to `registry`, which has the base images, too."""

    root: Path
    registry: Registry
    environment: dict[str, str]

    @property
    def image(self) -> str:
        return f"{self.registry.address}/{NAME}"

    def git(self, *words: str) -> str:
        command = ["git", "-C", str(self.root), *words]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def shipline(self, *words: str) -> str:
        done = run_shipline(*words, cwd=self.root, environ=self.environment, timeout_s=600)
        assert done.returncode == 0, done.stderr[-6000:] + done.stdout[-2000:]
        return done.stdout


@pytest.fixture(scope="module")
def clone(base_images: Registry, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """The history of this checkout, and a commit with its files as they are now; only the places
    of images differ.
    """
    if not can_run_arm64():
        pytest.skip("needs an emulator of arm64")
    work = tmp_path_factory.mktemp("dogfood")
    push_base_images(base_images, "python", "shipline-runtime")
    name, _, address = WHO.partition(" <")
    who = {"NAME": name, "EMAIL": address.rstrip(">")}
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("GIT", "CI"))},
        **{f"GIT_{role}_{k}": v for role in ("AUTHOR", "COMMITTER") for k, v in who.items()},
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "SHIPLINE_HOME": str(work / "home"),
        "SHIPLINE_MIRRORS": f"docker.io={base_images.url}",
        "COSIGN_PASSWORD": "correct horse",
    }
    origin = work / "origin.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(ROOT), str(origin)], check=True)
    clone = Clone(work / "clone", base_images, environment)
    subprocess.run(["git", "init", "-q", "-b", "main", str(clone.root)], check=True)
    clone.git("fetch", "-q", str(origin), "HEAD")
    clone.git("reset", "-q", "--hard", "FETCH_HEAD")
    for found in (("--cached",), ("--others", "--exclude-standard")):
        listed = ["git", "-C", str(ROOT), "ls-files", "-z", *found]
        for file in subprocess.run(listed, check=True, capture_output=True).stdout.split(b"\0")[
            :-1
        ]:
            source, target = ROOT / os.fsdecode(file), clone.root / os.fsdecode(file)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            if source.exists():
                shutil.copy2(source, target, follow_symlinks=False)
    _move_images(clone)
    clone.git("add", "--all")
    clone.git("commit", "-q", "-m", "feat: all of it")
    for version in clone.git("tag", "--list", "v*").split():
        clone.git("tag", "--delete", version)
    remote = work / "remote.git"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(remote)], check=True)
    clone.git("remote", "add", "origin", str(remote))
    clone.git("push", "-q", "-u", "origin", "main")
    return clone


def _move_images(clone: Clone) -> None:
    """Names in the registry of this test; what Debian's packages make is a stand-in."""
    file = clone.root / "shipline.yaml"
    runtime = f"docker-image://{clone.registry.address}/library/shipline-runtime"
    text = file.read_text().replace("registry.example", clone.registry.address)
    file.write_text(text.replace("\nbuild:\n", f"\nbuild:\n  contexts: {{runtime: {runtime}}}\n"))
    clone.shipline("ci", "update")


def test_a_commit_becomes_a_signed_image_that_builds(
    clone: Clone, docker: Docker, tmp_path: Path
) -> None:
    key = tmp_path / "ci"
    clone.shipline("key", "generate", "-o", str(key))
    clone.environment["COSIGN_PRIVATE_KEY"] = Path(f"{key}.key").read_text()
    clone.shipline("ship", "--progress=plain", "--skip", "types")  # `make test` runs mypy before
    assert sorted(tags(clone.registry, NAME))[:1] == ["edge"]
    assert clone.git("ls-remote", "origin", f"refs/tags/{TAG}")

    clone.shipline("verify", "--key", f"{key}.pub", f"{clone.image}:{TAG}")
    index = document(clone.registry, NAME, TAG)
    platforms = {one["platform"]["architecture"] for one in index["manifests"]}
    assert platforms >= {"amd64", "arm64"}
    inspect = ("imagetools", "inspect", f"{clone.image}:{TAG}", "--format")
    assert "pkg:pypi/aiohttp@" in clone.shipline(*inspect, "{{json .SBOM}}")
    assert '"buildType"' in clone.shipline(*inspect, "{{json .Provenance}}")
    _builds(clone, docker, tmp_path)


def _builds(clone: Clone, docker: Docker, place: Path) -> None:
    """The image is of an ordinary user, who builds in it with files and processes of others."""
    image = f"{clone.image}:{TAG}"
    done = docker.run("run", "--rm", "--network=host", image, "--version")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f"shipline {__version__}")
    dockerfile = (
        "FROM busybox\nCOPY --chown=33:33 a /\nUSER 33\nRUN --network=none id -u > /tmp/id\n"
    )
    files = context(place / "context", dockerfile, a="a\n")
    words = ("build", "--push", "-t", f"{clone.registry.address}/built:1", "/context")
    settings = [
        *settings_of("build-pod.yaml"),
        "--network=host",
        f"--env=SHIPLINE_MIRRORS=docker.io={clone.registry.url}",
        f"--volume={files}:/context:ro",
    ]
    done = docker.run("run", "--rm", *settings, image, *words)
    assert done.returncode == 0, done.stdout
    assert tags(clone.registry, "built") == ["1"]


def test_the_generated_workflows_are_up_to_date() -> None:
    done = run_shipline("ci", "check", cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert [name for name in GENERATED if f"{name}: up to date" not in done.stderr] == []


def test_no_linter_finds_anything_in_them() -> None:
    github, gitlab = (ROOT / name for name in GENERATED)
    assert complaints(WORKFLOW, github) + complaints(GITLAB, gitlab) == ""
