"""Projects with a pyproject.toml or requirements."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shipline.deliver.project.project import Language, ProjectCheck, Toolchain, first_line, read

DEFAULT = "3.13"
MANAGERS = {"uv": "uv==0.13.9", "poetry": "poetry==2.5.1", "pdm": "pdm==2.29.4"}
"""The pip requirement of each manager, with a version for reproducible builds."""

_PIP = "pip==26.3"  # supports dependency groups, since 25.1
_LOCKS = {"uv.lock": "uv", "poetry.lock": "poetry", "pdm.lock": "pdm"}
_SYNC = {"uv": "uv sync --frozen", "poetry": "poetry install", "pdm": "pdm sync"}
_EXTRA = {"uv": "--extra", "poetry": "--extras", "pdm": "--group"}
_RUN = {"uv": "uv run ", "poetry": "poetry run ", "pdm": "pdm run "}
_INSTALL = "python -m pip install --quiet --disable-pip-version-check"
_DEVELOPMENT = ("dev", "develop", "development", "test", "tests", "testing", "lint", "ci")
_REQUIREMENTS = (
    *("requirements-dev.txt", "requirements_dev.txt", "dev-requirements.txt"),
    *("requirements-test.txt", "requirements_test.txt", "test-requirements.txt"),
    *("requirements/dev.txt", "requirements/test.txt"),
)
_PLACES = ("main.py", "app.py", "server.py", "wsgi.py", "run.py")
_APPLICATION = re.compile(r"(?m)^(\w+)(?:: *\w+)? *= *(FastAPI|Starlette|Litestar|Quart|Flask)\(")
_VERSIONED = re.compile(r"setuptools[-_]scm|hatch-vcs")


def detect_python(root: Path) -> Language | None:
    """The language of the project's Python files; None if there are none."""
    names = ("pyproject.toml", "requirements.txt", "setup.py", "Pipfile")
    if not any((root / name).is_file() for name in names):
        return None
    project = _pyproject(root)
    manager = next((name for file, name in _LOCKS.items() if (root / file).is_file()), "pip")
    file = ".python-version" if first_line(root / ".python-version") else ""
    version = _version(first_line(root / file) if file else _requires(project))
    name = project.get("project", {}).get("name", "")
    start, installs = _start(root, project), _is_package(root, project)
    return Language(
        Toolchain("python", version, file, tuple(_setup(root, project, manager, installs))),
        manager,
        tuple(_checks(root, project, _RUN.get(manager, ""))),
        start,
        name if isinstance(name, str) else "",
        needs=manager != "pip" or installs or (root / "requirements.txt").is_file(),
        installs=installs,
        listed=_is_listed(project, version),
        versioned=bool(_VERSIONED.search(read(root / "pyproject.toml") + read(root / "setup.py"))),
    )


def _pyproject(root: Path) -> Mapping[str, Any]:
    import tomllib

    try:
        document = tomllib.loads(read(root / "pyproject.toml"))
    except tomllib.TOMLDecodeError:
        return {}
    return document if isinstance(document.get("project", {}), dict) else {}


def _is_package(root: Path, project: Mapping[str, Any]) -> bool:
    """Whether pip can install the project itself; one with a requirements file is run in place."""
    if (root / "requirements.txt").is_file() and not _scripts(project):
        return False
    if (root / "uv.lock").is_file() and "build-system" not in project:
        return False  # a virtual project in uv
    return "build-system" in project or "project" in project or (root / "setup.py").is_file()


def _is_listed(project: Mapping[str, Any], version: str) -> bool:
    """Whether Python itself can read the dependencies from pyproject.toml: tomllib is of 3.11."""
    there = project.get("project", {}).get("dependencies")
    return bool(there) and int(version.partition(".")[2]) >= 11


def _requires(project: Mapping[str, Any]) -> str:
    match = re.fullmatch(
        r"[~=]=\s*(3\.\d+)(\.\*|\.\d+)?", str(project.get("project", {}).get("requires-python", ""))
    )
    return match[1] if match else ""


def _version(text: str) -> str:
    match = re.match(r"3\.\d+", text)
    return match[0] if match else DEFAULT


def _setup(root: Path, project: Mapping[str, Any], manager: str, installs: bool) -> Iterator[str]:
    """Commands that install the project with its development dependencies."""
    extras = _names(project.get("project", {}), "optional-dependencies")
    if manager != "pip":
        yield f"{_INSTALL} {MANAGERS[manager]}"
        yield " ".join((_SYNC[manager], *(f"{_EXTRA[manager]} {extra}" for extra in extras)))
        return
    files = [name for name in ("requirements.txt", *_REQUIREMENTS) if (root / name).is_file()]
    words = [f"-r {path}" for path in files]
    if installs:
        words.append(f"-e '.[{','.join(extras)}]'" if extras else "-e .")
    groups = [f"--group {group}" for group in _names(project, "dependency-groups")]
    if groups:
        yield f"{_INSTALL} {_PIP}"
    if words or groups:
        yield f"{_INSTALL} {' '.join((*words, *groups))}"


def _names(table: Mapping[str, Any], key: str) -> list[str]:
    """The extras or groups for development."""
    groups = table.get(key, {})
    return [group for group in groups if group in _DEVELOPMENT] if isinstance(groups, dict) else []


