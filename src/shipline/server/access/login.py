"""Login by name and secret, with throttling; secrets are stored as hashes.

Passwords are hashed with scrypt (RFC 7914; N = 2^15, r = 8, p = 1: 32 MiB and about 0.1 s per
attempt). Generated secrets have 32 random bytes, which cannot be searched for, so that one SHA-256
is enough and a check takes a microsecond.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from shipline.errors import UsageError
from shipline.server.access.accounts import Account, Robot, User, is_user_name
from shipline.server.access.store import AccountStore, AccountsView
from shipline.server.events import NodeEvent, Publish
from shipline.server.limits import Network, client_network
from shipline.server.problems import Problem

_LOG_N, _R, _P = 15, 8, 1
_MEMORY = 128 * _R * (1 << 18)  # bytes that a stored hash may require
_SCRYPT_HASH = re.compile(
    r"scrypt\$(\d{1,2})\$(\d{1,2})\$(\d{1,2})\$([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+)"
)
_SHORTEST, _LONGEST = 8, 1024  # characters of a password
_SCRYPT_SLOTS = threading.BoundedSemaphore(2)  # concurrent hashes: leave memory and CPU for images


def generate_secret() -> str:
    """32 random bytes as URL-safe text, with a prefix for secret scanners."""
    return "shp_" + secrets.token_urlsafe(32)


def digest_secret(secret: str) -> str:
    """The stored form of a generated secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def same_secret(secret: str, stored: str) -> bool:
    """Whether `stored` is the hash of `secret`, compared in constant time."""
    return hmac.compare_digest(digest_secret(secret), stored)


def check_password(password: str) -> str:
    """The password, if acceptable. Raises UsageError."""
    if not _SHORTEST <= len(password) <= _LONGEST:
        raise UsageError(
            f"a password must have {_SHORTEST} to {_LONGEST} characters, not {len(password)}",
            code="password-rules",
        )
    return password


def hash_password(password: str) -> str:
    """The stored form of a password: parameters, salt and scrypt hash."""
    salt = secrets.token_bytes(16)
    hashed = _scrypt(password, salt, _LOG_N, _R, _P)
    return f"scrypt${_LOG_N}${_R}${_P}${_text(salt)}${_text(hashed)}"


def same_password(password: str, stored: str) -> bool:
    """Whether the password matches; takes as long for an unusable hash."""
    match = _SCRYPT_HASH.fullmatch(stored)
    if match is None:
        _scrypt(password, b"nobody", _LOG_N, _R, _P)
        return False
    log_n, r, p = (int(number) for number in match.group(1, 2, 3))
    salt, expected = (base64.b64decode(text) for text in match.group(4, 5))
    return hmac.compare_digest(_scrypt(password, salt, log_n, r, p), expected)


