"""`shipline bake` builds several targets in one run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builds import TIMEOUT_S, Done, Shipline, config, document
from commands import run_shipline
from peers import Registry, git_server

pytestmark = [pytest.mark.peers, pytest.mark.root]

STEPS = """\
FROM busybox AS base
RUN cat /proc/sys/kernel/random/uuid > /uuid
FROM base AS one
RUN cat /uuid > /one
FROM base AS two
RUN cat /uuid > /two
"""
TARGETS = """\
group "default" { targets = ["one", "two"] }
target "one" {
  target = "one"
  output = ["type=local,dest=out/one"]
}
target "two" {
  target = "two"
  output = ["type=local,dest=out/two"]
}
"""


@pytest.fixture
def shipline(tmp_path: Path, base_images: Registry) -> Shipline:
    return Shipline(tmp_path / "home", base_images.address)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "project"
    place.mkdir()
    (place / "Dockerfile").write_text(STEPS)
    (place / "docker-bake.hcl").write_text(TARGETS)
    return place


def bake(shipline: Shipline, place: Path, *words: str) -> Done:
    command = ("bake", "--progress", "plain", *words)
    done = run_shipline(*command, environ=shipline.environ(), cwd=place, timeout_s=TIMEOUT_S)
    return Done(done.returncode, done.stdout, done.stderr)


def test_definition_without_targets_builds_nothing(shipline: Shipline, tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text("services: {db: {image: postgres}}\n")
    assert "there is nothing to build" in bake(shipline, tmp_path).ok().err


@pytest.mark.parametrize("words", [(), ("--no-cache",)])
def test_equal_steps_of_different_targets_run_once(
    shipline: Shipline, place: Path, words: tuple[str, ...]
) -> None:
    bake(shipline, place, *words).ok()
    found = {(place / "out" / name / name).read_text() for name in ("one", "two")}
    assert len(found) == 1
    bake(shipline, place, *words).ok()
    again = {(place / "out" / name / name).read_text() for name in ("one", "two")}
    assert len(again) == 1
    assert (again == found) == (not words)


def test_a_target_is_the_base_and_the_source_of_another(shipline: Shipline, place: Path) -> None:
    (place / "docker-bake.hcl").write_text("""\
target "tools" {
  dockerfile-inline = <<EOT
FROM busybox
RUN echo made > /made
ENV KIND=tools
EOT
}
target "default" {
  contexts = { tools = "target:tools", files = "target:tools" }
  dockerfile-inline = <<EOT
FROM tools
COPY --from=files /made /copied
RUN echo $KIND > /kind && cat /made >> /kind
EOT
  output = ["type=local,dest=out"]
}
""")
    done = bake(shipline, place).ok()
    assert (place / "out" / "kind").read_text() == "tools\nmade\n"
    assert (place / "out" / "copied").read_text() == "made\n"
    assert "[tools 2/2] RUN" in done.err and "[default 3/3] RUN" in done.err


def test_a_linked_target_serves_each_platform(
    shipline: Shipline, place: Path, registry: Registry
) -> None:
    (place / "docker-bake.hcl").write_text(f"""\
target "base" {{
  dockerfile-inline = "FROM busybox\\nARG TARGETARCH\\nENV ARCH=$TARGETARCH\\n"
  platforms = ["linux/amd64", "linux/arm64"]
}}
target "default" {{
  contexts = {{ base = "target:base" }}
  dockerfile-inline = "FROM base\\nCOPY Dockerfile /\\n"
  platforms = ["linux/amd64", "linux/arm64"]
  tags = ["{registry.address}/linked:1"]
}}
""")
    bake(shipline, place, "--push", "--insecure", registry.address).ok()
    index = document(registry, "linked", "1")
    arches = set()
    for entry in index["manifests"]:
        if entry["platform"]["os"] == "unknown":
            continue
        manifest = document(registry, "linked", entry["digest"])
        variables = config(registry, "linked", manifest)["config"]["Env"]
        arches.add(next(one for one in variables if one.startswith("ARCH=")))
    assert arches == {"ARCH=amd64", "ARCH=arm64"}


def test_pushed_targets_are_in_the_metadata(
    shipline: Shipline, place: Path, registry: Registry
) -> None:
    tags = [
        word
        for name in ("one", "two")
        for word in ("--set", f"{name}.tags={registry.address}/{name}:1")
    ]
    outputs = ["--set", "*.output=type=registry"]
    bake(
        shipline,
        place,
        *tags,
        *outputs,
        "--metadata-file",
        "m.json",
        "--insecure",
        registry.address,
    ).ok()
    facts = json.loads((place / "m.json").read_text())
    assert facts.keys() == {"one", "two"}
    for name, one in facts.items():
        assert one["image.name"] == f"{registry.address}/{name}:1"
        assert one["containerimage.digest"] == one["containerimage.descriptor"]["digest"]


def test_a_failure_has_the_name_of_its_target(shipline: Shipline, place: Path) -> None:
    (place / "docker-bake.hcl").write_text("""\
