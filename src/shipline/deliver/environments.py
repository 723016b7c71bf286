"""The section `environments` of shipline.yaml: where each environment is described in git, and what
an image needs to get there.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from shipline.deliver.canary import CanarySection
from shipline.deliver.gitops import GitOpsSection
from shipline.deliver.health import CheckSection, HealthSection
from shipline.deliver.windows import Freeze, Window
from shipline.errors import ConfigError, UsageError
from shipline.units import Duration
from shipline.values import doc

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Approvals:
    """Who must approve an image, by commits in the GitOps repository."""

    required: int = field(
        default=1, metadata=doc("How many different people must approve the same digest.")
    )
    by: tuple[str, ...] = field(
        default=(),
        metadata=doc("Their email addresses in git, also as globs; by default anybody's."),
    )
    allow_author: bool = field(
        default=False,
        metadata=doc("Whether the author of the commit that was built may approve it."),
    )
    signers: str = field(
        default="",
        metadata=doc(
            "A file of allowed signers (ssh-keygen) next to this one: only commits signed by"
            " the approver's own key count."
        ),
    )

    def __post_init__(self) -> None:
        if self.required < 1:
            raise ConfigError("required: at least one person must approve")
        plain = {address.lower() for address in self.by}
        if self.by and not any("*" in address for address in plain) and len(plain) < self.required:
            raise ConfigError(f"by: names {len(plain)} people, and {self.required} must approve")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequiredGates:
    """Gates whose verdicts on the image must be there."""

    required: tuple[str, ...] = field(
        default=(), metadata=doc("The names of gates that must have judged this digest.")
    )
    max_age: Duration | None = field(
        default=None, metadata=doc("The maximum age of their verdicts.")
    )

    def __post_init__(self) -> None:
        if self.max_age and not self.required:
            raise ConfigError("max-age: needs `required`, the gates whose verdicts age")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentSection:
    """An environment that images are deployed to."""

    gitops: GitOpsSection = field(metadata=doc("Where it is described in git."))
    after: str = field(
        default="",
        metadata=doc("The environment in which a digest must have been verified before."),
    )
    branches: tuple[str, ...] = field(
        default=(),
        metadata=doc(
            "The branches that `shipline ship` deploys to it, as patterns; by default the"
            " default branch. Git tags are always deployed."
        ),
    )
    promotion: Literal["auto", "manual"] | None = field(
        default=None,
        metadata=doc(
            "Whether `shipline ship` promotes to it, or a person does; by default auto, with"
            " `approvals` once they are given."
        ),
    )
    approvals: Approvals | None = field(default=None, metadata=doc("Who must approve."))
    gates: RequiredGates = field(
        default_factory=RequiredGates, metadata=doc("Verdicts that must be there.")
    )
    soak: Duration | None = field(
        default=None, metadata=doc("How long ago the digest must have been verified in `after`.")
    )
    windows: tuple[Window, ...] = field(
        default=(), metadata=doc("When promotions are made; by default at any time.")
    )
    freezes: tuple[Freeze, ...] = field(default=(), metadata=doc("When no promotions are made."))
    health: HealthSection | None = field(
        default=None, metadata=doc("Where it can be seen what runs, and whether it is healthy.")
    )
    checks: Mapping[str, str | CheckSection] = field(
        default_factory=dict,
        metadata=doc(
            "What must pass once the image runs, in this order: scripts or mappings by name."
        ),
    )
    canary: CanarySection | None = field(
        default=None,
        metadata=doc("Give a new version its traffic step by step, while it is measured."),
    )

    @property
    def checked(self) -> bool:
        """Whether what is deployed is verified by health or checks, not by being there."""
        return self.health is not None or bool(self.checks)

    @property
    def tests(self) -> Mapping[str, CheckSection]:
        """The checks, each as a section."""
        return {
            name: CheckSection(run=check) if isinstance(check, str) else check
            for name, check in self.checks.items()
        }

    def unknown_gates(self, name: str, known: Container[str]) -> Iterator[str]:
        """A line for each check of the environment `name` whose gate is not among the known."""
        for check_name, check in self.tests.items():
            if isinstance(check.gate, str) and check.gate not in known:
                place = f"environments.{name}.checks.{check_name}.gate"
                yield f"{place}: there is no gate {check.gate!r}"

    def __post_init__(self) -> None:
        for name in self.checks:
            if not _NAME.match(name):
                raise ConfigError(f"checks: {name!r} is not a name of letters, digits, . _ and -")
        if self.canary and self.gitops.pull_request:
            raise ConfigError("canary: weights are pushed: it cannot be used with `pull-request`")
        if self.soak and not self.after:
            raise ConfigError("soak: needs `after`, the environment in which time is counted")


Environments = Mapping[str, EnvironmentSection]
"""The environments by name."""


def in_order(environments: Environments) -> list[str]:
    """The names of the environments, each after the one that it comes after."""
    names: list[str] = []

    def add(name: str) -> None:
        if name and name not in names:
            add(environments[name].after)
            names.append(name)

    for name in environments:
        add(name)
    return names


def named_environment(environments: Environments, name: str) -> EnvironmentSection:
    """The section of an environment. Raises ConfigError if there are none, UsageError."""
    require_environments(environments)
    if name not in environments:
        raise UsageError(
            f"there is no environment {name!r}: {', '.join(environments)}",
            code="environment-unknown",
        )
    return environments[name]


def require_environments(environments: Environments) -> None:
    """Raises ConfigError if there are none."""
    if not environments:
        raise ConfigError(
            "shipline.yaml has no environments",
            code="environments-none",
            hint="add environments.NAME.gitops with the repository and its updates",
        )


def require_chain(environments: Environments) -> None:
    """Raises ConfigError for bad names, unless each `after` names an environment, and if one comes
    after itself.
    """
    for name, section in environments.items():
        if not _NAME.match(name):
            raise ConfigError(f"environments: {name!r} is not a name of letters, digits, . _ and -")
        if name == "publish":
            raise ConfigError("environments: publish is the step before the first environment")
        seen = [name]
        while after := section.after:
            if after not in environments:
                raise ConfigError(
                    f"environments.{seen[-1]}.after: there is no environment {after!r}"
                )
            if after in seen:
                raise ConfigError(
                    f"environments.{seen[-1]}.after: {after} comes after itself:"
                    f" {' after '.join([*seen, after])}"
                )
            seen.append(after)
            section = environments[after]
