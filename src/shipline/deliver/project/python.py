"""Projects with a pyproject.toml or requirements."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shipline.deliver.project.project import Check, Language, Toolchain, first_line, read

DEFAULT = "3.13"

_LOCKS = {"uv.lock": "uv", "poetry.lock": "poetry", "pdm.lock": "pdm"}
_SETUP = {
    "uv": ("python -m pip install --quiet uv", "uv sync --frozen"),
    "poetry": ("python -m pip install --quiet poetry", "poetry install"),
    "pdm": ("python -m pip install --quiet pdm", "pdm sync"),
}
_RUN = {"uv": "uv run ", "poetry": "poetry run ", "pdm": "pdm run "}


def python(root: Path) -> Language | None:
    """What the project's Python files tell; None where there are none."""
    names = ("pyproject.toml", "requirements.txt", "setup.py", "Pipfile")
    if not any((root / name).is_file() for name in names):
        return None
    project = _pyproject(root)
    manager = next((name for file, name in _LOCKS.items() if (root / file).is_file()), "pip")
    file = ".python-version" if first_line(root / ".python-version") else ""
    version = _version(first_line(root / file) if file else _requires(project))
    name = project.get("project", {}).get("name", "")
    return Language(
        Toolchain("python", version, file, _SETUP.get(manager) or _pip(root)),
        manager,
        tuple(_checks(root, project, _RUN.get(manager, ""))),
        _start(root, project),
        name if isinstance(name, str) else "",
    )


def _pyproject(root: Path) -> Mapping[str, Any]:
    import tomllib

    try:
        found = tomllib.loads(read(root / "pyproject.toml"))
    except tomllib.TOMLDecodeError:
        return {}
    return found if isinstance(found.get("project", {}), dict) else {}


def _requires(project: Mapping[str, Any]) -> str:
    found = re.fullmatch(
        r"[~=]=\s*(3\.\d+)(\.\*|\.\d+)?", str(project.get("project", {}).get("requires-python", ""))
    )
    return found[1] if found else ""


def _version(text: str) -> str:
    found = re.match(r"3\.\d+", text)
    return found[0] if found else DEFAULT


def _pip(root: Path) -> tuple[str, ...]:
    files = [one for one in ("requirements.txt", "requirements-dev.txt") if (root / one).is_file()]
    if files:
        return (f"python -m pip install --quiet {' '.join(f'-r {one}' for one in files)}",)
    return ("python -m pip install --quiet .",)


def _mentions(root: Path, project: Mapping[str, Any], name: str) -> bool:
    """Whether the project depends on the package, or configures it."""
    if name in project.get("tool", {}):
        return True
    quoted, line = rf"[\"']{name}(?=[\"'\s<>=!~;\[])", rf"(?m)^{name}(?=[\s<>=!~;\[]|$)"
    names = ("pyproject.toml", "requirements.txt", "requirements-dev.txt", "Pipfile")
    return any(re.search(f"{line}|{quoted}", read(root / one)) for one in names)


def _checks(root: Path, project: Mapping[str, Any], run: str) -> list[Check]:
    checks = []
    if _mentions(root, project, "ruff"):
        words = "ruff check --output-format sarif --output-file reports/ruff.sarif"
        line = f"mkdir -p reports\n{run}{words}"
        checks.append(Check("lint", line, (("analysis", "reports/ruff.sarif"),)))
    if _mentions(root, project, "mypy"):
        checks.append(Check("types", f"{run}mypy"))
    if _mentions(root, project, "pytest") or list(root.glob("tests/test_*.py")):
        checks.append(_test(_mentions(root, project, "pytest-cov"), run))
    note = "its status is 0 when nothing could be looked up: the gate reads the report"
    audit = (
        f"mkdir -p reports\n{run}pip-audit --format json --output reports/pip-audit.json || true"
    )
    if _mentions(root, project, "pip-audit"):
        checks.append(Check("audit", audit, (("vulnerabilities", "reports/pip-audit.json"),), note))
    return checks


def _test(coverage: bool, run: str) -> Check:
    words = f"{run}python -m pytest --junitxml=reports/junit.xml"
    if not coverage:
        return Check(
            "test", words, (("tests", "reports/junit.xml"),), "with pytest-cov also coverage"
        )
    words += " --cov --cov-report=xml:reports/coverage.xml"
    return Check(
        "test", words, (("tests", "reports/junit.xml"), ("coverage", "reports/coverage.xml"))
    )


def _start(root: Path, project: Mapping[str, Any]) -> tuple[str, ...]:
    scripts = project.get("project", {}).get("scripts", {})
    if isinstance(scripts, dict) and scripts:
        return (str(next(iter(scripts))),)
    places = ("main.py", "app.py", "server.py")
    return ("python", next((one for one in places if (root / one).is_file()), "main.py"))
