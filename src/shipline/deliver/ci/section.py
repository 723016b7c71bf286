"""The section `ci` of shipline.yaml: runners, secrets, and installation in generated CI."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from shipline.errors import ConfigError

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@dataclass(frozen=True, slots=True)
class CiSection:
    """How `shipline ci github` and `shipline ci gitlab` write their file."""

    branches: tuple[str, ...] = field(
        default=("main", "develop", "feature/**"),
        metadata={"doc": "Branches whose pushes are released, as patterns of the CI system."},
    )
    tags: tuple[str, ...] = field(
        default=("v*",), metadata={"doc": "Git tags that are released, as patterns."}
    )
    install: str = field(
        default="",
        metadata={"doc": "What pip installs to get shipline; by default the commit that writes."},
    )
    setup: tuple[str, ...] = field(
        default=(),
        metadata={
            "doc": "Commands before the steps, as `npm ci`; by default found in the project."
        },
    )
    runners: Mapping[str, str | tuple[str, ...]] = field(
        default_factory=dict,
        metadata={"doc": "Runners by platform: a GitHub label or several, or a GitLab tag."},
    )
    release_setup: tuple[str, ...] = field(
        default=(),
        metadata={"doc": "Commands before the steps that look at the image: install a scanner."},
    )
    timeout_minutes: int = field(default=30, metadata={"doc": "After which a job is stopped."})
    environment: str = field(
        default="release", metadata={"doc": "The environment that holds the secrets of a release."}
    )
    username: str = field(
        default="REGISTRY_USERNAME",
        metadata={"doc": "The CI variable with the user of the registry."},
    )
    password: str = field(
        default="REGISTRY_PASSWORD",
        metadata={"doc": "The CI secret with the password or token of the registry."},
    )
    key: str = field(
        default="COSIGN_PRIVATE_KEY",
        metadata={"doc": "The CI secret with the private key that signs."},
    )
    secrets: tuple[str, ...] = field(
        default=(), metadata={"doc": "Further CI secrets that the build reads as variables."}
    )
    login: tuple[str, ...] = field(
        default=(),
        metadata={"doc": "Commands that log in to the registries, in place of user and password."},
    )
    oidc_audience: str = field(
        default="",
        metadata={"doc": "Gives these commands an identity token, for whom it is."},
    )
    pins: str = field(
        default="", metadata={"doc": "A pin file with commits of actions, relative to this file."}
    )

    def __post_init__(self) -> None:
        for name in (self.username, self.password, self.key, *self.secrets):
            if not _VARIABLE.match(name):
                raise ConfigError(f"{name!r} is not the name of a variable")
        if not 1 <= self.timeout_minutes <= 360:
            raise ConfigError("timeout-minutes is a number from 1 to 360")
        if self.oidc_audience and not self.login:
            raise ConfigError("oidc-audience: needs commands in login that use the token")
        if not self.branches and not self.tags:
            raise ConfigError("branches and tags are both empty: nothing would ever be released")
