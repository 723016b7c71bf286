"""Detects the project in a directory. Reads files, runs nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from shipline.deliver.project.node import detect_node
from shipline.deliver.project.project import (
    DetectedProject,
    Language,
    ProjectCheck,
    Toolchain,
    read,
)
from shipline.deliver.project.python import detect_python

DEFAULT = "1.25"

_GOLANGCI = (".golangci.yml", ".golangci.yaml", ".golangci.toml", ".golangci.json")


def detect_go(root: Path) -> Language | None:
    """The language of go.mod; None without one."""
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


def _checks(root: Path) -> list[ProjectCheck]:
    checks = [ProjectCheck("vet", "go vet ./...")]
    if any((root / name).is_file() for name in _GOLANGCI):
        run = "mkdir -p reports\ngolangci-lint run --output.sarif.path reports/golangci.sarif"
        checks.append(ProjectCheck("lint", run, (("analysis", "reports/golangci.sarif"),)))
    run = "mkdir -p reports\ngo test -coverprofile reports/cover.out ./..."
    return [*checks, ProjectCheck("test", run, (("coverage", "reports/cover.out"),))]


def _main(root: Path) -> tuple[str, ...]:
    """The package with the program, at the top or the first below cmd; empty for a library."""
    if any(re.search(r"(?m)^package main\b", read(path)) for path in sorted(root.glob("*.go"))):
        return (".",)
    below = sorted(path.parent for path in (*root.glob("cmd/*/main.go"), *root.glob("cmd/main.go")))
    return (f"./{below[0].relative_to(root)}",) if below else ()


_CI = (
    ".gitlab-ci.yml",
    ".circleci/config.yml",
    "azure-pipelines.yml",
    "bitbucket-pipelines.yml",
    "Jenkinsfile",
    ".travis.yml",
    ".drone.yml",
    ".woodpecker.yml",
    ".buildkite/pipeline.yml",
)
_NOT_SOURCE = frozenset(
    {"node_modules", "vendor", "dist", "build", "target", ".git", ".venv", "venv"}
)
_DEPTH = 3  # depth of the search for Dockerfiles
_NOT_SHIPPED = re.compile(
    r"(?i)(.*[-_.])?(tests?|testdata|testing|e2e|fixtures?|examples?|samples?|demos?|docs?|bench"
    r"|benchmarks?|ci|dev|devcontainer|debug|local|hack|github)"
)
"""Directories and suffixes of Dockerfiles that are not for images to ship."""
_SITES = (".", "public", "site", "www", "html")


def detect_project(root: Path) -> DetectedProject:
    """The project in `root`; without a language if none is recognised."""
    language = detect_node(root) or detect_go(root) or detect_python(root)
    dockerfiles = tuple(_dockerfiles(root))
    return DetectedProject(
        name=legal(language.name if language else "") or legal(root.resolve().name) or "app",
        language=language,
        dockerfiles=dockerfiles,
        contexts=tuple(_context(root, file) for file in dockerfiles),
        site=next((site for site in _SITES if (root / site / "index.html").is_file()), ""),
        has_dockerignore=(root / ".dockerignore").is_file(),
        has_gitignore=(root / ".gitignore").is_file(),
        parts=tuple(_parts(root, dockerfiles)),
        ci=tuple(_ci(root)),
        remote=_remote(root),
        ignores_reports=bool(re.search(r"(?m)^/?reports/?$", read(root / ".gitignore"))),
    )


def guess_image(project: DetectedProject) -> str | None:
    """The repository in the registry of the git server; None if that is unknown."""
    match = re.search(
        r"(?:@|//(?:[^@/]+@)?)([\w.-]+)(?::\d+)?[:/]+(.+?)(?:\.git)?/?\Z", project.remote
    )
    if match is None:
        return None
    host, path = match[1].lower(), "/".join(map(legal, match[2].split("/")))
    registry = {"github.com": "ghcr.io", "gitlab.com": "registry.gitlab.com"}.get(host)
    return f"{registry}/{path}" if registry and path else None


def legal(name: str) -> str:
    """A name as part of a repository (distribution specification, "Pulling manifests")."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _dockerfiles(root: Path) -> Iterator[str]:
    paths = [path.relative_to(root) for path in _files(root, _DEPTH)]
    shipped = [path for path in paths if _is_dockerfile(path)]
    yield from (
        str(path) for path in sorted(shipped, key=lambda path: (len(path.parts), str(path)))
    )


def _is_dockerfile(path: Path) -> bool:
    """Whether the Dockerfile is for an image to ship, not for tests or development."""
    kind = re.fullmatch(r"(?:Docker|Container)file(\..+)?", path.name)
    words = (*path.parts[:-1], (kind[1] or ".")[1:]) if kind else ()
    return bool(kind) and not any(_NOT_SHIPPED.fullmatch(part) for part in words)


def _context(root: Path, dockerfile: str) -> str:
    """The directory with the files that the Dockerfile copies: its own, or the top."""
    own = Path(dockerfile).parent
    copied = re.findall(
        r"(?mi)^\s*(?:COPY|ADD)\s+(?!.*--from)(?:--\S+\s+)*(\S+)", read(root / dockerfile)
    )
    names = [name.removeprefix("./") for name in copied if re.fullmatch(r"[\w./-]+", name)]
    missing = [name for name in names if not (root / name).exists()]
    available = all((root / own / name).exists() for name in names)
    return str(own) if missing and available else "."


def _files(directory: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(directory.iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.is_symlink() or entry.name in _NOT_SOURCE:
            continue
        if entry.is_dir():
            if depth:
                yield from _files(entry, depth - 1)
        elif not entry.name.endswith(".dockerignore"):
            yield entry


def _parts(root: Path, dockerfiles: tuple[str, ...]) -> Iterator[str]:
    """Directories of a monorepo that are separate projects."""
    directories = {str(Path(path).parent) for path in dockerfiles} - {"."}
    try:
        package = json.loads(read(root / "package.json") or "{}")
    except ValueError:
        package = {}
    spaces = package.get("workspaces", []) if isinstance(package, dict) else []
    patterns = spaces.get("packages", []) if isinstance(spaces, dict) else spaces
    patterns = [*patterns] if isinstance(patterns, list) else []
    patterns += re.findall(r"(?m)^\s*-\s*['\"]?([\w./*-]+)", read(root / "pnpm-workspace.yaml"))
    patterns += re.findall(r"(?m)^\s*(?:use\s+)?(\./[\w./-]+)", read(root / "go.work"))
    for text in patterns:
        if isinstance(text, str) and not text.startswith(("!", "/")) and ".." not in text:
            directories |= {
                str(path.relative_to(root))
                for path in root.glob(text.removeprefix("./"))
                if path.is_dir()
            }
    yield from sorted(directories)


def _ci(root: Path) -> Iterator[str]:
    workflows = sorted((root / ".github/workflows").glob("*.y*ml"))
    yield from (str(path.relative_to(root)) for path in workflows)
    yield from (name for name in _CI if (root / name).is_file())


def _remote(root: Path) -> str:
    """The URL of origin in .git/config; empty in a linked worktree."""
    section = re.search(r'(?ms)^\[remote "origin"\]\n(.*?)(?=^\[|\Z)', read(root / ".git/config"))
    match = re.search(r"(?m)^\s*url\s*=\s*(\S+)", section[1]) if section else None
    return match[1] if match else ""
