"""The token service: short-lived proofs of who asks, and opaque refresh tokens.

Implements the distribution project's token authentication, GET (token.md) and OAuth2 POST
(oauth.md). What is granted is the part of the requested scope that the account has; nothing granted
is an empty token and no error. A token limits, it does not entitle: the account's own rights are
looked at again with every request, so that what is taken away is gone at once.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from shipline.metadata import walk
from shipline.server.access.accounts import Account, User
from shipline.server.access.keys import InvalidToken, Keys
from shipline.server.access.login import check_alive, digest_secret, generate_secret
from shipline.server.access.rights import TokenScope, allowed, is_repository, read_access
from shipline.server.access.section import AccessSection
from shipline.server.access.store import AccountStore, AccountsView, Changes
from shipline.server.http import Action, May, Principal

_EACH = 50  # refresh tokens of one account; the oldest goes first


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """What is kept of one refresh token; times in seconds of Unix time."""

    subject: str
    digest: str
    audience: str
    client: str
    created: float
    expires: float
    stamp: str = ""  # of the account's secrets when it was issued


def issue_refresh(
    directory: AccountStore, account: User, audience: str, client: str, life_s: float
) -> str:
    """A new refresh token, which cannot be read again; good while the account, as it was when its
    password was right, has that password.
    """
    subject = account.name
    token = f"{subject}.{generate_secret()}"
    now = directory.clock()
    fields = {
        "audience": audience,
        "client": client[:200],
        "created": now,
        "expires": now + life_s,
        "stamp": account.stamp,
    }
    with directory.change(seen=False) as changes:
        kept = sorted(refresh_tokens(directory, subject), key=lambda one: one.created)
        ended = [one for one in kept if one.expires <= now]
        alive = [one for one in kept if one.expires > now]
        for one in [*ended, *alive[: max(0, len(alive) - _EACH + 1)]]:
            changes[("refresh", subject, one.digest)] = None
        changes[("refresh", subject, digest_secret(token))] = json.dumps(fields).encode()
    return token


def subject_of(directory: AccountStore, token: str, audience: str) -> str | None:
    """Whose refresh token it is, None for one that is unknown, ended or for another service."""
    subject = token.rpartition(".")[0]
    if "\0" in subject:
        return None
    record = directory.records.get(("refresh", subject, digest_secret(token)))
    if record is None:
        return None
    fields, account = json.loads(record), directory.view().account(subject)
    good = (
        fields["audience"] == audience
        and directory.clock() < fields["expires"]
        and account is not None
        and fields.get("stamp") == account.stamp
    )
    return subject if good else None


def refresh_tokens(directory: AccountStore, subject: str = "") -> list[RefreshToken]:
    """What is kept for one account, or for all."""
    prefix = ("refresh", subject) if subject else ("refresh",)
    return [
        RefreshToken(subject or key[0], key[-1], **json.loads(value))
        for key, value in walk(directory.records, prefix)
    ]


def revoke_refresh(directory: AccountStore, changes: Changes, subject: str) -> int:
    """Take all refresh tokens of an account away, as part of a change; returns their number."""
    found = refresh_tokens(directory, subject)
    for one in found:
        changes[("refresh", subject, one.digest)] = None
    return len(found)


_ACTIONS: dict[str, tuple[Action, ...]] = {
    "pull": ("pull",),
    "push": ("push", "update"),
    "delete": ("delete",),
}
_CATALOG = ("registry", "catalog")
_REMEMBERED = 10_000  # tokens
_LONGEST = 2048  # characters of one that is remembered: a few scopes
AccessMap = dict[tuple[str, str], frozenset[str]]


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token as it is given out; `lifetime` in seconds."""

    text: str
    scopes: tuple[TokenScope, ...]
    lifetime: int
    issued: float

    @property
    def issued_at(self) -> str:
        return datetime.fromtimestamp(self.issued, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class _Seen:
    """A token whose signature was checked, resolved against one view of the accounts."""

    claims: Mapping[str, Any]
    access: AccessMap
    view: AccountsView
    account: Account | None


class Tokens:
    """Gives tokens out and reads them back. Safe to use from any thread."""

    def __init__(self, directory: AccountStore, keys: Keys, section: AccessSection) -> None:
        self._directory = directory
        self._keys = keys
        self._section = section
        self._seen: dict[bytes, _Seen] = {}  # by hash: what lies in memory opens nothing

    def issue(self, account: Account | None, wanted: Iterable[TokenScope]) -> IssuedToken:
        """A token for an account, or for nobody."""
        view, section = self._directory.view(), self._section
        granted = tuple(
            scope for scope in (self._part(view, account, one) for one in wanted) if scope
        )
        now, lifetime = int(self._directory.clock()), int(section.token_lifetime.seconds)
        claims = {
            "iss": section.service,
            "aud": section.service,
            "sub": "" if account is None else account.login,
            "iat": now,
            "nbf": now,
            "exp": now + lifetime,
            "jti": secrets.token_urlsafe(12),
            "access": [scope.to_json() for scope in granted],
        }
        return IssuedToken(self._keys.sign(claims), granted, lifetime, now)

    def identify(self, token: str, address: str) -> tuple[Principal, AccessMap]:
        """Who a token speaks for, and its access. Raises InvalidToken.

        A token whose signature was checked costs a look-up until it expires.
        """
        key, now, view = _key(token), self._directory.clock(), self._directory.view()
        seen = self._seen.get(key)
        if seen is None or seen.view.keys != view.keys:  # the key may be gone that signed it
            seen = self._verified(token, view)
        elif seen.view is not view:
            seen = self._resolved(key, seen.claims, seen.access, view)
        if now >= seen.claims["exp"]:
            self._seen.pop(key, None)
            raise InvalidToken("expired")
        if seen.claims["sub"]:
            _check_subject(seen, address, now)
        return self._identity(seen), seen.access

    def login_of(self, token: str) -> str | None:
        """The login name in a token whose signature was checked before, None for another token."""
        seen = self._seen.get(_key(token))
        return None if seen is None else str(seen.claims["sub"])

    def _verified(self, token: str, view: AccountsView) -> _Seen:
        service = self._section.service
        claims = self._keys.verify(token, issuer=service, audience=service)
        try:
            access = read_access(claims["access"])
        except (KeyError, TypeError):
            raise InvalidToken("its access is not readable") from None
        if len(token) > _LONGEST:
            return _Seen(claims, access, view, view.account(claims["sub"]))
        return self._resolved(_key(token), claims, access, view)

    def _resolved(
        self, key: bytes, claims: Mapping[str, Any], access: AccessMap, view: AccountsView
    ) -> _Seen:
        if len(self._seen) >= _REMEMBERED:
            self._seen.clear()
        seen = _Seen(claims, access, view, view.account(claims["sub"]))
        self._seen[key] = seen
        return seen

    def _identity(self, seen: _Seen) -> Principal:
        account = seen.account
        rights = self.rights(seen.view, account)
        return Principal(
            seen.claims["sub"],
            kind_of(account),
            limited(rights, seen.access),
            account=rights,
        )

    def rights(self, view: AccountsView, account: Account | None) -> May:
        """What an account may do by itself."""
        anonymous = self._section.anonymous_pull

        def may(action: Action, repository: str, tag: str) -> bool:
            return allowed(view, account, action, repository, tag, anonymous=anonymous)

        return may

    def _part(
        self, view: AccountsView, account: Account | None, wanted: TokenScope
    ) -> TokenScope | None:
        """The part of a scope that the account has, None for nothing."""
        actions: set[str] = set()
        may = self.rights(view, account)
        if wanted.type == "repository" and is_repository(wanted.name):
            asked = set(_ACTIONS) if "*" in wanted.actions else wanted.actions & set(_ACTIONS)
            actions = {action for action in asked if may(_ACTIONS[action][0], wanted.name, "")}
        elif (wanted.type, wanted.name) == _CATALOG and account is not None:
            actions = {"*"}
        return TokenScope(wanted.type, wanted.name, frozenset(actions)) if actions else None


def _key(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _check_subject(seen: _Seen, address: str, now: float) -> None:
    """A token of an account that went is not one of a later account of that name."""
    reason = check_alive(seen.account, address, now)
    if reason or seen.account is None or seen.claims["iat"] < int(seen.account.created):
        raise InvalidToken(reason or "given to another account of that name")


def kind_of(account: Account | None) -> Any:
    """The word of `Identity.kind`."""
    if account is None:
        return "anonymous"
    return "user" if isinstance(account, User) else "robot"


def covers(access: AccessMap, action: Action, repository: str) -> bool:
    """Whether a token's access names the repository, whole, with the action."""
    word = "push" if action == "update" else action
    return word in access.get(("repository", repository), ())


def limited(may: May, access: AccessMap) -> May:
    """Rights that need both the account and the token."""

    def both(action: Action, repository: str, tag: str) -> bool:
        return covers(access, action, repository) and may(action, repository, tag)

    return both
