"""Which build checks run: the `check` directive and its like above an instruction.

Source: Docker manual, "Build checks", `# check=skip=A,B;error=true;experimental=C`.
"""

from __future__ import annotations

from dataclasses import dataclass

from shipline.errors import DockerfileError

_TRUE = frozenset({"1", "t", "true"})
_FALSE = frozenset({"0", "f", "false"})
EXPERIMENTAL = frozenset({"InvalidDefinitionDescription"})
_ALL = "all"


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


def _boolean(text: str) -> bool:
    if text.lower() not in _TRUE | _FALSE:
        raise DockerfileError(
            f'failed to parse check option "error={text}"', hint="write error=true"
        )
    return text.lower() in _TRUE
