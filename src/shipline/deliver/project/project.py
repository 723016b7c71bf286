"""The result of project detection: language, install commands, checks and tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["node", "python", "go"]
_LIMIT = 4 << 20  # bytes of a file that is looked at


@dataclass(frozen=True, slots=True)
class Toolchain:
    """How CI sets up a language: its version is in `file`, else `version`. `setup` are commands
    that install what the project's own commands need.
    """

    kind: Kind
    version: str
    file: str = ""
    setup: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return {"node": "Node.js", "python": "Python", "go": "Go"}[self.kind]


@dataclass(frozen=True, slots=True)
class ProjectCheck:
    """A command of the project and its reports, by gate."""

    name: str
    run: str
    reports: tuple[tuple[str, str], ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Language:
    """A project as the files of one language describe it. Commands are empty if they are unknown.

    `manager` installs the dependencies, and `getting` is the command that installs the manager, if
    the toolchain does not include it. `start` runs the program, `build` builds it, `site` is the
    directory of the static site that `build` writes.

    `needs` is whether the program needs anything installed to run, `locked` whether a file fixes
    the versions of dependencies, `listed` whether pyproject.toml lists them, `installs` whether the
    project itself is installed as a package, `versioned` whether its version comes from git.
    """

    toolchain: Toolchain
    manager: str
    checks: tuple[ProjectCheck, ...] = ()
    start: tuple[str, ...] = ()
    name: str = ""
    locked: bool = True
    needs: bool = True
    build: str = ""
    site: str = ""
    installs: bool = False
    listed: bool = False
    versioned: bool = False
    getting: str = ""


@dataclass(frozen=True, slots=True)
class DetectedProject:
    """A directory of source. `dockerfiles` are those of images that could be shipped, relative, the
    one at the top first, and `contexts` what each is built from; `site` is the directory of a
    static site; `ci` are files of CI systems; `parts` are the directories of a
    monorepo; `remote` is where git pushes, or empty.
    """

    name: str
    language: Language | None = None
    dockerfiles: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()
    site: str = ""
    has_dockerignore: bool = False
    has_gitignore: bool = False
    parts: tuple[str, ...] = ()
    ci: tuple[str, ...] = ()
    remote: str = ""
    ignores_reports: bool = False


def read(path: Path) -> str:
    """The text of a file; empty if it is missing, too large, or not text."""
    try:
        with path.open("rb") as file:
            raw = file.read(_LIMIT + 1)
        return raw.decode() if len(raw) <= _LIMIT else ""
    except (OSError, UnicodeDecodeError):
        return ""


def first_line(path: Path) -> str:
    """The first non-empty line, as in .nvmrc."""
    return next((line.strip() for line in read(path).splitlines() if line.strip()), "")
