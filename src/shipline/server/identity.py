"""Who asks, as the handlers of a request see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Action = Literal["pull", "push", "update", "delete"]
"""`push` brings content and names that are new, `update` moves a tag that is there."""

Kind = Literal["anonymous", "user", "robot"]
May = Callable[[Action, str, str], bool]


@dataclass(frozen=True, slots=True)
class Identity:
    """An account for the length of one request, limited to what its credentials allow.

    `name` is the login name, empty for nobody; `operator` may see and do everything that concerns
    the node as a whole.
    """

    name: str
    kind: Kind
    rights: May
    operator: bool = False
    account: May | None = None  # rights of the account, where these credentials have less
    stamp: str = field(default="", repr=False)  # another one once the account's secrets changed

    def may(self, action: Action, repository: str, tag: str = "") -> bool:
        """Whether the action is allowed; with `tag`, for that name of a manifest."""
        return self.rights(action, repository, tag)

    def could(self, action: Action, repository: str) -> bool:
        """Whether the account is allowed to, whatever these credentials are limited to."""
        return (self.account or self.rights)(action, repository, "")

    @property
    def actor(self) -> str:
        """The name for records: what did this."""
        return self.name or "anonymous"


def _everything(action: Action, repository: str, tag: str) -> bool:
    return True


def _nothing(action: Action, repository: str, tag: str) -> bool:
    return False


ANYONE = Identity("", "anonymous", _everything, operator=True)
"""Everybody, at a node without accounts."""

NOBODY = Identity("", "anonymous", _nothing)
"""A request that nobody has looked at yet: it may do nothing."""