def _mentions(root: Path, project: Mapping[str, Any], name: str) -> bool:
    """Whether the project depends on the package, or configures it."""
    if name in project.get("tool", {}):
        return True
    quoted, line = rf"[\"']{name}(?=[\"'\s<>=!~;\[])", rf"(?m)^{name}(?=[\s<>=!~;\[]|$)"
    names = ("pyproject.toml", "requirements.txt", *_REQUIREMENTS, "setup.py", "Pipfile")
    return any(re.search(f"{line}|{quoted}", read(root / path)) for path in names)


def _checks(root: Path, project: Mapping[str, Any], run: str) -> list[ProjectCheck]:
    checks = []
    if _mentions(root, project, "ruff"):
        words = "ruff check --output-format sarif --output-file reports/ruff.sarif"
        line = f"mkdir -p reports\n{run}{words}"
        checks.append(ProjectCheck("lint", line, (("analysis", "reports/ruff.sarif"),)))
    if _mentions(root, project, "mypy"):
        checks.append(ProjectCheck("types", f"{run}mypy{_checked(root, project)}"))
    coverage = _mentions(root, project, "pytest-cov")
    if coverage or _mentions(root, project, "pytest"):
        checks.append(_test(coverage, run))
    elif any("import unittest" in read(path) for path in sorted(root.glob("test*/test_*.py"))):
        checks.append(ProjectCheck("test", f"{run}python -m unittest discover", note=_NO_REPORT))
    note = "its exit status is 0 if lookups failed: the gate reads the report"
    audit = (
        f"mkdir -p reports\n{run}pip-audit --format json --output reports/pip-audit.json || true"
    )
    if _mentions(root, project, "pip-audit"):
        checks.append(
            ProjectCheck("audit", audit, (("vulnerabilities", "reports/pip-audit.json"),), note)
        )
    return checks


_NO_REPORT = "unittest writes no report; use pytest for gates of tests and coverage"


def _checked(root: Path, project: Mapping[str, Any]) -> str:
    """The arguments of mypy, if its configuration names no files."""
    own = project.get("tool", {}).get("mypy", {})
    named = isinstance(own, dict) and own.keys() & {"files", "packages", "modules"}
    elsewhere = read(root / "mypy.ini") + read(root / "setup.cfg")
    if named or re.search(r"(?m)^(files|packages|modules)\s*=", elsewhere):
        return ""
    return " src" if (root / "src").is_dir() else " ."


def _test(coverage: bool, run: str) -> ProjectCheck:
    words = f"{run}python -m pytest --junitxml=reports/junit.xml"
    if not coverage:
        return ProjectCheck(
            "test", words, (("tests", "reports/junit.xml"),), "with pytest-cov also coverage"
        )
    words += " --cov --cov-report=xml:reports/coverage.xml"
    return ProjectCheck(
        "test", words, (("tests", "reports/junit.xml"), ("coverage", "reports/coverage.xml"))
    )


def _scripts(project: Mapping[str, Any]) -> list[str]:
    own = project.get("project", {}).get("scripts", {})
    poetry = project.get("tool", {}).get("poetry", {})
    poetry_scripts = poetry.get("scripts", {}) if isinstance(poetry, dict) else {}
    return [name for table in (own, poetry_scripts) if isinstance(table, dict) for name in table]


def _start(root: Path, project: Mapping[str, Any]) -> tuple[str, ...]:
    """The start command of the program; empty if there is none."""
    if scripts := _scripts(project):
        return (scripts[0],)
    if served := _served(root, project):
        return served
    if start := next((path for path in _PLACES if (root / path).is_file()), ""):
        return ("python", start)
    if (root / "manage.py").is_file():
        return ("python", "manage.py", "runserver", "0.0.0.0:8080")
    modules = sorted((*root.glob("src/*/__main__.py"), *root.glob("*/__main__.py")))
    return ("python", "-m", modules[0].parent.name) if modules else ()


def _served(root: Path, project: Mapping[str, Any]) -> tuple[str, ...]:
    """The server command of a WSGI or ASGI application; empty if there is none."""
    needs = {name for name in ("uvicorn", "gunicorn", "flask") if _mentions(root, project, name)}
    bind = ("--bind", "0.0.0.0:8080")
    for path in sorted((*root.glob("*.py"), *root.glob("*/*.py"), *root.glob("src/*/*.py"))):
        inside = path.relative_to(root / "src" if (root / "src") in path.parents else root)
        module = ".".join(inside.with_suffix("").parts).removesuffix(".__init__")
        if path.name == "wsgi.py" and len(inside.parts) > 1 and "gunicorn" in needs:
            return ("gunicorn", *bind, module)
        if not (match := _APPLICATION.search(read(path))):
            continue
        if match[2] != "Flask" and "uvicorn" in needs:
            return ("uvicorn", f"{module}:{match[1]}", "--host", "0.0.0.0", "--port", "8080")
        if match[2] == "Flask" and "gunicorn" in needs:
            return ("gunicorn", *bind, f"{module}:{match[1]}")
        if match[2] == "Flask" and "app.run(" not in read(path):
            named = f"{module}:{match[1]}"
            return ("flask", "--app", named, "run", "--host", "0.0.0.0", "--port", "8080")
    return ()
