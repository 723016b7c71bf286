"""Nothing that an example or a generated file installs floats: it is what it was, tomorrow."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from shipline.deliver.ci import Pins, Workflow, buildx_workflow, github_workflow, gitlab_pipeline
from shipline.deliver.project import detect_project
from shipline.deliver.scaffold import initial_dockerfile
from workflows import ALL

ROOT = Path(__file__).parents[3]
PINS = Pins.load()
LOCKS = sorted(ROOT.glob("examples/**/package-lock.json"))
_RANGES = ("dependencies", "devDependencies", "optionalDependencies")
_VERSION = re.compile(r"[~^<>=v ]*\d|npm:.+@[~^]?\d|\*\Z")  # `*` still takes the locked one


def floating(lock: dict[str, object]) -> Iterator[str]:
    """Packages of a lock file that ask for a name that moves, or whose content is not fixed."""
    packages = lock["packages"]
    assert isinstance(packages, dict)
    for place, package in packages.items():
        for kind in _RANGES:
            for name, wanted in package.get(kind, {}).items():
                if not _VERSION.match(wanted):
                    yield f"{place or 'the project'} asks for {name}: {wanted}"
        if place and not package.get("integrity"):
            yield f"{place} has no digest"


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.parent.name)
def test_no_lock_file_asks_for_a_name_that_moves(path: Path) -> None:
    assert list(floating(json.loads(path.read_text()))) == []


def test_a_name_that_moves_is_found() -> None:
    packages = {
        "node_modules/a": {"dependencies": {"b": "latest", "c": "^1.0.0"}, "integrity": "x"}
    }
    assert list(floating({"packages": packages})) == ["node_modules/a asks for b: latest"]
    assert list(floating({"packages": {"node_modules/a": {}}})) == ["node_modules/a has no digest"]


def bases(text: str) -> list[str]:
    """The images that it names in FROM; there is one scratch only."""
    return re.findall(r"(?m)^FROM (?:--\S+ )*(?!scratch\b)(\S+)", text)


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/**/Dockerfile")), ids=str)
def test_bases_of_examples_have_a_version(path: Path) -> None:
    assert [one for one in bases(path.read_text()) if not re.search(r":\d", one)] == []


INSTALLS = re.compile(r"(?:pip install|npm install --global|npx|uvx|pipx run) ([^&\n]+)")
_FLAGS = re.compile(r"--(quiet|disable-pip-version-check|no-deps)\b")
_OWN = re.compile(r"-r |-e |--group |\.$|\"\$SHIPLINE\"")  # the project, its lists, ci.install
_PINNED = re.compile(r"[\w./-]+(==|@)\d")


def unpinned(text: str) -> list[str]:
    """What commands install without a version."""
    wanted = [_FLAGS.sub("", words).strip() for words in INSTALLS.findall(text)]
    return [words for words in wanted if not _OWN.match(words) and not _PINNED.match(words)]


def test_an_install_without_a_version_is_found() -> None:
    assert unpinned("RUN pip install --quiet uv\nnpm install --global pnpm@10 && x") == ["uv"]


@pytest.mark.parametrize("workflow", ALL)
def test_generated_jobs_install_versions_and_run_actions_by_commit(workflow: Workflow) -> None:
    for text in (
        github_workflow(workflow, PINS),
        buildx_workflow(workflow, PINS),
        gitlab_pipeline(workflow),
    ):
        assert unpinned(text) == []
        assert all(re.search("@[0-9a-f]{40} # v", one) for one in re.findall("uses:.*", text))
        assert all(re.search(r":\d", one) for one in re.findall(r"(?m)^ *image: (.+)$", text))


NODE = {"package.json": '{"main": "a.js", "dependencies": {"x": "1"}}', "a.js": ""}
PYTHON = {"pyproject.toml": "[project]\nname = 'a'\nscripts = {a = 'a:b'}\n[build-system]"}


@pytest.mark.parametrize(
    ("files", "lock"),
    [
        *((NODE, lock) for lock in ("pnpm-lock.yaml", "yarn.lock", "bun.lock")),
        *((PYTHON, lock) for lock in ("uv.lock", "poetry.lock", "pdm.lock")),
    ],
)
def test_what_init_writes_installs_managers_by_version(
    files: dict[str, str], lock: str, tmp_path: Path
) -> None:
    for name, text in {**files, lock: ""}.items():
        (tmp_path / name).write_text(text)
    found = detect_project(tmp_path)
    written = initial_dockerfile(found)
    assert found.language is not None and written is not None
    for text in (written, "\n".join(found.language.toolchain.setup)):
        assert INSTALLS.search(text) and unpinned(text) == []
    assert bases(written) and all(re.search(r":\d", one) for one in bases(written))
