"""The pages do what they say: their command blocks are run, those of a page in one shell.

Each page is read in a small project of a git repository, with an image, a key and reports; names of
registries are those of one on loopback.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from documents import COMMANDS, ROOT, START_NODE, blocks, script
from peers import Registry
from peers.docker import newest
from peers.process import free_port

pytestmark = [pytest.mark.peers, pytest.mark.root]

GENERATED = ("docs/commands.md", "docs/errors.md")
PAGES = [
    page
    for page in ("README.md", *sorted(str(one.relative_to(ROOT)) for one in ROOT.glob("docs/*.md")))
    if page not in GENERATED
]
RUN = [
    page
    for page in PAGES
    if any(one.language in COMMANDS and not one.reason for one in blocks(page))
]
PROJECT = """\
git init --quiet --initial-branch main
git init --quiet --bare ../origin.git
git remote add origin ../origin.git
mkdir src
echo one > src/main.c
cat > Dockerfile <<'END'
FROM busybox AS base
COPY src /src
FROM base AS web
FROM base AS mail
FROM base AS pdf
FROM web
USER nobody
END
cat > shipline.yaml <<'END'
image: registry.example/team/app
steps:
  test: "true"
ci:
  install: .
END
git add . && git commit --quiet -m "feat: an app" && git push --quiet -u origin main
"""
"""A project, in the directory of the page."""
REPORTS = """\
cat > coverage.xml <<'END'
<coverage lines-covered="1" lines-valid="2"><packages><package name="a"><classes>
<class name="a" filename="a.py"><lines>
<line number="1" hits="1"/><line number="2" hits="0"/>
</lines></class></classes></package></packages></coverage>
END
printf '<testsuite tests="1"><testcase classname="a" name="b"/></testsuite>' > junit.xml
cat > trivy.json <<'END'
{"SchemaVersion": 2, "ArtifactName": "app", "ArtifactType": "container_image",
 "Results": [{"Target": "app", "Class": "os-pkgs", "Type": "debian"}]}
END
"""
"""Reports of a project that has too few tests."""


def _node_of(directory: str) -> str:
    """Makes the data directory of a node that served an image."""
    return (
        f"start_node shipline registry serve --data {directory}\n"
        "shipline build -q --push -t 127.0.0.1:5000/team/app:1 .\nkill $!\nwait\n"
    )


def _before(page: str) -> str:
    """What a reader of the page has before."""
    match page:
        case "docs/tutorial.md":
            return ""
        case "docs/bake.md":
            (definition,) = (one.text for one in blocks(page) if one.language == "hcl")
            return f"{PROJECT}cat > docker-bake.hcl <<'END'\n{definition}END\n"
        case "docs/copying.md":
            return f"{PROJECT}shipline build --push -t registry.example/app:1.0 .\n"
        case "docs/history.md":
            return (
                f"{PROJECT}shipline build -o type=cacheonly .\necho two > src/main.c\n"
                "shipline build -o type=cacheonly .\n"
            )
        case "docs/gates.md":
            return PROJECT + REPORTS
        case "docs/registry-data.md" | "docs/registry-access.md":
            return f"{PROJECT}{_node_of('DIR')}echo correct-horse-battery > password\n"
        case "docs/regions.md":
            return (
                f"{PROJECT}{_node_of('/srv/edge')}echo correct-horse-battery > password\n"
                "shipline registry user add bob --password-stdin --data /srv/edge < password\n"
            )
        case "docs/signing.md":
            return (
                f"{PROJECT}shipline build --push -t registry.example/team/app:v1 .\n"
                "echo '{}' > sbom.json\necho release > app.tar.gz\n"
            )
        case "docs/ui.md":
            return f"{PROJECT}shipline build -o type=cacheonly .\n"
    return PROJECT


@pytest.fixture
def environment(base_images: Registry, tmp_path: Path) -> Iterator[dict[str, str]]:
    yield {
        **newest(),
        "PATH": f"{Path(sys.executable).parent}:{newest()['PATH']}",
        "HOME": str(tmp_path),
        "SHIPLINE_HOME": str(tmp_path / "state"),
        "SHIPLINE_MIRRORS": f"docker.io={base_images.url}",
        "COSIGN_PASSWORD": "correct-horse",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        **{f"GIT_{one}_NAME": "Ada" for one in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{one}_EMAIL": "ada@example.org" for one in ("AUTHOR", "COMMITTER")},
    }


@pytest.mark.parametrize("page", RUN)
def test_every_block_works(
    page: str, base_images: Registry, environment: Mapping[str, str], tmp_path: Path
) -> None:
    node = f"127.0.0.1:{free_port()}"
    name = page.rpartition("/")[2].removesuffix(".md").lower()
    replaced = {
        **{f"127.0.0.1:{port}": f"127.0.0.1:{free_port()}" for port in (5001, 5002)},
        "127.0.0.1:5000": node,
        "registry serve --data": f"registry serve --listen {node} --data",
        "https://mirror.example": base_images.url,
        "registry.example": f"{base_images.address}/{name}",
        "other.example": f"{base_images.address}/{name}/other",
        "/srv/": f"{tmp_path}/srv/",
        "collector:4318": f"127.0.0.1:{free_port()}",
        "loki:3100": f"127.0.0.1:{free_port()}",
    }
    (tmp_path / "page").mkdir()
    log = tmp_path / "log"
    with log.open("wb") as output:
        shell = subprocess.Popen(
            ["bash", "-xc", START_NODE + script(page, replaced, before=_before(page))],
            cwd=tmp_path / "page",
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        status = shell.wait(300)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)  # nodes, too
    shown = log.read_text()
    assert status == 0, f"{page}: {shown[-3000:]}"
    if page == "docs/tutorial.md":
        assert f"{node}/team/app:v0.1.0" in shown
        assert "The release is refused: 1 fail." in shown


def test_every_block_has_a_language_and_is_run_or_says_why_not() -> None:
    """A new block of commands is run, unless a comment in front of it has a reason."""
    nameless = [str(one) for page in PAGES for one in blocks(page) if not one.language]
    assert nameless == []
    shown = [one for page in PAGES for one in blocks(page) if one.language in COMMANDS]
    assert len([one for one in shown if one.reason]) <= 41
    assert len([one for one in shown if not one.reason]) >= 35
