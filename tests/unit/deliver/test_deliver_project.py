"""A look at a project finds what its people use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shipline.config import loads
from shipline.deliver.init import configuration, dockerfile, dockerignore
from shipline.deliver.project import Language, detect, guess_image
from shipline.dockerfile import parse_dockerfile


def project(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def language(root: Path, files: dict[str, str]) -> Language:
    found = detect(project(root, files)).language
    assert found is not None
    return found


def package(**more: object) -> str:
    return json.dumps({"name": "@team/shop", **more})


@pytest.mark.parametrize(
    ("lock", "manager", "setup"),
    [
        ("package-lock.json", "npm", "npm ci"),
        ("pnpm-lock.yaml", "pnpm", "pnpm install --frozen-lockfile"),
        ("yarn.lock", "yarn", "yarn install --immutable"),
        ("bun.lock", "bun", "bun install --frozen-lockfile"),
    ],
)
def test_the_lock_file_names_the_manager(
    lock: str, manager: str, setup: str, tmp_path: Path
) -> None:
    found = language(tmp_path, {"package.json": package(), lock: ""})
    assert found.manager == manager
    assert found.toolchain.setup[-1] == setup
    assert found.name == "shop"


def test_without_a_lock_file_nothing_asks_for_one(tmp_path: Path) -> None:
    found = detect(project(tmp_path, {"package.json": package(scripts={"lint": "eslint"})}))
    assert found.language is not None and not found.language.locked
    assert [one.name for one in found.language.checks] == ["lint"]  # npm audit needs one
    docker = dockerfile(found)
    assert docker is not None
    assert "npm install" in docker and "lock" not in docker and "npm ci" not in docker


def test_workspaces_are_tested_where_the_top_has_no_tests(tmp_path: Path) -> None:
    files = {"package.json": package(workspaces=["a"]), "a/package.json": package()}
    found = language(tmp_path, files)
    assert [one.run for one in found.checks] == ["npm run test --workspaces --if-present"]


def test_a_test_runner_is_told_to_write_reports(tmp_path: Path) -> None:
    for script, needed, gates in (
        ("node --test", {}, {"tests", "coverage"}),
        ("vitest", {"vitest": "3", "@vitest/coverage-v8": "3"}, {"tests", "coverage"}),
        ("vitest run", {"vitest": "3"}, {"tests"}),
        ("jest", {"jest": "30"}, {"coverage"}),
        ("mocha", {"mocha": "11"}, set()),
    ):
        text = package(scripts={"test": script}, devDependencies=needed)
        checks = {one.name: one for one in language(tmp_path, {"package.json": text}).checks}
        assert {gate for gate, _ in checks["test"].reports} == gates, script


def test_versions_come_from_the_files_that_managers_read(tmp_path: Path) -> None:
    found = language(tmp_path, {"package.json": package(engines={"node": "22.x"})})
    assert found.toolchain.version == "22"
    found = language(tmp_path, {".nvmrc": "v20.11.1\n"})
    assert (found.toolchain.version, found.toolchain.file) == ("20", ".nvmrc")


def test_python_projects(tmp_path: Path) -> None:
    text = '[project]\nname = "shop"\n[dependency-groups]\ndev = [\n "pytest-cov",\n "ruff"]\n'
    files = {
        "pyproject.toml": text,
        "uv.lock": "",
        "tests/test_a.py": "",
        ".python-version": "3.12",
    }
    found = language(tmp_path, files)
    assert (found.manager, found.toolchain.version) == ("uv", "3.12")
    checks = {one.name: one for one in found.checks}
    assert checks["test"].run.startswith("uv run python -m pytest --junitxml=reports/junit.xml")
    assert dict(checks["test"].reports).keys() == {"tests", "coverage"}
    assert checks["lint"].reports == (("analysis", "reports/ruff.sarif"),)


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ('dev = ["pytest>=8", "ruff"]', True),
        ("[tool.poetry.group.dev.dependencies]\nruff = '*'", True),
        ("[tool.ruff]\nline-length = 100", True),
        ('dev = ["ruff-lsp"]\ndescription = "a ruff day"', False),
    ],
)
def test_a_package_is_found_by_its_whole_name(text: str, there: bool, tmp_path: Path) -> None:
    checks = language(tmp_path, {"pyproject.toml": text}).checks
    assert ("lint" in {one.name for one in checks}) is there


def test_go_projects(tmp_path: Path) -> None:
    files = {"go.mod": "module git.example/team/shop/v2\n\ngo 1.24.3\n", "cmd/web/main.go": ""}
    found = language(tmp_path, files)
    assert (found.name, found.toolchain.version) == ("shop", "1.24")
    assert found.start == ("./cmd/web",)


def test_a_broken_file_is_no_reason_to_fail(tmp_path: Path) -> None:
    files = {
        "package.json": "{",
        "pyproject.toml": "[[",
        "pnpm-workspace.yaml": "\0",
        "go.work": "",
    }
    assert detect(project(tmp_path, files)).language is not None  # pyproject.toml is there
    (tmp_path / "package.json").write_bytes(b"\xff\xfe")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert detect(tmp_path).name


def test_a_monorepo_is_seen(tmp_path: Path) -> None:
    files = {
        "package.json": package(workspaces=["packages/*"]),
        "packages/a/package.json": "{}",
        "api/Dockerfile": "FROM scratch\n",
        "node_modules/x/Dockerfile": "FROM scratch\n",
        ".github/workflows/ci.yml": "",
        ".gitlab-ci.yml": "",
    }
    found = detect(project(tmp_path, files))
    assert found.dockerfiles == ("api/Dockerfile",)
    assert found.parts == ("api", "packages/a")
    assert found.ci == (".github/workflows/ci.yml", ".gitlab-ci.yml")


@pytest.mark.parametrize(
    ("url", "image"),
    [
        ("git@github.com:Team/My.App.git", "ghcr.io/team/my-app"),
        ("https://github.com/team/app", "ghcr.io/team/app"),
        ("https://user:pw@gitlab.com/team/sub/app.git", "registry.gitlab.com/team/sub/app"),
        ("ssh://git@gitlab.com:22/team/app.git", "registry.gitlab.com/team/app"),
        ("https://git.example/team/app.git", None),
        ("/srv/git/app.git", None),
    ],
)
def test_the_registry_beside_the_git_server_is_guessed(
    url: str, image: str | None, tmp_path: Path
) -> None:
    project(
        tmp_path, {".git/config": f'[core]\n\tbare = false\n[remote "origin"]\n\turl = {url}\n'}
    )
    assert guess_image(detect(tmp_path)) == image


PROJECTS = (
    {"package.json": package(scripts={"test": "node --test"}), "package-lock.json": "{}"},
    {"package.json": package(), "pnpm-lock.yaml": ""},
    {"pyproject.toml": '[project]\nname = "a"\nscripts = {a = "a:main"}', "uv.lock": ""},
    {"requirements.txt": "flask\npytest\n", "app.py": ""},
    {"pyproject.toml": "[tool.poetry]\n", "poetry.lock": ""},
    {"go.mod": "module a\n", "main.go": "package main\n"},
    {"Dockerfile": "FROM scratch\n", "sub/Dockerfile": "FROM scratch\n"},
    {"README": "nothing known"},
)


@pytest.mark.parametrize("files", PROJECTS)
def test_what_is_written_can_be_read(files: dict[str, str], tmp_path: Path) -> None:
    found = detect(project(tmp_path, files))
    text = configuration(found, image="registry.example/team/app")
    config = loads(text.encode(), "shipline.yaml", {})
    assert str(config.pipeline.image) == "registry.example/team/app"
    assert (
        set(config.pipeline.steps) == {one.name for one in found.language.checks}
        if (found.language)
        else not config.pipeline.steps
    )
    docker = dockerfile(found)
    assert (docker is None) == (found.language is None)
    if docker is not None:
        stages = parse_dockerfile(docker).stages
        assert len(stages) == 2
        assert ".git" in dockerignore(found).splitlines()
        assert "USER" in docker or "nonroot" in docker
