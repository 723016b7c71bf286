"""A look at a project finds what its people use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shipline.config import loads
from shipline.deliver.project import Language, detect_project, guess_image
from shipline.deliver.scaffold import initial_config, initial_dockerfile, initial_dockerignore
from shipline.dockerfile import parse_dockerfile


def project(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def language(root: Path, files: dict[str, str]) -> Language:
    found = detect_project(project(root, files)).language
    assert found is not None
    return found


def package(**more: object) -> str:
    return json.dumps({"name": "@team/shop", **more})


@pytest.mark.parametrize(
    ("lock", "manager", "setup"),
    [
        ("package-lock.json", "npm", "npm ci"),
        ("pnpm-lock.yaml", "pnpm", "pnpm install --frozen-lockfile"),
        ("yarn.lock", "yarn", "yarn install --frozen-lockfile"),
        ("bun.lock", "bun", "bun install --frozen-lockfile"),
    ],
)
def test_the_lock_file_names_the_manager(
    lock: str, manager: str, setup: str, tmp_path: Path
) -> None:
    found = language(tmp_path, {"package.json": package(devDependencies={"x": "1"}), lock: ""})
    assert found.manager == manager
    assert found.toolchain.setup[-1] == setup
    assert found.name == "shop"


@pytest.mark.parametrize(
    ("files", "setup"),
    [
        ({"pnpm-lock.yaml": ""}, ("npm install --global pnpm@", "pnpm install --frozen-lockfile")),
        ({"pnpm-lock.yaml": "", "pin": "pnpm@9.1.0"}, ("corepack enable", "pnpm install --frozen")),
        ({"yarn.lock": "__metadata:\n"}, ("corepack enable", "yarn install --immutable")),
        (
            {"yarn.lock": "# yarn lockfile v1\n"},
            ("npm install --global yarn@1.", "yarn install --f"),
        ),
    ],
)
def test_managers_have_the_version_of_the_project_or_one_of_ours(
    files: dict[str, str], setup: tuple[str, ...], tmp_path: Path
) -> None:
    more = {"packageManager": files["pin"]} if "pin" in files else {}
    text = package(dependencies={"x": "1"}, main="a.js", **more)
    found = detect_project(project(tmp_path, {"package.json": text, "a.js": "", **files}))
    assert found.language is not None
    lines = found.language.toolchain.setup
    assert all(line.startswith(part) for line, part in zip(lines, setup, strict=True)), lines
    docker = initial_dockerfile(found)
    assert docker is not None and f"{lines[0]} && {lines[1]}" in docker


def test_without_a_lock_file_nothing_asks_for_one(tmp_path: Path) -> None:
    text = package(scripts={"lint": "eslint"}, dependencies={"x": "1"}, main="a.js")
    found = detect_project(project(tmp_path, {"package.json": text, "a.js": ""}))
    assert found.language is not None and not found.language.locked
    assert found.language.toolchain.setup[0].startswith("npm install --no-package-lock")
    assert [one.name for one in found.language.checks] == ["lint"]  # npm audit needs one
    docker = initial_dockerfile(found)
    assert docker is not None
    assert "npm install" in docker and "lock" not in docker and "npm ci" not in docker


def test_nothing_is_installed_for_a_project_without_dependencies(tmp_path: Path) -> None:
    text = package(scripts={"test": "node --test", "start": "node server.js"})
    found = detect_project(project(tmp_path, {"package.json": text, "server.js": ""}))
    assert found.language is not None and found.language.locked
    assert found.language.toolchain.setup == ()
    docker = initial_dockerfile(found)
    assert docker is not None and "npm" not in docker and docker.count("FROM") == 1


@pytest.mark.parametrize(
    ("more", "start"),
    [
        ({"scripts": {"start": "node --enable-source-maps dist/main.js", "build": "tsc"}},
         ("node", "--enable-source-maps", "dist/main.js")),
        ({"scripts": {"build": "tsc"}, "main": "dist/main.js"}, ("node", "dist/main.js")),
        ({"scripts": {"start": "next start", "build": "next build"}}, ("npm", "start")),
        ({"scripts": {"start": "tsx src/main.ts"}}, ("npm", "start")),
        ({"scripts": {"start": "vite", "build": "vite build"}}, ()),
        ({"main": "not-there.js"}, ()),
    ],
)  # fmt: skip
def test_what_starts_a_program_of_node(
    more: dict[str, object], start: tuple[str, ...], tmp_path: Path
) -> None:
    found = language(tmp_path, {"package.json": package(dependencies={"x": "1"}, **more)})
    assert found.start == start


def test_what_is_built_is_built_in_a_stage_of_its_own(tmp_path: Path) -> None:
    text = package(scripts={"start": "node dist/main.js", "build": "tsc"}, dependencies={"x": "1"})
    found = detect_project(project(tmp_path, {"package.json": text, "package-lock.json": ""}))
    docker = initial_dockerfile(found)
    assert docker is not None and "RUN npm run build && npm prune --omit=dev" in docker
    assert "dist" in initial_dockerignore(found).splitlines()


def test_static_sites_are_served(tmp_path: Path) -> None:
    text = package(scripts={"build": "vite build"}, devDependencies={"vite": "7"})
    files = {"package.json": text, "package-lock.json": "", "index.html": ""}
    built = initial_dockerfile(detect_project(project(tmp_path / "built", files)))
    assert built is not None and "COPY --link --from=build /app/dist /usr" in built
    plain = initial_dockerfile(
        detect_project(project(tmp_path / "plain", {"public/index.html": ""}))
    )
    assert plain is not None and "COPY --link public /usr/share/nginx/html" in plain


def test_eslint_is_told_to_write_a_report(tmp_path: Path) -> None:
    for script, run in (
        ("eslint .", "npm run lint -- --format json --output-file reports/eslint.json"),
        ("eslint . --format stylish", "npm run lint"),
        ("next lint", "npm run lint"),
    ):
        found = language(tmp_path, {"package.json": package(scripts={"lint": script})})
        assert found.checks[0].run == run
        assert bool(found.checks[0].reports) is ("eslint.json" in run)


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
    ("files", "setup"),
    [
        ({"pyproject.toml": '[project]\nname = "a"\noptional-dependencies = {dev = ["pytest"]}'},
         ("-e '.[dev]'",)),
        ({"pyproject.toml": '[project]\nname = "a"\n[dependency-groups]\ntest = ["pytest"]'},
         ("pip==", "-e . --group test")),
        ({"requirements.txt": "flask", "requirements-dev.txt": "pytest"},
         ("-r requirements.txt -r requirements-dev.txt",)),
        ({"requirements.txt": "flask", "requirements/dev.txt": "pytest"},
         ("-r requirements.txt -r requirements/dev.txt",)),
        ({"pyproject.toml": '[project]\nname = "a"\noptional-dependencies = {test = ["x"]}',
          "uv.lock": ""}, ("uv==", "uv sync --frozen --extra test")),
        ({"pyproject.toml": "[tool.ruff]"}, ()),
    ],
)  # fmt: skip
def test_the_setup_has_what_developers_need(
    files: dict[str, str], setup: tuple[str, ...], tmp_path: Path
) -> None:
    found = language(tmp_path, files).toolchain.setup
    assert len(found) == len(setup)
    assert all(part in line for part, line in zip(setup, found, strict=True)), found


@pytest.mark.parametrize(
    ("files", "start"),
    [
        ({"pyproject.toml": "[project]\nscripts = {shop = 'a:b'}"}, ("shop",)),
        ({"pyproject.toml": "[tool.poetry.scripts]\nshop = 'a:b'"}, ("shop",)),
        ({"requirements.txt": "flask", "app.py": ""}, ("python", "app.py")),
        ({"setup.py": "", "src/shop/__main__.py": ""}, ("python", "-m", "shop")),
        ({"requirements.txt": "", "lib.py": ""}, ()),
        ({"pyproject.toml": "[project]\ndependencies = ['uvicorn[standard]>=0.30']",
          "src/shop/main.py": "app = FastAPI()"},
         ("uvicorn", "shop.main:app", "--host", "0.0.0.0", "--port", "8080")),
        ({"requirements.txt": "flask\ngunicorn\n", "shop/__init__.py": "web: Flask = Flask(1)\n"},
         ("gunicorn", "--bind", "0.0.0.0:8080", "shop:web")),
        ({"requirements.txt": "flask\n", "app.py": "app = Flask(__name__)\n"},
         ("flask", "--app", "app:app", "run", "--host", "0.0.0.0", "--port", "8080")),
        ({"requirements.txt": "django\ngunicorn\n", "manage.py": "", "shop/wsgi.py": ""},
         ("gunicorn", "--bind", "0.0.0.0:8080", "shop.wsgi")),
    ],
)  # fmt: skip
def test_what_starts_a_program_of_python(
    files: dict[str, str], start: tuple[str, ...], tmp_path: Path
) -> None:
    found = detect_project(project(tmp_path, files))
    assert found.language is not None and found.language.start == start
    assert (initial_dockerfile(found) is None) is (not start)


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


def test_a_library_has_no_program(tmp_path: Path) -> None:
    found = detect_project(project(tmp_path, {"go.mod": "module a\n", "a.go": "package a\n"}))
    assert found.language is not None and found.language.start == ()
    assert initial_dockerfile(found) is None


@pytest.mark.parametrize(
    "name",
    [
        "test/Dockerfile", "tests/e2e/Dockerfile", "Dockerfile.test", ".devcontainer/Dockerfile",
        "e2e-tests/Dockerfile", "docs/Dockerfile", "Dockerfile.dev", "testdata/Containerfile",
    ],
)  # fmt: skip
def test_a_dockerfile_for_tests_or_development_is_not_shipped(name: str, tmp_path: Path) -> None:
    assert detect_project(project(tmp_path, {name: "FROM scratch\n"})).dockerfiles == ()


def test_a_dockerfile_is_built_from_where_its_files_are(tmp_path: Path) -> None:
    files = {"api/Dockerfile": "FROM scratch\nCOPY --link main.go ./\n", "api/main.go": ""}
    found = detect_project(project(tmp_path / "own", files))
    assert found.contexts == ("api",)
    text = initial_config(found, image="registry.example/team/app")
    build = loads(text.encode(), "shipline.yaml", {}).pipeline.build
    assert (build.context, build.file) == ("api", None)
    files = {"docker/Dockerfile": "FROM scratch\nCOPY main.go ./\n", "main.go": ""}
    found = detect_project(project(tmp_path / "top", files))
    assert found.contexts == (".",)
    text = initial_config(found, image="registry.example/team/app")
    assert loads(text.encode(), "f", {}).pipeline.build.file == "docker/Dockerfile"


def test_each_dockerfile_is_a_target_with_an_image_of_its_own(tmp_path: Path) -> None:
    files = {
        "Dockerfile": "FROM scratch\n",
        "Dockerfile.worker": "FROM scratch\n",
        "apps/api/Dockerfile": "FROM scratch\nCOPY main.go ./\n",
        "apps/api/main.go": "",
        "ops/api/Dockerfile": "FROM scratch\n",
    }
    found = detect_project(project(tmp_path / "shop", files))
    image = "registry.example/team/shop"
    text = initial_config(found, image=image)
    pipeline = loads(text.encode(), "shipline.yaml", {}).pipeline
    targets = pipeline.targets.items()
    assert {name: (str(one.image), one.context, one.file) for name, one in targets} == {
        "shop": (image, ".", None),
        "worker": (f"{image}/worker", ".", "Dockerfile.worker"),
        "apps-api": (f"{image}/apps-api", "apps/api", None),
        "ops-api": (f"{image}/ops-api", ".", "ops/api/Dockerfile"),
    }
    assert "docker.io/team/shop-worker" in initial_config(found, image="docker.io/team/shop")


def test_dependencies_of_a_package_are_a_layer_of_their_own(tmp_path: Path) -> None:
    """Where Python itself can read them: what changes in the source installs none of them again."""
    text = '[project]\nname = "shop"\nscripts = {shop = "shop:main"}\ndependencies = ["idna"]\n'
    files = {"pyproject.toml": text}
    docker = initial_dockerfile(detect_project(project(tmp_path, files)))
    assert docker is not None
    before, _, after = docker.partition("COPY . .\n")
    assert "pip install -r /requirements.txt" in before and "pip install" in after
    old = {**files, ".python-version": "3.10"}
    docker = initial_dockerfile(detect_project(project(tmp_path, old)))
    assert docker is not None and "tomllib" not in docker


def test_the_image_of_a_dockerfile_of_ours_is_judged(tmp_path: Path) -> None:
    found = detect_project(project(tmp_path, {"index.html": ""}))
    text = initial_config(found, image="registry.example/team/app", docker=True)
    assert "image:\n    non-root: true" in text
    assert loads(text.encode(), "shipline.yaml", {}).gates is not None


def test_a_broken_file_is_no_reason_to_fail(tmp_path: Path) -> None:
    files = {
        "package.json": "{",
        "pyproject.toml": "[[",
        "pnpm-workspace.yaml": "\0",
        "go.work": "",
    }
    assert detect_project(project(tmp_path, files)).language is not None  # pyproject.toml is there
    (tmp_path / "package.json").write_bytes(b"\xff\xfe")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert detect_project(tmp_path).name


def test_a_monorepo_is_seen(tmp_path: Path) -> None:
    files = {
        "package.json": package(workspaces=["packages/*"]),
        "packages/a/package.json": "{}",
        "api/Dockerfile": "FROM scratch\n",
        "node_modules/x/Dockerfile": "FROM scratch\n",
        ".github/workflows/ci.yml": "",
        ".gitlab-ci.yml": "",
    }
    found = detect_project(project(tmp_path, files))
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
    assert guess_image(detect_project(tmp_path)) == image


PROJECTS = (
    {"package.json": package(scripts={"test": "node --test"}, dependencies={"x": "1"}),
     "package-lock.json": "{}", "index.js": ""},
    {"package.json": package(dependencies={"x": "1"}), "pnpm-lock.yaml": "", "server.js": ""},
    {"pyproject.toml": '[project]\nname = "a"\nscripts = {a = "a:main"}', "uv.lock": ""},
    {"requirements.txt": "flask\npytest\n", "app.py": ""},
    {"pyproject.toml": "[tool.poetry]\n", "poetry.lock": "", "main.py": ""},
    {"pyproject.toml": "[build-system]\nrequires = ['setuptools-scm']\n", "a/__main__.py": ""},
    {"go.mod": "module a\n", "main.go": "package main\n"},
    {"Dockerfile": "FROM scratch\n"},
    {"README": "nothing known"},
)  # fmt: skip


@pytest.mark.parametrize("files", PROJECTS)
def test_what_is_written_can_be_read(files: dict[str, str], tmp_path: Path) -> None:
    found = detect_project(project(tmp_path, files))
    text = initial_config(found, image="registry.example/team/app")
    config = loads(text.encode(), "shipline.yaml", {})
    assert str(config.pipeline.image) == "registry.example/team/app"
    assert (
        set(config.pipeline.steps) == {one.name for one in found.language.checks}
        if (found.language)
        else not config.pipeline.steps
    )
    docker = initial_dockerfile(found)
    assert (docker is None) == (found.language is None)
    if docker is not None:
        stages = parse_dockerfile(docker).stages
        assert len(stages) == 2
        assert ".git" in initial_dockerignore(found).splitlines()
        assert "USER" in docker or "nonroot" in docker
