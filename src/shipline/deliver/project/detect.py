"""A look at a directory: which project this is. Reads files, runs nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from shipline.deliver.project.node import node
from shipline.deliver.project.project import Language, Project, ProjectCheck, Toolchain, read
from shipline.deliver.project.python import python

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


def _checks(root: Path) -> list[ProjectCheck]:
    checks = [ProjectCheck("vet", "go vet ./...")]
    if any((root / name).is_file() for name in _GOLANGCI):
        run = "mkdir -p reports\ngolangci-lint run --output.sarif.path reports/golangci.sarif"
        checks.append(ProjectCheck("lint", run, (("analysis", "reports/golangci.sarif"),)))
    run = "mkdir -p reports\ngo test -coverprofile reports/cover.out ./..."
    return [*checks, ProjectCheck("test", run, (("coverage", "reports/cover.out"),))]


def _main(root: Path) -> tuple[str, ...]:
    """The package with the program, at the top or the first below cmd; none of a library."""
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
_DEPTH = 3  # directories below the top in which Dockerfiles are looked for
_NOT_SHIPPED = re.compile(
    r"(?i)(.*[-_.])?(tests?|testdata|testing|e2e|fixtures?|examples?|samples?|demos?|docs?|bench"
    r"|benchmarks?|ci|dev|devcontainer|debug|local|hack|github)"
)
"""Directories, and ends of names, of Dockerfiles that make no image to ship."""
_SITES = (".", "public", "site", "www", "html")


def detect(root: Path) -> Project:
    """What is in `root`; a directory without anything known is a project without language."""
    language = node(root) or go(root) or python(root)
    dockerfiles = tuple(_dockerfiles(root))
    return Project(
        name=_legal(language.name if language else "") or _legal(root.resolve().name) or "app",
        language=language,
        dockerfiles=dockerfiles,
        context=_context(root, dockerfiles[0]) if dockerfiles else ".",
        site=next((one for one in _SITES if (root / one / "index.html").is_file()), ""),
        has_dockerignore=(root / ".dockerignore").is_file(),
        has_gitignore=(root / ".gitignore").is_file(),
        parts=tuple(_parts(root, dockerfiles)),
        ci=tuple(_ci(root)),
        remote=_remote(root),
        ignores_reports=bool(re.search(r"(?m)^/?reports/?$", read(root / ".gitignore"))),
    )


def guess_image(project: Project) -> str | None:
    """The repository that the registry beside the git server has; None where that is not known."""
    found = re.search(
        r"(?:@|//(?:[^@/]+@)?)([\w.-]+)(?::\d+)?[:/]+(.+?)(?:\.git)?/?\Z", project.remote
    )
    if found is None:
        return None
    host, path = found[1].lower(), "/".join(map(_legal, found[2].split("/")))
    registry = {"github.com": "ghcr.io", "gitlab.com": "registry.gitlab.com"}.get(host)
    return f"{registry}/{path}" if registry and path else None


def _legal(name: str) -> str:
    """A name as part of a repository (distribution specification, "Pulling manifests")."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _dockerfiles(root: Path) -> Iterator[str]:
    found = [path.relative_to(root) for path in _files(root, _DEPTH)]
    shipped = [path for path in found if _is_dockerfile(path)]
    yield from (str(path) for path in sorted(shipped, key=lambda one: (len(one.parts), str(one))))


def _is_dockerfile(path: Path) -> bool:
    """Whether it makes an image that could be shipped: none for tests or for development."""
    kind = re.fullmatch(r"(?:Docker|Container)file(\..+)?", path.name)
    told = (*path.parts[:-1], (kind[1] or ".")[1:]) if kind else ()
    return bool(kind) and not any(_NOT_SHIPPED.fullmatch(part) for part in told)


def _context(root: Path, dockerfile: str) -> str:
    """Where the files that the Dockerfile copies are: its own directory, or the top."""
    own = Path(dockerfile).parent
    copied = re.findall(
        r"(?mi)^\s*(?:COPY|ADD)\s+(?!.*--from)(?:--\S+\s+)*(\S+)", read(root / dockerfile)
    )
    names = [name.removeprefix("./") for name in copied if re.fullmatch(r"[\w./-]+", name)]
    missing = [name for name in names if not (root / name).exists()]
    here = all((root / own / name).exists() for name in names)
    return str(own) if missing and here else "."


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
    """Directories that are projects of their own, by the ways a monorepo says so."""
    found = {str(Path(one).parent) for one in dockerfiles} - {"."}
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
            found |= {
                str(one.relative_to(root))
                for one in root.glob(text.removeprefix("./"))
                if one.is_dir()
            }
    yield from sorted(found)


def _ci(root: Path) -> Iterator[str]:
    workflows = sorted((root / ".github/workflows").glob("*.y*ml"))
    yield from (str(path.relative_to(root)) for path in workflows)
    yield from (name for name in _CI if (root / name).is_file())


def _remote(root: Path) -> str:
    """The URL of origin, as .git/config has it; a worktree's is not looked for."""
    section = re.search(r'(?ms)^\[remote "origin"\]\n(.*?)(?=^\[|\Z)', read(root / ".git/config"))
    found = re.search(r"(?m)^\s*url\s*=\s*(\S+)", section[1]) if section else None
    return found[1] if found else ""
