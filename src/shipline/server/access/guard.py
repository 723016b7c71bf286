"""What stands in front of every handler and says who asks."""

from __future__ import annotations

from typing import Protocol

from shipline.server.http import Need, Request
from shipline.server.identity import ANYONE, Identity


class Guard(Protocol):
    def admit(self, request: Request, need: Need, name: str) -> Identity:
        """Who asks, if that one may have what the route needs of repository `name`.

        Raises Problem 401 with challenges while nobody says who asks, 403 for one who may not.
        """


class OpenGuard:
    """Lets everybody do everything: a node without accounts."""

    def admit(self, request: Request, need: Need, name: str) -> Identity:
        return ANYONE
