"""Which build checks run: the `check` directive and its like above an instruction.

Source: Docker manual, "Build checks", `# check=skip=A,B;error=true;experimental=C`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from shipline.errors import DockerfileError

_TRUE = frozenset({"1", "t", "true"})
_FALSE = frozenset({"0", "f", "false"})
EXPERIMENTAL = frozenset({"InvalidDefinitionDescription"})
_ALL = "all"
_WORD = re.compile("(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
DESCRIPTIONS = {
    "StageNameCasing": "Stage names should be lowercase",
    "FromAsCasing": "The 'as' keyword should match the case of the 'from' keyword",
    "NoEmptyContinuation": "Empty continuation lines will become errors in a future release",
    "ConsistentInstructionCasing": "All commands within the Dockerfile should use the same casing "
    "(either upper or lower)",
    "DuplicateStageName": "Stage names should be unique",
    "ReservedStageName": "Reserved words should not be used as stage names",
    "JSONArgsRecommended": "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended "
    "behavior related to OS signals",
    "MaintainerDeprecated": "The MAINTAINER instruction is deprecated, use a label instead to "
    "define an image author",
    "UndefinedArgInFrom": "FROM command must use declared ARGs",
    "WorkdirRelativePath": "Relative workdir without an absolute workdir declared within the build "
    "can have unexpected results if the base image changes",
    "UndefinedVar": "Variables should be defined before their use",
    "MultipleInstructionsDisallowed": "Multiple instructions of the same type should not be used "
    "in the same stage",
    "LegacyKeyValueFormat": "Legacy key/value format with whitespace separator should not be used",
    "InvalidBaseImagePlatform": "Base image platform does not match expected target platform",
    "RedundantTargetPlatform": "Setting platform to predefined $TARGETPLATFORM in FROM is "
    "redundant as this is the default behavior",
    "SecretsUsedInArgOrEnv": "Sensitive data should not be used in the ARG or ENV commands",
    "InvalidDefaultArgInFrom": "Default value for global ARG results in an empty or invalid base "
    "image name",
    "FromPlatformFlagConstDisallowed": "FROM --platform flag should not use a constant value",
    "CopyIgnoredFile": "Attempting to Copy file that is excluded by .dockerignore",
    "InvalidDefinitionDescription": "Comment for build stage or argument should follow the format: "
    "`# <arg/stage name> <description>`. If this is not intended to be a description comment, add "
    "an empty line or comment between the instruction and the comment.",
    "ExposeProtoCasing": "Protocol in EXPOSE instruction should be lowercase",
    "ExposeInvalidFormat": "IP address and host-port mapping should not be used in EXPOSE "
    "instruction. This will become an error in a future release",
}
"""What each rule asks for, in BuildKit's words."""


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """Rule names to skip or, of the experimental ones, to run; `all` stands for every rule.

    `error` makes a warning fail the build.
    """

    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error: bool = False

    @classmethod
    def parse(cls, text: str) -> CheckOptions:
        """Raises DockerfileError for an option that is not known."""
        lists: dict[str, frozenset[str]] = {}
        error = False
        for part in filter(None, (part.strip() for part in text.split(";"))):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or key not in ("skip", "experimental", "error"):
                raise DockerfileError(
                    f'invalid check option "{key}"',
                    hint="write # check=skip=Rule,Rule;error=true;experimental=Rule",
                )
            if key == "error":
                error = _boolean(value)
            else:
                lists[key] = frozenset(name.strip() for name in value.split(","))
        none: frozenset[str] = frozenset()
        return cls(lists.get("skip", none), lists.get("experimental", none), error)

    def runs(self, rule: str) -> bool:
        if rule in EXPERIMENTAL and not self.experimental & {_ALL, rule}:
            return False
        return not self.skip & {_ALL, rule}

    def merged(self, other: CheckOptions) -> CheckOptions:
        """These options with those of a comment, which add to them, for one instruction."""
        return CheckOptions(
            self.skip | other.skip, self.experimental | other.experimental, self.error
        )


def rule_url(rule: str) -> str:
    """The page about a rule in the Docker manual."""
    name = _WORD.sub("-", rule).lower()
    return f"https://docs.docker.com/go/dockerfile/rule/{name}/"


def _boolean(text: str) -> bool:
    if text.lower() not in _TRUE | _FALSE:
        raise DockerfileError(
            f'failed to parse check option "error={text}"', hint="write error=true"
        )
    return text.lower() in _TRUE
