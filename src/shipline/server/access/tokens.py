"""The token service: short-lived access tokens and opaque refresh tokens.

Implements the distribution project's token authentication, GET (token.md) and OAuth2 POST
(oauth.md). The granted scope is the part of the requested one that the account has; if it is empty,
so is the token. A token limits but does not entitle: the account's rights are checked on every
request, so that a revocation takes effect at once.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shipline.metadata import walk
from shipline.server.access.accounts import Account, User
from shipline.server.access.keys import InvalidToken, Keys
from shipline.server.access.login import digest_secret, generate_secret, unusable_reason
from shipline.server.access.rights import TokenScope, allowed, is_repository, read_access
from shipline.server.access.section import AccessSection
from shipline.server.access.store import AccountStore, AccountsView, Changes
from shipline.server.http import Action, Principal, Rights
from shipline.units import rfc3339

_MAX_REFRESH_TOKENS = 50  # per account; the oldest are dropped


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """A stored refresh token; times in Unix seconds."""

    subject: str
    digest: str
    audience: str
    client: str
    created: float
    expires: float
    stamp: str = ""  # of the account's secrets when it was issued


def issue_refresh(
    accounts: AccountStore, account: User, audience: str, client: str, lifetime_s: float
) -> str:
    """Issue a refresh token. It is valid while the account has the password it was issued for."""
    subject = account.name
    token = f"{subject}.{generate_secret()}"
    now = accounts.clock()
    fields = {
        "audience": audience,
        "client": client[:200],
        "created": now,
        "expires": now + lifetime_s,
        "stamp": account.stamp,
    }
    with accounts.change(wait=False) as changes:
        stored = sorted(refresh_tokens(accounts, subject), key=lambda token: token.created)
        ended = [token for token in stored if token.expires <= now]
        alive = [token for token in stored if token.expires > now]
        for expired in [*ended, *alive[: max(0, len(alive) - _MAX_REFRESH_TOKENS + 1)]]:
            changes[("refresh", subject, expired.digest)] = None
        changes[("refresh", subject, digest_secret(token))] = json.dumps(fields).encode()
    return token


def subject_of(accounts: AccountStore, token: str, audience: str) -> str | None:
    """The account of a refresh token, None if it is unknown, expired or for another service."""
    subject = token.rpartition(".")[0]
    if "\0" in subject:
        return None
    record = accounts.records.get(("refresh", subject, digest_secret(token)))
    if record is None:
        return None
    fields, account = json.loads(record), accounts.view().account(subject)
    good = (
        fields["audience"] == audience
        and accounts.clock() < fields["expires"]
        and account is not None
        and fields.get("stamp") == account.stamp
    )
    return subject if good else None


def refresh_tokens(accounts: AccountStore, subject: str = "") -> list[RefreshToken]:
    """The refresh tokens of one account, or of all."""
    prefix = ("refresh", subject) if subject else ("refresh",)
    return [
        RefreshToken(subject or key[0], key[-1], **json.loads(value))
        for key, value in walk(accounts.records, prefix)
    ]


def revoke_refresh(accounts: AccountStore, changes: Changes, subject: str) -> int:
    """Delete an account's refresh tokens as part of a change; returns their number."""
    tokens = refresh_tokens(accounts, subject)
    for token in tokens:
        changes[("refresh", subject, token.digest)] = None
    return len(tokens)


_ACTIONS: dict[str, tuple[Action, ...]] = {
    "pull": ("pull",),
    "push": ("push", "update"),
    "delete": ("delete",),
}
_CATALOG = ("registry", "catalog")
_MAX_CACHED = 10_000  # tokens
_MAX_CACHED_LENGTH = 2048  # characters of a cached token
AccessMap = dict[tuple[str, str], frozenset[str]]


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """An issued token; `lifetime` in seconds."""

    text: str
    scopes: tuple[TokenScope, ...]
    lifetime: int
    issued: float

    @property
    def issued_at(self) -> str:
        return rfc3339(self.issued)


@dataclass(frozen=True, slots=True)
class _VerifiedToken:
    """A verified token with its account in one view."""

    claims: Mapping[str, Any]
    access: AccessMap
    view: AccountsView
    account: Account | None


