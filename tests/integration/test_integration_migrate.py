"""The commands of docs/migrate.md that are to be written now do what the page says."""

from __future__ import annotations

import gzip
import json
import re
import shlex
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from builds import Shipline, context, tags
from commands import run_shipline
from peers import Registry, git_server
from peers.registry import certificate

PAGE = Path(__file__).resolve().parents[2] / "docs/migrate.md"
pytestmark = [pytest.mark.peers, pytest.mark.root]

NOT_COMMANDS = {
    *("BUILDX_BUILDER", "Dockerfile", "shipline.yaml", "tags:", ".dockerignore", "shipline login"),
    *("shipline builder bootstrap", "shipline init", "shipline ci github", "OWNER/shipline@COMMIT"),
    *("RUN --mount=type=bind,from=NAME", "--secret", "--ssh", "--target", "--build-arg"),
    *("registry-mirrors", "--registry-mirror https://HOST"),  # tests of mirrors
    *("--build-context", "--file", "--no-cache", "shipline build", "shipline imagetools inspect"),
    *("shipline builder dial-stdio --builder NAME", "--builder"),  # tests of builders
    "shipline builder create --driver remote ADDRESS",
    *("create", "shipline prune", "shipline login HOST", "RUN --security=insecure"),
    # into an engine of the machine: shown by tests of outputs
    *("shipline build --load -t NAME .", "CONTAINER_HOST=unix:///run/podman/podman.sock"),
}
"""What is in the second column and is shown by other tests, or is not a command at all."""


COPIES = "## From skopeo, crane, regctl, oras and cosign\n"


def second_column(text: str) -> list[str]:
    """What stands in the second column of the tables."""
    cells = re.findall(r"(?m)^\|(?:[^|\\]|\\.)*\| ((?:[^|\\]|\\.)*?) \|", text)
    found = [span for cell in cells for span in re.findall(r"`([^`]+)`", cell)]
    return [*dict.fromkeys(found)]


def commands() -> list[str]:
    """Those of builds; the section about copies is another test's."""
    before, _, rest = PAGE.read_text().partition(COPIES)
    after = rest[rest.index("\n## ") :]
    return [one for one in second_column(before + after) if one not in NOT_COMMANDS]


@dataclass(frozen=True)
class World:
    shipline: Shipline
    registry: Registry
    place: Path
    values: dict[str, str] = field(default_factory=dict)

    def run(self, text: str) -> str:
        """What `shipline` says to these words, or to a build with these flags or variables."""
        for name, value in self.values.items():
            text = re.sub(rf"(?<![\w-]){re.escape(name)}(?!\w)", value, text)
        variables, words, stdin = {}, shlex.split(text), b""
        if "<" in words:
            words, stdin = words[: words.index("<")], (self.place / "context.tar.gz").read_bytes()
        while words and re.match("[A-Z_]+=", words[0]):
            name, _, variables[name] = words.pop(0).partition("=")
        if words[:1] != ["shipline"]:
            where = [] if words and words[-1].startswith("http") else ["."]
            ends = any(word.startswith(("-o", "--push", "--load")) for word in words)
            output = [] if ends else ["-o", "type=cacheonly"]
            words = ["shipline", "build", *words, *output, *where]
        if "push" in text and "-t" not in words:
            words[2:2] = ["-t", self.values["NAME"]]
        done = run_shipline(
            *words[1:],
            cwd=self.place,
            environ=self.shipline.environ() | variables,
            stdin=stdin,
            timeout_s=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Iterator[World]:
    work = tmp_path_factory.mktemp("migrate")
    place = context(work / "workspace", "FROM scratch\nCOPY a /\n", a="a\n")
    (place / "Containerfile").write_text("FROM scratch\nCOPY a /b\n")
    (place / "docker-bake.hcl").write_text('target "default" { output = ["type=cacheonly"] }')
    (work / "auth.json").write_text("{}")
    with tarfile.open(work / "context.tar", "w") as archive:
        archive.add(place, ".")
    packed = gzip.compress((work / "context.tar").read_bytes())
    (place / "context.tar.gz").write_bytes(packed)
    ca, _ = certificate(work, "ca")
    with git_server(work / "git") as server:
        files: dict[str, str | bytes | None] = {
            "sub/Dockerfile": "FROM scratch\nCOPY a /\n",
            "sub/a": "a\n",
        }
        server.repository("x").commit(files)
        values = {
            "https://HOST/x.git#main:DIR": f"{server.url}/x.git#main:sub",
            "--ca FILE": f"--ca {ca}",
            "REGISTRY_AUTH_FILE=FILE": f"REGISTRY_AUTH_FILE={work}/auth.json",
            "DIRECTORY": str(place),
            "A,B": "linux/amd64,linux/arm64",
            "/workspace": str(place),
            "NAME": f"{registry.address}/migrated",
            "REPO": f"{registry.address}/migrated/cache",
            "HOST": registry.address,
            "FILE": "out.json",
            "DIR": "out",
        }
        yield World(Shipline(work / "home"), registry, place, values)


@pytest.mark.parametrize("text", commands())
def test_a_command_of_the_page_runs(text: str, world: World) -> None:
    world.run(text)
    if "--push" in text:
        assert "latest" in tags(world.registry, "migrated")
    if "--metadata-file" in text:
        found = json.loads((world.place / "out.json").read_bytes())
        assert found["containerimage.digest"].startswith("sha256:")
    if "dest=image.tar" in text:
        with tarfile.open(world.place / "image.tar") as archive:
            assert "manifest.json" in archive.getnames()
    if "dest=out" in text.replace("DIR", "out"):
        assert (world.place / "out/oci-layout").exists()


def test_copies_of_the_page_run(world: World) -> None:
    section = PAGE.read_text().partition(COPIES)[2].partition("\n## ")[0]
    found = [one for one in second_column(section) if re.match(r"shipline (copy|tag)\b.* ", one)]
    assert len(found) == 4
    source, target = (f"{world.registry.address}/{name}" for name in ("from", "to"))
    world.run(f"--platform linux/amd64,linux/arm64 -t {source} --push")
    for text in found:
        world.run(re.sub(r"\bB\b", target, re.sub(r"\bA\b", source, text)))
    assert {*tags(world.registry, "to")} == {"1", "2", "latest"}
