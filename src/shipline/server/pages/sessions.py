"""Who is logged in to the page: random names in a cookie, known to this process alone."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass

from shipline.server.http import Principal

COOKIE = "shipline_session"
LIFETIME_S = 12 * 3600.0
_MOST = 10_000  # sessions; the oldest goes first


@dataclass(frozen=True, slots=True)
class LoginSession:
    """Whose it is, the stamp of the account's secrets when it began, and its end in Unix time."""

    account: str
    stamp: str
    until: float


class LoginSessions:
    """A restart of the node ends all of them. Safe to use from any thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[bytes, LoginSession] = {}

    def begin(self, identity: Principal) -> str:
        """A new session for an account whose password was right; returns the cookie's value."""
        session = secrets.token_urlsafe(32)
        with self._lock:
            while len(self._known) >= _MOST:
                del self._known[next(iter(self._known))]
            until = self._clock() + LIFETIME_S
            self._known[_key(session)] = LoginSession(identity.name, identity.stamp, until)
        return session

    def find(self, session: str) -> LoginSession | None:
        """A session that still holds: its account may have other secrets by now."""
        with self._lock:
            found = self._known.get(_key(session))
            if found is not None and found.until <= self._clock():
                self._known.pop(_key(session), None)
                return None
        return found

    def end(self, session: str) -> None:
        with self._lock:
            self._known.pop(_key(session), None)


def cookie(header: str | None) -> str:
    """The session in a Cookie header, empty where there is none."""
    for pair in (header or "").split(";"):
        name, _, value = pair.strip().partition("=")
        if name == COOKIE:
            return value
    return ""


def _key(session: str) -> bytes:
    """Looked up by hash, so that no comparison of secrets takes a time that tells something."""
    return hashlib.sha256(session.encode()).digest()
