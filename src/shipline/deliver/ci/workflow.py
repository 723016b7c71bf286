"""What shipline.yaml means for CI: its section `ci`, and the jobs, logins and variables of a
workflow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from shipline.deliver.environments import Environments
from shipline.deliver.project import Toolchain
from shipline.errors import ConfigError
from shipline.values import doc

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@dataclass(frozen=True, slots=True)
class CiSection:
    """How `shipline ci github` and `shipline ci gitlab` generate workflows."""

    branches: tuple[str, ...] = field(
        default=("main", "master", "develop", "feature/**"),
        metadata=doc("Branches whose pushes are released, as patterns of the CI system."),
    )
    tags: tuple[str, ...] = field(
        default=("v*",), metadata=doc("Git tags that are released, as patterns.")
    )
    install: str = field(
        default="",
        metadata=doc("What pip installs to get shipline; by default this shipline's commit."),
    )
    setup: tuple[str, ...] = field(
        default=(), metadata=doc("Commands before the steps, such as npm ci; by default detected.")
    )
    runners: Mapping[str, str | tuple[str, ...]] = field(
        default_factory=dict,
        metadata=doc("Runners by platform: a GitHub label or several, or a GitLab tag."),
    )
    release_setup: tuple[str, ...] = field(
        default=(), metadata=doc("Commands before steps that inspect the image: install a scanner.")
    )
    timeout_minutes: int = field(default=30, metadata=doc("Time limit of each job."))
    environment: str = field(
        default="release", metadata=doc("The environment with the secrets of a release.")
    )
    username: str = field(
        default="REGISTRY_USERNAME", metadata=doc("The CI variable with the user of the registry.")
    )
    password: str = field(
        default="REGISTRY_PASSWORD",
        metadata=doc("The CI secret with the password or token of the registry."),
    )
    key: str = field(
        default="COSIGN_PRIVATE_KEY", metadata=doc("The CI secret with the private key that signs.")
    )
    secrets: tuple[str, ...] = field(
        default=(), metadata=doc("Further CI secrets that the build reads as variables.")
    )
    login: tuple[str, ...] = field(
        default=(),
        metadata=doc("Commands that log in to the registries, instead of user and password."),
    )
    oidc_audience: str = field(
        default="", metadata=doc("The audience of an identity token for these commands.")
    )
    pins: str = field(
        default="", metadata=doc("A pin file with commits of actions, relative to this file.")
    )

    def __post_init__(self) -> None:
        for name in (self.username, self.password, self.key, *self.secrets):
            if not _VARIABLE.match(name):
                raise ConfigError(f"{name!r} is not the name of a variable")
        if not 1 <= self.timeout_minutes <= 360:
            raise ConfigError("timeout-minutes must be a number from 1 to 360")
        if self.oidc_audience and not self.login:
            raise ConfigError("oidc-audience: requires commands in login that use the token")
        if not self.branches and not self.tags:
            raise ConfigError("branches and tags are both empty: nothing would be released")


STATE = ("content", "toc", "cache.db")
"""The parts of the state directory that CI caches: layers, their tables, the build cache."""

_CACHE_FLAGS = ("--cache-from", "--cache-to")
_UNREAD = re.compile(r"unread-((?:[0-9a-f]{2})+)-unread")


class Unread(Mapping[str, str]):
    """An environment in which each variable is a placeholder, to be read when the job runs. The
    placeholder is valid in a reference, so that a configuration can be decoded with it.
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
class SigningSecret:
    """The CI secret with the private key, and the file to write it to; empty if the key is read
    from the variable.
    """

    secret: str
    file: str = ""


@dataclass(frozen=True, slots=True)
class Workflow:
    """`image` is a repository without a tag, `shipline` the requirement for pip; `without` are
    settings that only shipline supports. `tests` are steps that need no image, `reports` the files
    they write, as shell patterns. `build` are flags of `shipline build`, in which variables may be
    unread, `variables` the secrets that the build reads; `context` ends the command. Several
    `targets` are built as `shipline ship` does. `logins` begin with those of the images, of which
    there are `registries`.
    """

    image: str
    shipline: str
    platforms: tuple[str, ...] = ("linux/amd64",)
    tests: tuple[str, ...] = ()
    reports: tuple[str, ...] = ()
    build: tuple[str, ...] = ()
    context: str = "."
    targets: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    logins: tuple[Login, ...] = ()
    registries: int = 1
    signing: SigningSecret | None = None
    without: tuple[str, ...] = ()
    toolchain: Toolchain | None = None
    environments: Environments = field(default_factory=dict)
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

    @property
    def actions_cache(self) -> bool:
        """Whether the build keeps its cache in that of GitHub Actions."""
        flags = zip(self.build, self.build[1:], strict=False)
        return any("type=gha" in text.split(",") for flag, text in flags if flag in _CACHE_FLAGS)


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
    """The Debian packages that a build for `platform` needs on a runner."""
    return ("crun", "uidmap", *(() if native_runner(platform) else ("qemu-user-static",)))


def quoted(word: str) -> str:
    """The text quoted for a POSIX shell, in which only placeholders of variables are expanded."""
    if re.fullmatch(r"[\w@%+=:,./-]+", word) and not _UNREAD.search(word):
        return word
    text = re.sub(r'[\\"`$]', lambda match: "\\" + match[0], word)
    return f'"{with_variables(text, "${{{}}}".format)}"'


def pattern(path: str) -> str:
    """A shell pattern for a script: unquoted if that is safe, else the literal path."""
    return path if re.fullmatch(r"[\w@%+=:,./*?-]+", path) else quoted(path)
