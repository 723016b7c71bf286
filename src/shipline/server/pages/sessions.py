"""Who is logged in to the page: random names in a cookie, known to this process alone."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable

COOKIE = "shipline_session"
LIFETIME_S = 12 * 3600.0
_MOST = 10_000  # sessions; the oldest goes first


class Sessions:
    """Account names by session. A restart of the node ends all of them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[bytes, tuple[str, float]] = {}

    def begin(self, account: str) -> str:
        """A new session for an account whose password was right; returns the cookie's value."""
        session = secrets.token_urlsafe(32)
        with self._lock:
            while len(self._known) >= _MOST:
                del self._known[next(iter(self._known))]
            self._known[_key(session)] = (account, self._clock() + LIFETIME_S)
        return session

    def account(self, session: str) -> str | None:
        """The account of a session that still holds."""
        with self._lock:
            account, until = self._known.get(_key(session), ("", 0.0))
            if until <= self._clock():
                self._known.pop(_key(session), None)
                return None
        return account

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
