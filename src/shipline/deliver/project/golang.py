"""Projects with a go.mod."""

from __future__ import annotations

import re
from pathlib import Path

from shipline.deliver.project.project import Check, Language, Toolchain, read

DEFAULT = "1.25"

_GOLANGCI = (".golangci.yml", ".golangci.yaml", ".golangci.toml", ".golangci.json")


def go(root: Path) -> Language | None:
    """What go.mod tells; None without one."""
    module = read(root / "go.mod")
    if not module:
        return None
    version = re.search(r"(?m)^go (\d+\.\d+)", module)
    path = re.search(r"(?m)^module (\S+)", module)
    name = re.sub(r"/v\d+\Z", "", path[1]).rpartition("/")[2] if path else ""
    return Language(
        Toolchain("go", version[1] if version else DEFAULT, "go.mod", ("go mod download",)),
        "go",
        tuple(_checks(root)),
        _main(root),
        name,
    )


def _checks(root: Path) -> list[Check]:
    checks = [Check("vet", "go vet ./...")]
    if any((root / name).is_file() for name in _GOLANGCI):
        run = "mkdir -p reports\ngolangci-lint run --output.sarif.path reports/golangci.sarif"
        checks.append(Check("lint", run, (("analysis", "reports/golangci.sarif"),)))
    run = "mkdir -p reports\ngo test -coverprofile reports/cover.out ./..."
    return [*checks, Check("test", run, (("coverage", "reports/cover.out"),))]


def _main(root: Path) -> tuple[str, ...]:
    """The package with the program, at the top or the first below cmd; none of a library."""
    if any(re.search(r"(?m)^package main\b", read(path)) for path in sorted(root.glob("*.go"))):
        return (".",)
    below = sorted(path.parent for path in (*root.glob("cmd/*/main.go"), *root.glob("cmd/main.go")))
    return (f"./{below[0].relative_to(root)}",) if below else ()