def _scrypt(password: str, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    with _SCRYPT_SLOTS:
        return hashlib.scrypt(
            password[: _LONGEST + 1].encode(),
            salt=salt,
            n=1 << log_n,
            r=r,
            p=p,
            maxmem=_MEMORY,
            dklen=32,
        )


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


_FREE_FAILURES = {"pair": 5, "address": 30, "account": 60}  # failures before throttling starts
_MAX_WAIT_S = 300.0
_FORGET_S = 900.0  # after the last failure
_TRACKED = 10_000  # entries
_REMEMBER_S = 300.0  # cache a verified password
_USED_EVERY_S = 60.0
_MAX_NAME = 600  # characters
_MAX_WAITING = 128  # concurrent logins: they occupy threads
Proof = tuple[str, bytes, str]
"""A login name, a keyed hash of the secret, valid in this process only, and an address."""


@dataclass(slots=True)
class _Failures:
    count: int
    last: float
    reported: bool = False  # throttling was published since the last failure


class Throttle:
    """Throttles guessing by account, by address, and by both together.

    After a few failures the wait doubles with each further one, up to five minutes. Failures at
    other addresses do not delay an account where it has logged in before: a stranger would lock
    out its owner.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: OrderedDict[tuple[str, ...], _Failures] = OrderedDict()
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()

    def wait_s(self, name: str, address: str) -> float:
        """Seconds until the next attempt is checked."""
        now = self._clock()
        with self._lock:
            known = (name, client_network(address)) in self._known
            keys = [key for key in _keys(name, address) if not (known and key[0] == "account")]
            return max(self._wait(kind, key, now) for kind, key in keys)

    def failed(self, name: str, address: str) -> None:
        """Count a failed attempt."""
        now = self._clock()
        with self._lock:
            for kind, key in _keys(name, address):
                entry = self._failures.setdefault((kind, *key), _Failures(0, now))
                entry.count = 1 if now - entry.last > _FORGET_S else entry.count + 1
                entry.last, entry.reported = now, False
                self._failures.move_to_end((kind, *key))
            while len(self._failures) > _TRACKED:
                self._failures.popitem(last=False)

    def first_wait(self, name: str, address: str) -> bool:
        """Whether this is the first throttled attempt since a failure; only that one goes to the
        audit log.
        """
        with self._lock:
            entries = [entry for key in _keys(name, address) if (entry := self._entry(key))]
            news = not all(entry.reported for entry in entries)
            for entry in entries:
                entry.reported = True
            return news

    def succeeded(self, name: str, address: str) -> None:
        """Forget the failures of this account from this client; remember the client."""
        place = (name, client_network(address))
        with self._lock:
            self._failures.pop(("pair", *place), None)
            self._known[place] = None
            self._known.move_to_end(place)
            if len(self._known) > _TRACKED:
                self._known.popitem(last=False)

    def _entry(self, key: tuple[str, tuple[str, ...]]) -> _Failures | None:
        return self._failures.get((key[0], *key[1]))

    def _wait(self, kind: str, key: tuple[str, ...], now: float) -> float:
        entry = self._entry((kind, key))
        if entry is None or entry.count < _FREE_FAILURES[kind]:
            return 0.0
        if now < entry.last:
            return 0.0  # the clock was set back, perhaps by days
        wait = min(2.0 ** min(entry.count - _FREE_FAILURES[kind], 20), _MAX_WAIT_S)
        return max(0.0, entry.last + wait - now)


def _keys(name: str, address: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    network = client_network(address)
    return ("pair", (name, network)), ("address", (network,)), ("account", (name,))


class Logins:
    """Checks names and secrets. Safe to use from any thread."""

    def __init__(self, accounts: AccountStore, publish: Publish) -> None:
        self._accounts = accounts
        self._publish = publish
        self._salt = os.urandom(32)
        self._throttle = Throttle(accounts.clock)
        self._lock = threading.Lock()
        self._waiting = threading.BoundedSemaphore(_MAX_WAITING)
        self._names = tuple(threading.Lock() for _ in range(64))
        self._verified: dict[Proof, tuple[float, AccountsView]] = {}
        self._used: dict[str, float] = {}

    def check(self, name: str, secret: str, address: str) -> Account:
        """The account. Raises Problem 401, or 429 while throttled."""
        if len(name) > _MAX_NAME:
            raise _wrong_credentials()
        proof = (name, hmac.digest(self._salt, secret.encode(), "sha256"), address)
        cached = self._cached(proof, secret)
        if cached is not None:
            return cached
        if not self._waiting.acquire(blocking=False):
            raise _too_many_requests("too many logins at once; try again later", 1)
        try:
            with self._names[hash(name) % len(self._names)]:  # one attempt per name at a time
                return self._cached(proof, secret) or self._check(proof, secret)
        finally:
            self._waiting.release()

    def _cached(self, proof: Proof, secret: str) -> Account | None:
        """The account of a recently verified secret, if still valid."""
        right = self._verified.get(proof)
        if right is None:
            return None
        view, now = self._accounts.view(), self._accounts.clock()
        account = view.account(proof[0])
        if account is None or right[1] is not view or now >= right[0]:
            return None
        if isinstance(account, Robot) and _refusal(account, proof[0], secret, proof[2], now):
            return None
        return account

    def _check(self, proof: Proof, secret: str) -> Account:
        name, _, address = proof
        view, now = self._accounts.view(), self._accounts.clock()
        account = view.account(name)
        if not isinstance(account, Robot):
            self._check_throttle(name, address)
        reason = _refusal(account, name, secret, address, now)
        # Nobody guesses a robot's secret: failures of others must not keep it out.
        if reason and isinstance(account, Robot):
            self._check_throttle(name, address)
        if reason or account is None:
            self._throttle.failed(name, address)
            self._publish_login(name, address, f"refused: {reason}")
            raise _wrong_credentials()
        self._throttle.succeeded(name, address)
        self._cache(proof, view, now)
        self._publish_login(name, address, "ok")
        return account

    def needs_mark_used(self, login: str) -> bool:
        """Whether `mark_used` would write."""
        since = self._used.get(login, 0.0)
        return bool(login) and self._accounts.clock() - since >= _USED_EVERY_S

    def mark_used(self, login: str) -> None:
        """Record when an account was last used, to the minute."""
        if not self.needs_mark_used(login):
            return
        now = self._accounts.clock()
        self._used[login] = now  # even if the write fails: keep serving on a full disk
        with suppress(OSError), self._accounts.change(wait=False) as changes:
            changes[("used", login)] = json.dumps(round(now)).encode()

    def _check_throttle(self, name: str, address: str) -> None:
        wait = self._throttle.wait_s(name, address)
        if wait > 0:
            if self._throttle.first_wait(name, address):
                self._publish_login(name, address, "limited")
            raise _too_many_requests("too many failed logins; try again later", int(wait) + 1)

    def _cache(self, proof: Proof, view: AccountsView, now: float) -> None:
        with self._lock:
            if len(self._verified) >= _TRACKED:
                self._verified.clear()
            self._verified[proof] = (now + _REMEMBER_S, view)

    def _publish_login(self, name: str, address: str, message: str) -> None:
        self._publish(NodeEvent("login", actor=name[:255], address=address, message=message))


def unusable_reason(account: Account | None, address: str, now: float) -> str:
    """Why an authenticated account may not be used now; empty if it may."""
    match account:
        case None:
            return "no such account"
        case User():
            return "disabled" if account.disabled else ""
        case Robot():
            if not account.usable(now):
                return "disabled or expired"
            return "" if _in_networks(account.networks, address) else "not an allowed network"


def _wrong_credentials() -> Problem:
    return Problem(401, "UNAUTHORIZED", "wrong name or secret")


def _too_many_requests(message: str, seconds: int) -> Problem:
    headers = (("Retry-After", str(seconds)),)
    return Problem(429, "TOOMANYREQUESTS", message, headers=headers)


def _refusal(account: Account | None, name: str, secret: str, address: str, now: float) -> str:
    """Why the login fails, empty if it succeeds. Always checks a hash, of the kind that the name
    implies, so that timing does not reveal which accounts exist.
    """
    match account:
        case Robot():
            right = any(
                same_secret(secret, stored.digest) and (not stored.expires or now < stored.expires)
                for stored in account.secrets
            )
        case User():
            right = same_password(secret, account.password)
        case None if is_user_name(name):
            right = same_password(secret, "")
        case None:
            right = same_secret(secret, "")
    return unusable_reason(account, address, now) or ("" if right else "wrong secret")


def _in_networks(networks: tuple[str, ...], address: str) -> bool:
    return not networks or any(Network(text).contains(address) for text in networks)
