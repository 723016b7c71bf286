"""What a token may be used for (distribution: auth/scope)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

Scopes = tuple["Scope", ...]


@dataclass(frozen=True, slots=True, order=True)
class Scope:
    """`type:name:actions`, with the actions sorted."""

    type: str
    name: str
    actions: frozenset[str]

    @classmethod
    def repository(cls, name: str, *actions: str) -> Self:
        return cls("repository", name, frozenset(actions))

    @classmethod
    def parse_all(cls, text: str) -> tuple[Self, ...]:
        """Read a list separated by spaces, leaving out what is no scope.

        A name may contain a colon, so the first and the last one count.
        """
        found = []
        for piece in text.split():
            kind, colon, rest = piece.partition(":")
            name, second, actions = rest.rpartition(":")
            if colon and second and name:
                kind = kind.partition("(")[0]
                found.append(cls(kind, name, frozenset(filter(None, actions.split(",")))))
        return tuple(found)

    def __str__(self) -> str:
        order = sorted(self.actions, key=lambda action: (action == "push", action))
        return f"{self.type}:{self.name}:{','.join(order)}"


def covers(granted: Scopes, wanted: Scopes) -> bool:
    """Whether a token for `granted` can be used where `wanted` is needed."""
    have = {(scope.type, scope.name): scope.actions for scope in granted}
    return all(scope.actions <= have.get((scope.type, scope.name), frozenset()) for scope in wanted)


def union(first: Scopes, second: Scopes) -> Scopes:
    """One scope per resource, in the order in which resources are first named."""
    found: dict[tuple[str, str], frozenset[str]] = {}
    for scope in (*first, *second):
        key = (scope.type, scope.name)
        found[key] = found.get(key, frozenset()) | scope.actions
    return tuple(Scope(kind, name, actions) for (kind, name), actions in found.items())
