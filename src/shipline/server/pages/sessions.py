"""Login sessions of the web pages: random cookies, known only to this process."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass

from shipline.server.http import Principal

COOKIE = "shipline_session"
LIFETIME_S = 12 * 3600.0
_MAX_SESSIONS = 10_000  # sessions; the oldest are dropped


@dataclass(frozen=True, slots=True)
class LoginSession:
    """The account, its secrets' stamp at login, and when the session expires in Unix time."""

    account: str
    stamp: str
    expires: float


class LoginSessions:
    """A restart of the node ends all sessions. Safe to use from any thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._sessions: dict[bytes, LoginSession] = {}

    def start(self, principal: Principal) -> str:
        """Start a session; returns the cookie's value."""
        session = secrets.token_urlsafe(32)
        with self._lock:
            while len(self._sessions) >= _MAX_SESSIONS:
                del self._sessions[next(iter(self._sessions))]
            expires = self._clock() + LIFETIME_S
            self._sessions[_key(session)] = LoginSession(principal.name, principal.stamp, expires)
        return session

    def find(self, session: str) -> LoginSession | None:
        """A session that has not expired; compare its stamp, the account's secrets may have
        changed.
        """
        with self._lock:
            found = self._sessions.get(_key(session))
            if found is not None and found.expires <= self._clock():
                self._sessions.pop(_key(session), None)
                return None
        return found

    def end(self, session: str) -> None:
        with self._lock:
            self._sessions.pop(_key(session), None)


def cookie(header: str | None) -> str:
    """The session in a Cookie header, empty if none."""
    for pair in (header or "").split(";"):
        name, _, value = pair.strip().partition("=")
        if name == COOKIE:
            return value
    return ""


def _key(session: str) -> bytes:
    """Looked up by hash, so that timing reveals nothing."""
    return hashlib.sha256(session.encode()).digest()
