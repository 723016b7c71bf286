"""What a client asks a token for (distribution, "Token Scope Documentation")."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Self

from shipline.oci import InvalidReference, check_repository

_TYPE = re.compile(r"[a-z0-9]+(?:\([a-z0-9]+\))?")
_LIMIT = 50  # resources in one token


@dataclass(frozen=True, slots=True)
class Scope:
    """Actions on one resource, as in `repository:samalba/my-app:pull,push`."""

    type: str
    name: str
    actions: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None for what is no scope: an unknown resource grants nothing and is no error.

        The name may hold a colon, as in host:port/name.
        """
        kind, _, rest = text.partition(":")
        name, _, actions = rest.rpartition(":")
        if not name or not _TYPE.fullmatch(kind):
            return None
        return cls(kind.partition("(")[0], name, frozenset(actions.split(",")) - {""})

    def to_json(self) -> dict[str, Any]:
        """A member of a token's `access` claim."""
        return {"type": self.type, "name": self.name, "actions": sorted(self.actions)}

    def __str__(self) -> str:
        return f"{self.type}:{self.name}:{','.join(sorted(self.actions))}"


def is_repository(name: str) -> bool:
    """Nothing else is signed, or put into a header."""
    try:
        check_repository(name)
    except InvalidReference:
        return False
    return True


def parse_scopes(texts: list[str]) -> list[Scope]:
    """The scopes of a request: the parameter may repeat, and one may hold several by blanks."""
    merged: dict[tuple[str, str], Scope] = {}
    for text in " ".join(texts).split()[:_LIMIT]:
        scope = Scope.parse(text)
        if scope is None:
            continue
        before = merged.get((scope.type, scope.name))
        actions = scope.actions | (before.actions if before else frozenset())
        merged[scope.type, scope.name] = Scope(scope.type, scope.name, actions)
    return list(merged.values())


def read_access(access: list[Any]) -> dict[tuple[str, str], frozenset[str]]:
    """The `access` claim of a verified token: actions by resource."""
    return {
        (entry["type"], entry["name"]): frozenset(entry["actions"])
        for entry in access
        if isinstance(entry, dict)
    }
