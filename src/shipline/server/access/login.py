"""From a name and a secret to an account, however often somebody tries; secrets are kept as hashes.

A password is hashed with scrypt (RFC 7914; N = 2^15, r = 8, p = 1: 32 MiB and about 0.1 s a try). A
secret that a machine made has 32 random bytes, which no table and no search can find again, so one
SHA-256 is enough and a check costs a microsecond.
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
from shipline.server.journal import NodeEvent
from shipline.server.limits import Network, neighbourhood
from shipline.server.problems import Problem

_LOG_N, _R, _P = 15, 8, 1
_MEMORY = 128 * _R * (1 << 18)  # bytes that a kept hash may ask for
_KEPT = re.compile(r"scrypt\$(\d{1,2})\$(\d{1,2})\$(\d{1,2})\$([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+)")
_SHORTEST, _LONGEST = 8, 1024  # characters of a password
_AT_ONCE = threading.BoundedSemaphore(2)  # tries at a time: memory and processors are for images


def generate_secret() -> str:
    """32 random bytes as characters that need no quoting, after a mark that scanners can find."""
    return "shp_" + secrets.token_urlsafe(32)


def digest_secret(secret: str) -> str:
    """How a machine's secret is kept."""
    return hashlib.sha256(secret.encode()).hexdigest()


def same_secret(secret: str, kept: str) -> bool:
    return hmac.compare_digest(digest_secret(secret), kept)


def check_password(password: str) -> str:
    """The password, if it may become one. Raises UsageError."""
    if not _SHORTEST <= len(password) <= _LONGEST:
        raise UsageError(
            f"a password has {_SHORTEST} to {_LONGEST} characters, this one has {len(password)}"
        )
    return password


def hash_password(password: str) -> str:
    """How a password is kept: its parameters, a salt of its own and the scrypt hash."""
    salt = secrets.token_bytes(16)
    found = _scrypt(password, salt, _LOG_N, _R, _P)
    return f"scrypt${_LOG_N}${_R}${_P}${_text(salt)}${_text(found)}"


def same_password(password: str, kept: str) -> bool:
    """Whether it is the password. Takes as long for a `kept` that nothing can match."""
    match = _KEPT.fullmatch(kept)
    if match is None:
        _scrypt(password, b"nobody", _LOG_N, _R, _P)
        return False
    log_n, r, p = (int(number) for number in match.group(1, 2, 3))
    salt, expected = (base64.b64decode(text) for text in match.group(4, 5))
    return hmac.compare_digest(_scrypt(password, salt, log_n, r, p), expected)


