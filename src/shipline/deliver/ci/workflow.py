"""The input of generated CI files: image, platforms, checks and secrets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from shipline.deliver.ci.section import CiSection
from shipline.deliver.project import Toolchain

STATE = ("content", "toc", "cache.db")
"""What is worth keeping of the state directory: layers, their tables, what came out of what."""

_UNREAD = re.compile(r"unread-((?:[0-9a-f]{2})+)-unread")


class Unread(Mapping[str, str]):
    """An environment in which each variable stands for itself: to be read when the job runs.

    What stands for it is legal in a reference, so that a configuration can be decoded with it.
    """

    def __getitem__(self, name: str) -> str:
        return f"unread-{name.encode().hex()}-unread"

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def with_variables(text: str, form: Callable[[str], str]) -> str:
    """`text` with each unread variable replaced by `form`."""
    return _UNREAD.sub(lambda match: form(bytes.fromhex(match[1]).decode()), text)


@dataclass(frozen=True, slots=True)
class Login:
    """A registry, and the names of the CI secrets with its credentials."""

    host: str
    username: str
    password: str


@dataclass(frozen=True, slots=True)
class Signing:
    """The CI secret with the private key, and the file where the chain expects it; no file where
    it reads the variable of the secret's name.
    """

    secret: str
    file: str = ""


@dataclass(frozen=True, slots=True)
class Workflow:
    """`image` is a repository without tag, `shipline` what pip installs to get this program;
    `without` is what shipline.yaml asks for and only shipline can do. `tests` are steps that need
    no image, `reports` the files they write, as shell patterns. `build` are flags of `shipline
    build`, in which variables may be unread, `variables` the secrets that the build reads;
    `context` ends the command. `logins` begin with that of the image.
    """

    image: str
    shipline: str
    platforms: tuple[str, ...] = ("linux/amd64",)
    tests: tuple[str, ...] = ()
    reports: tuple[str, ...] = ()
    build: tuple[str, ...] = ()
    context: str = "."
    variables: tuple[str, ...] = ()
    logins: tuple[Login, ...] = ()
    signing: Signing | None = None
    without: tuple[str, ...] = ()
    toolchain: Toolchain | None = None
    section: CiSection = field(default_factory=CiSection)

    @property
    def install(self) -> str:
        """The requirement for pip."""
        return self.section.install or self.shipline

    @property
    def setup(self) -> tuple[str, ...]:
        """Commands before the tests."""
        return self.section.setup or (self.toolchain.setup if self.toolchain else ())

    @property
    def findings(self) -> tuple[str, ...]:
        """The reports in SARIF."""
        return tuple(path for path in self.reports if path.endswith((".sarif", ".sarif.json")))


def slug(platform: str) -> str:
    """A platform as part of a file name."""
    return platform.replace("/", "-")


def native_runner(platform: str) -> str | None:
    """The GitHub runner with this platform; None if there is none."""
    return {
        "linux/amd64": "ubuntu-24.04",
        "linux/386": "ubuntu-24.04",
        "linux/arm64": "ubuntu-24.04-arm",
        "linux/arm64/v8": "ubuntu-24.04-arm",
    }.get(platform)


def packages(platform: str) -> tuple[str, ...]:
    """Debian packages that a build for `platform` needs on a runner."""
    return ("crun", "uidmap", *(() if native_runner(platform) else ("qemu-user-static",)))


def quoted(word: str) -> str:
    """A word for a POSIX shell in which only unread variables are still replaced."""
    if re.fullmatch(r"[\w@%+=:,./-]+", word) and not _UNREAD.search(word):
        return word
    text = re.sub(r'[\\"`$]', lambda match: "\\" + match[0], word)
    return f'"{with_variables(text, "${{{}}}".format)}"'


def pattern(path: str) -> str:
    """A shell pattern for a script: unquoted if that is safe, else the literal path."""
    return path if re.fullmatch(r"[\w@%+=:,./*?-]+", path) else quoted(path)
