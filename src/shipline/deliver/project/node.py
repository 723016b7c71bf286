"""Projects with a package.json."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shipline.deliver.project.project import Language, ProjectCheck, Toolchain, first_line, read

DEFAULT = "24"  # the release line with long-term support

_LOCKS = {
    "pnpm-lock.yaml": "pnpm",
    "yarn.lock": "yarn",
    "bun.lock": "bun",
    "bun.lockb": "bun",
    "npm-shrinkwrap.json": "npm",
    "package-lock.json": "npm",
}
_MANAGERS = {"pnpm": "pnpm@10.34.9", "yarn": "yarn@1.22.22", "bun": "bun@1.4.5"}
"""The npm package of each manager, if package.json names no version."""
_SYNC = {
    "npm": ("npm ci",),
    "pnpm": ("pnpm install --frozen-lockfile",),
    "yarn": ("yarn install --frozen-lockfile",),
    "berry": ("yarn install --immutable",),
    "bun": ("bun install --frozen-lockfile",),
}
_UNLOCKED = (
    "npm install --no-package-lock --no-audit --no-fund",
)  # the work tree remains unchanged
_COREPACK = "corepack enable"
_SITES = {
    r"\bvite build\b": "dist",
    r"\bastro build\b": "dist",
    r"\bvue-cli-service build\b": "dist",
    r"\breact-scripts build\b": "build",
}
"""The output directories of programs that build static sites."""
_RUNTIME = ("dependencies", "optionalDependencies", "peerDependencies")
_REPORTS = "add the reports that it writes, for the gates"
_GATES = {"junit": "tests", "lcov": "coverage"}
_BOTH = (("tests", "reports/junit.xml"), ("coverage", "reports/lcov.info"))
_REPORTER = re.compile(r"--test-reporter=(\w+)\s+--test-reporter-destination=([\w./-]+)")
_NODE_TEST = """\
mkdir -p reports
node --test --experimental-test-coverage \\
  --test-reporter=spec --test-reporter-destination=stdout \\
  --test-reporter=junit --test-reporter-destination=reports/junit.xml \\
  --test-reporter=lcov --test-reporter-destination=reports/lcov.info"""


def detect_node(root: Path) -> Language | None:
    """The language of package.json; None if it is missing or invalid."""
    package = _package(root)
    if package is None:
        return None
    manager = next((name for file, name in _LOCKS.items() if (root / file).is_file()), "")
    needs = {kind: bool(_table(package, kind)) for kind in (*_RUNTIME, "devDependencies")}
    some = any(needs.values()) or "workspaces" in package
    file = next((name for name in (".nvmrc", ".node-version") if first_line(root / name)), "")
    version = _major(first_line(root / file) if file else _engines(package))
    build = _text(_table(package, "scripts").get("build"))
    start_command = _start(root, package, built=bool(build))
    sites = [site for tool, site in _SITES.items() if re.search(tool, build)]
    getting = _getting(package, manager, read(root / "yarn.lock"))
    berry = manager == "yarn" and getting == _COREPACK
    setup = (*filter(None, (getting,)), *_SYNC["berry" if berry else manager]) if manager else ()
    return Language(
        Toolchain("node", version, file, (setup or _UNLOCKED) if some else ()),
        manager or "npm",
        tuple(_checks(package, manager)),
        start_command,
        _text(package.get("name")).rpartition("/")[2],
        bool(manager) or not some,
        needs="workspaces" in package or any(needs[kind] for kind in _RUNTIME),
        build=f"{manager or 'npm'} run build" if build else "",
        site=sites[0] if sites and not start_command else "",
        getting=getting,
    )


def _getting(package: Mapping[str, Any], manager: str, yarn_lock: str) -> str:
    """The command that installs the package manager: the version in package.json, else a default.
    Modern yarn (its lock file has metadata) is always the version in package.json.
    """
    if manager not in _MANAGERS:
        return ""
    is_named = _text(package.get("packageManager")).partition("@")[0] == manager
    if manager != "bun" and (is_named or "__metadata:" in yarn_lock):
        return _COREPACK
    return f"npm install --global {_MANAGERS[manager]}"


def _package(root: Path) -> Mapping[str, Any] | None:
    try:
        document = json.loads(read(root / "package.json"))
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _table(package: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = package.get(key)
    return value if isinstance(value, dict) else {}


def _engines(package: Mapping[str, Any]) -> str:
    return _text(_table(package, "engines").get("node"))


def _major(text: str) -> str:
    """The release line of an exact version; for a range, the default."""
    match = re.fullmatch(r"[v^~]?(\d+)(\.[\dx*]+)*", text)
    return match[1] if match else DEFAULT


def _start(root: Path, package: Mapping[str, Any], *, built: bool) -> tuple[str, ...]:
    """The start command; empty if unknown. With `built`, the file need not exist yet, and the start
    script may be for development.
    """
    script = _text(_table(package, "scripts").get("start"))
    if match := re.fullmatch(r"node ((?:--[\w=./-]+ )*)([\w./-]+)", script):
        return ("node", *match[1].split(), match[2])
    main = _text(package.get("main"))
    candidates = (main, "server.js", "index.js", "app.js", "src/server.js", "src/index.js")
    existing = (
        path
        for path in candidates
        if path and ((root / path).is_file() or (built and path == main))
    )
    if first := next(existing, ""):
        return ("node", first)
    served = re.search(r"\b(next|nuxt|nest|remix-serve|react-router-serve)\b.*\bstart\b", script)
    return ("npm", "start") if script and (served or not built) else ()


def _checks(package: Mapping[str, Any], lock: str) -> list[ProjectCheck]:
    """The scripts that check the project. `lock` is the manager whose lock file exists, if any: npm
    cannot audit without one.
    """
    manager = lock or "npm"
    scripts = {name: _text(text) for name, text in _table(package, "scripts").items()}
    checks = []
    if name := next(
        (script for script in ("lint:sarif", "lint:ci", "lint") if script in scripts), ""
    ):
        checks.append(_lint(name, scripts[name], manager))
    if "typecheck" in scripts:
        checks.append(ProjectCheck("types", f"{manager} run typecheck"))
    if name := next(
        (
            script
            for script in ("test:ci", "test:coverage", "coverage", "test")
            if script in scripts
        ),
        "",
    ):
        checks.append(_test(name, scripts[name], manager, package))
    elif "workspaces" in package and manager == "npm":
        checks.append(ProjectCheck("test", "npm run test --workspaces --if-present", note=_REPORTS))
    if lock == "npm" and any(_table(package, kind) for kind in _RUNTIME):
        note = "npm's exit status is the same for findings and failures: the gate reads the report"
        run = "mkdir -p reports\nnpm audit --omit=dev --json > reports/npm-audit.json || true"
        checks.append(
            ProjectCheck("audit", run, (("vulnerabilities", "reports/npm-audit.json"),), note)
        )
    return checks


def _lint(name: str, script: str, manager: str) -> ProjectCheck:
    """The linter; ESLint gets options to write a report."""
    if written := re.findall(r"(?<=[=\s])[\w./-]+\.sarif\b", script):
        return ProjectCheck(
            "lint", f"{manager} run {name}", tuple(("analysis", path) for path in written)
        )
    report = re.search(r"--output-file[ =]([\w./-]+\.json)\b", script)
    if report and re.search(r"(--format|-f)[ =]json\b", script):
        return ProjectCheck("lint", f"{manager} run {name}", (("analysis", report[1]),))
    if not re.fullmatch(r"eslint( [\w./*,{}'\"@=-]+)*", script) or re.search(
        r" (-o|-f|--format|--output-file)\b", script
    ):
        return ProjectCheck("lint", f"{manager} run {name}")
    words = "--format json --output-file reports/eslint.json"
    dashes = " --" if manager == "npm" else ""
    return ProjectCheck(
        "lint", f"{manager} run {name}{dashes} {words}", (("analysis", "reports/eslint.json"),)
    )


def _test(name: str, script: str, manager: str, package: Mapping[str, Any]) -> ProjectCheck:
    """The test command, with options that write reports if the runner is known."""
    if named := [
        (_GATES[kind], path) for kind, path in _REPORTER.findall(script) if kind in _GATES
    ]:
        return ProjectCheck("test", f"mkdir -p reports\n{manager} run {name}", tuple(named))
    if re.fullmatch(r"node --test( [\w./*-]+)*", script):
        return ProjectCheck("test", _NODE_TEST, _BOTH)
    runner = f"{manager} run {name} --" if manager == "npm" else f"{manager} run {name}"
    dependencies = {**_table(package, "dependencies"), **_table(package, "devDependencies")}
    if "vitest" in script and "vitest" in dependencies:
        return _vitest(runner, any(name.startswith("@vitest/coverage-") for name in dependencies))
    if "jest" in script and "jest" in dependencies:
        words = f"{runner} --ci --coverage --coverageReporters=lcov --coverageDirectory=reports"
        return ProjectCheck("test", words, _BOTH[1:])
    return ProjectCheck("test", f"{manager} run {name}", note=_REPORTS)


def _vitest(runner: str, coverage: bool) -> ProjectCheck:
    words = [runner, "--run --reporter=default --reporter=junit --outputFile=reports/junit.xml"]
    if coverage:
        words.append(
            "--coverage.enabled --coverage.reporter=lcov --coverage.reportsDirectory=reports"
        )
    return ProjectCheck("test", " \\\n  ".join(words), _BOTH if coverage else _BOTH[:1])