group "default" { targets = ["good", "bad"] }
target "good" { target = "one" }
target "bad" { dockerfile-inline = "FROM busybox\\nRUN exit 3\\n" }
""")
    told = bake(shipline, place, "--metadata-file", "m.json").failed(5)
    assert "target bad:" in told and "exit code: 3" in told
    assert not (place / "m.json").exists()


def test_files_outside_need_permission(shipline: Shipline, place: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    (place / "docker-bake.hcl").write_text('target "default" { context = "../outside" }\n')
    told = bake(shipline, place).failed(2)
    assert f"--allow=fs.read={outside}" in told
    bake(shipline, place, f"--allow=fs.read={outside}").ok()
    bake(shipline, place, "--allow=fs.read=../outside").ok()


def test_a_definition_comes_from_a_repository(shipline: Shipline, tmp_path: Path) -> None:
    files: dict[str, str | bytes | None] = {
        "sub/Dockerfile": "FROM scratch\nCOPY file /\n",
        "sub/file": "from git\n",
        "docker-bake.hcl": """\
target "default" {
  context = "sub"
  output = ["type=local,dest=out"]
}
target "here" {
  context = BAKE_CMD_CONTEXT
  dockerfile-inline = "FROM scratch\\nCOPY own /\\n"
  output = ["type=local,dest=out"]
}
target "takes" { dockerfile = "/etc/hostname" }
target "reaches" { dockerfile = "cwd://../outside" }
""",
    }
    (tmp_path / "own").write_text("from here\n")
    with git_server(tmp_path / "server") as server:
        server.repository("project").commit(files)
        url = f"{server.url}/project.git"
        bake(shipline, tmp_path, url).ok()
        bake(shipline, tmp_path, url, "here").ok()
        printed = json.loads(bake(shipline, tmp_path, url, "--print").ok().out)
        assert printed["target"]["default"]["context"] == "sub"
        assert "--allow=fs.read=/etc/hostname" in bake(shipline, tmp_path, url, "takes").failed(2)
        assert "--allow=fs.read=" in bake(shipline, tmp_path, url, "reaches").failed(2)
    assert (tmp_path / "out" / "file").read_text() == "from git\n"
    assert (tmp_path / "out" / "own").read_text() == "from here\n"


def test_the_dockerfiles_of_all_targets_are_checked(shipline: Shipline, place: Path) -> None:
    (place / "docker-bake.hcl").write_text("""\
group "default" { targets = ["a", "b"] }
target "a" { dockerfile-inline = "FROM scratch as x\\nCOPY Dockerfile /\\n" }
target "b" { dockerfile-inline = "FROM scratch\\nCOPY Dockerfile /\\n" }
""")
    done = bake(shipline, place, "--check", "--metadata-file", str(place / "made.json"))
    assert done.status == 1
    told = json.loads((place / "made.json").read_text())
    assert [told[name]["result.statuscode"] for name in "ab"] == ["1", "0"]
    assert told["a"]["result.json"]["warnings"][0]["ruleName"] == "FromAsCasing"
    assert "FromAsCasing" in done.out
    assert done.out.index("a\n") < done.out.index("FromAsCasing") < done.out.index("b\n")