class Tokens:
    """Issues and verifies tokens. Safe to use from any thread."""

    def __init__(self, accounts: AccountStore, keys: Keys, section: AccessSection) -> None:
        self._accounts = accounts
        self._keys = keys
        self._section = section
        self._verified_tokens: dict[
            bytes, _VerifiedToken
        ] = {}  # by hash, so that memory holds no credentials

    def issue(self, account: Account | None, requested: Iterable[TokenScope]) -> IssuedToken:
        """Issue a token to an account, or to an anonymous client."""
        view, section = self._accounts.view(), self._section
        granted = tuple(
            scope
            for scope in (
                self._grant(view, account, requested_scope) for requested_scope in requested
            )
            if scope
        )
        now, lifetime = int(self._accounts.clock()), int(section.token_lifetime.seconds)
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
        """The principal and access of a token. Raises InvalidToken.

        A verified token is cached until it expires.
        """
        key, now, view = _key(token), self._accounts.clock(), self._accounts.view()
        verified = self._verified_tokens.get(key)
        if verified is None or verified.view.keys != view.keys:  # its key may have been deleted
            verified = self._verify(token, view)
        elif verified.view is not view:
            verified = self._resolve(key, verified.claims, verified.access, view)
        if now >= verified.claims["exp"]:
            self._verified_tokens.pop(key, None)
            raise InvalidToken("expired")
        if verified.claims["sub"]:
            _check_subject(verified, address, now)
        return self._principal(verified), verified.access

    def login_of(self, token: str) -> str | None:
        """The login name of a cached token, None for any other."""
        verified = self._verified_tokens.get(_key(token))
        return None if verified is None else str(verified.claims["sub"])

    def _verify(self, token: str, view: AccountsView) -> _VerifiedToken:
        service = self._section.service
        claims = self._keys.verify(token, issuer=service, audience=service)
        try:
            access = read_access(claims["access"])
        except (KeyError, TypeError):
            raise InvalidToken("malformed access claim") from None
        if len(token) > _MAX_CACHED_LENGTH:
            return _VerifiedToken(claims, access, view, view.account(claims["sub"]))
        return self._resolve(_key(token), claims, access, view)

    def _resolve(
        self, key: bytes, claims: Mapping[str, Any], access: AccessMap, view: AccountsView
    ) -> _VerifiedToken:
        if len(self._verified_tokens) >= _MAX_CACHED:
            self._verified_tokens.clear()
        verified = _VerifiedToken(claims, access, view, view.account(claims["sub"]))
        self._verified_tokens[key] = verified
        return verified

    def _principal(self, verified: _VerifiedToken) -> Principal:
        account = verified.account
        rights = self.rights(verified.view, account)
        return Principal(
            verified.claims["sub"],
            kind_of(account),
            restricted(rights, verified.access),
            account=rights,
        )

    def rights(self, view: AccountsView, account: Account | None) -> Rights:
        """The rights of an account."""
        anonymous = self._section.anonymous_pull

        def may(action: Action, repository: str, tag: str) -> bool:
            return allowed(view, account, action, repository, tag, anonymous=anonymous)

        return may

    def _grant(
        self, view: AccountsView, account: Account | None, requested: TokenScope
    ) -> TokenScope | None:
        """The part of a scope that the account has, None if empty."""
        actions: set[str] = set()
        may = self.rights(view, account)
        if requested.type == "repository" and is_repository(requested.name):
            requested_actions = (
                set(_ACTIONS) if "*" in requested.actions else requested.actions & set(_ACTIONS)
            )
            actions = {
                action
                for action in requested_actions
                if may(_ACTIONS[action][0], requested.name, "")
            }
        elif (requested.type, requested.name) == _CATALOG and account is not None:
            actions = {"*"}
        return TokenScope(requested.type, requested.name, frozenset(actions)) if actions else None


def _key(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _check_subject(verified: _VerifiedToken, address: str, now: float) -> None:
    """Raises InvalidToken, also if the account was recreated since."""
    reason = unusable_reason(verified.account, address, now)
    if reason or verified.account is None or verified.claims["iat"] < int(verified.account.created):
        raise InvalidToken(reason or "issued to a former account of that name")


def kind_of(account: Account | None) -> Any:
    """The `Principal.kind` of an account."""
    if account is None:
        return "anonymous"
    return "user" if isinstance(account, User) else "robot"


def covers(access: AccessMap, action: Action, repository: str) -> bool:
    """Whether a token's access includes the action on the repository."""
    word = "push" if action == "update" else action
    return word in access.get(("repository", repository), ())


def restricted(may: Rights, access: AccessMap) -> Rights:
    """Rights that both the account and the token must grant."""

    def permits(action: Action, repository: str, tag: str) -> bool:
        return covers(access, action, repository) and may(action, repository, tag)

    return permits