def _scrypt(password: str, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    with _AT_ONCE:
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


_FREE = {"pair": 5, "address": 30, "account": 60}  # failures before the next try has to wait
_LONGEST_WAIT_S = 300.0
_FORGET_S = 900.0  # after the last failure
_TRACKED = 10_000  # pairs, addresses and accounts that are remembered
_REMEMBER_S = 300.0  # a password that was right is not hashed again so long
_USED_EVERY_S = 60.0
_LONGEST_NAME = 600  # characters; accounts have shorter ones
_WAITING = 128  # logins that are looked at or wait for that: others need the threads too
Proof = tuple[str, bytes, str]
"""A login name, a hash of the secret that means nothing outside of this process, an address."""


@dataclass(slots=True)
class _Failures:
    count: int
    last: float
    told: bool = False  # that a try had to wait since the last failure


class Throttle:
    """Slows guessing down: by account, by address, and by both together.

    After a few failures the wait doubles with each further one, up to five minutes. The limit of
    an account alone is high, so that a stranger cannot easily lock its owner out.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, ...], _Failures] = OrderedDict()

    def wait_s(self, name: str, address: str) -> float:
        """Seconds until the next try is looked at."""
        now = self._clock()
        with self._lock:
            return max(self._wait(kind, key, now) for kind, key in _keys(name, address))

    def failed(self, name: str, address: str) -> None:
        now = self._clock()
        with self._lock:
            for kind, key in _keys(name, address):
                entry = self._known.setdefault((kind, *key), _Failures(0, now))
                entry.count = 1 if now - entry.last > _FORGET_S else entry.count + 1
                entry.last, entry.told = now, False
                self._known.move_to_end((kind, *key))
            while len(self._known) > _TRACKED:
                self._known.popitem(last=False)

    def is_news(self, name: str, address: str) -> bool:
        """Whether a try has to wait for the first time since a failure: who tries on and on shall
        not fill the audit log.
        """
        with self._lock:
            found = [entry for key in _keys(name, address) if (entry := self._entry(key))]
            news = not all(entry.told for entry in found)
            for entry in found:
                entry.told = True
            return news

    def succeeded(self, name: str, address: str) -> None:
        with self._lock:
            self._known.pop(("pair", name, neighbourhood(address)), None)

    def _entry(self, key: tuple[str, tuple[str, ...]]) -> _Failures | None:
        return self._known.get((key[0], *key[1]))

    def _wait(self, kind: str, key: tuple[str, ...], now: float) -> float:
        entry = self._entry((kind, key))
        if entry is None or entry.count < _FREE[kind]:
            return 0.0
        wait = min(2.0 ** min(entry.count - _FREE[kind], 20), _LONGEST_WAIT_S)
        return max(0.0, entry.last + wait - now)


def _keys(name: str, address: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    place = neighbourhood(address)
    return ("pair", (name, place)), ("address", (place,)), ("account", (name,))


class Logins:
    """Checks names and secrets against a directory. Safe to use from any thread."""

    def __init__(self, directory: AccountStore, notice: Callable[[NodeEvent], None]) -> None:
        self._directory = directory
        self._notice = notice
        self._salt = os.urandom(32)
        self._throttle = Throttle(directory.clock)
        self._lock = threading.Lock()
        self._waiting = threading.BoundedSemaphore(_WAITING)
        self._names = tuple(threading.Lock() for _ in range(64))
        self._right: dict[Proof, tuple[float, AccountsView]] = {}
        self._used: dict[str, float] = {}

    def check(self, name: str, secret: str, address: str) -> Account:
        """The account. Raises Problem 401, or 429 while its tries have to wait."""
        if len(name) > _LONGEST_NAME:
            raise _wrong()
        proof = (name, hmac.digest(self._salt, secret.encode(), "sha256"), address)
        known = self._known(proof, secret)
        if known is not None:
            return known
        if not self._waiting.acquire(blocking=False):
            raise _later("too many logins at once; try again later", 1)
        try:
            with self._names[hash(name) % len(self._names)]:  # one try at a name at a time
                return self._known(proof, secret) or self._check(proof, secret)
        finally:
            self._waiting.release()

    def _known(self, proof: Proof, secret: str) -> Account | None:
        """The account of a secret that was right a moment ago, and still is."""
        right = self._right.get(proof)
        if right is None:
            return None
        view, now = self._directory.view(), self._directory.clock()
        account = view.account(proof[0])
        if account is None or right[1] is not view or now >= right[0]:
            return None
        if isinstance(account, Robot) and _refusal(account, proof[0], secret, proof[2], now):
            return None
        return account

    def _check(self, proof: Proof, secret: str) -> Account:
        name, _, address = proof
        self._check_patience(name, address)
        view, now = self._directory.view(), self._directory.clock()
        account = view.account(name)
        reason = _refusal(account, name, secret, address, now)
        if reason or account is None:
            self._throttle.failed(name, address)
            self._tell(name, address, f"refused: {reason}")
            raise _wrong()
        self._throttle.succeeded(name, address)
        self._remember(proof, view, now)
        self._tell(name, address, "ok")
        return account

    def is_due(self, login: str) -> bool:
        """Whether `touch` would write."""
        since = self._used.get(login, 0.0)
        return bool(login) and self._directory.clock() - since >= _USED_EVERY_S

    def touch(self, login: str) -> None:
        """An account is in use: kept to the minute."""
        if not self.is_due(login):
            return
        now = self._directory.clock()
        self._used[login] = now  # also if it cannot be written: a full disk still serves
        with suppress(OSError), self._directory.change(seen=False) as changes:
            changes[("used", login)] = json.dumps(round(now)).encode()

    def _check_patience(self, name: str, address: str) -> None:
        wait = self._throttle.wait_s(name, address)
        if wait > 0:
            if self._throttle.is_news(name, address):
                self._tell(name, address, "limited")
            raise _later("too many failed logins; try again later", int(wait) + 1)

    def _remember(self, proof: Proof, view: AccountsView, now: float) -> None:
        with self._lock:
            if len(self._right) >= _TRACKED:
                self._right.clear()
            self._right[proof] = (now + _REMEMBER_S, view)

    def _tell(self, name: str, address: str, message: str) -> None:
        self._notice(NodeEvent("login", actor=name[:255], address=address, message=message))


def check_alive(account: Account | None, address: str, now: float) -> str:
    """Why an account whose owner proved who it is may not come in now; empty if it may."""
    match account:
        case None:
            return "no such account"
        case User():
            return "disabled" if account.disabled else ""
        case Robot():
            if not account.usable(now):
                return "disabled or expired"
            return "" if _near(account.networks, address) else "from another network"


def _wrong() -> Problem:
    return Problem(401, "UNAUTHORIZED", "the name or the secret is wrong")


def _later(message: str, seconds: int) -> Problem:
    headers = (("Retry-After", str(seconds)),)
    return Problem(429, "TOOMANYREQUESTS", message, headers=headers)


def _refusal(account: Account | None, name: str, secret: str, address: str, now: float) -> str:
    """The secret is looked at in any case, and as a user's or a robot's by the name alone, so that
    time does not tell which accounts exist.
    """
    match account:
        case Robot():
            right = any(
                same_secret(secret, kept.digest) and (not kept.expires or now < kept.expires)
                for kept in account.secrets
            )
        case User():
            right = same_password(secret, account.password)
        case None if is_user_name(name):
            right = same_password(secret, "")
        case None:
            right = same_secret(secret, "")
    return check_alive(account, address, now) or ("" if right else "wrong secret")


def _near(networks: tuple[str, ...], address: str) -> bool:
    return not networks or any(Network(text).holds(address) for text in networks)
