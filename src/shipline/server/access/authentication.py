"""Authentication and authorization of requests."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import NoReturn, Protocol

from shipline.net import is_loopback
from shipline.server.access.accounts import Account, User
from shipline.server.access.keys import InvalidToken
from shipline.server.access.login import Logins, unusable_reason
from shipline.server.access.rights import is_repository, may_replicate
from shipline.server.access.section import AccessSection
from shipline.server.access.store import AccountStore
from shipline.server.access.tokens import AccessMap, Tokens, covers, kind_of
from shipline.server.http import ANYONE, Action, Pool, Principal, Request, Requirement
from shipline.server.limits import client_address
from shipline.server.problems import Problem

_BASIC: tuple[Requirement, ...] = ("own", "operator", "replicator")
_ACTIONS: dict[str, Action] = {"GET": "pull", "HEAD": "pull", "DELETE": "delete"}
_CATALOG = "registry:catalog:*"


class Authenticator(Protocol):
    @property
    def accounts(self) -> bool:
        """Whether the node has accounts."""

    def pool(self, request: Request) -> Pool:
        """The pool for `authorize`: hashing a password takes tens of milliseconds."""

    def authorize(self, request: Request, requires: Requirement, name: str) -> Principal:
        """The principal, if authorized for the route and repository `name`.

        Raises Problem 401 with a challenge without valid credentials, 403 if not allowed.
        """

    def challenge_refusal(
        self, request: Request, requires: Requirement, problem: Problem
    ) -> Problem:
        """Turns a handler's refusal into a challenge if credentials may help."""

    def request_scope(self, request: Request, name: str) -> Problem:
        """Problem 401 with a challenge for the request's scope plus pulling from `name`."""

    def sign_in(self, name: str, secret: str, address: str) -> Principal:
        """Check credentials. Raises Problem 401, or 429 after too many failures."""

    def principal_of(self, name: str, address: str) -> Principal | None:
        """The current principal of an account that signed in earlier; None if it may no longer."""

    def is_secure(self, request: Request) -> bool:
        """Whether the client uses TLS, perhaps to a proxy."""


class OpenAuthenticator:
    """Allows everything: a node without accounts."""

    accounts = False

    def pool(self, request: Request) -> Pool:
        return Pool.LOOP

    def authorize(self, request: Request, requires: Requirement, name: str) -> Principal:
        """Refuses cross-origin changes under a foreign host name (DNS rebinding)."""
        rebound = request.changes and request.header("Origin") and is_loopback(request.address)
        if rebound and not _is_this_machine(request.header("Host") or ""):
            raise Problem(403, "DENIED", "cross-origin request under a foreign host name")
        return ANYONE

    def challenge_refusal(
        self, request: Request, requires: Requirement, problem: Problem
    ) -> Problem:
        return problem

    def request_scope(self, request: Request, name: str) -> Problem:
        return Problem(403, "DENIED", f"{name} may not be pulled from")

    def sign_in(self, name: str, secret: str, address: str) -> Principal:
        return ANYONE

    def principal_of(self, name: str, address: str) -> Principal | None:
        return ANYONE

    def is_secure(self, request: Request) -> bool:
        return request.scheme == "https"


class AccountAuthenticator:
    """Authenticates with Basic credentials or tokens; both have the same rights."""

    accounts = True

    def __init__(
        self,
        accounts: AccountStore,
        tokens: Tokens,
        logins: Logins,
        section: AccessSection,
        base_url: Callable[[Request], str],
    ) -> None:
        self._accounts = accounts
        self._tokens = tokens
        self._logins = logins
        self._section = section
        self._base_url = base_url

    def pool(self, request: Request) -> Pool:
        kind, _, value = (request.header("Authorization") or "").partition(" ")
        if kind.lower() == "basic":
            return Pool.CPU
        login = self._tokens.login_of(value.strip()) if value else ""
        if login is None or self._logins.needs_mark_used(login) or not self._accounts.is_current():
            return Pool.DISK
        return Pool.LOOP

    def authorize(self, request: Request, requires: Requirement, name: str) -> Principal:
        if self._section.proxies:
            forwarded = request.header("X-Forwarded-For")
            request.address = client_address(request.address, forwarded, self._section.proxies)
        if requires == "open" or (self._section.open_metrics and request.path == "/metrics"):
            return self._anonymous()
        principal, access = self._authenticate(request, requires, name)
        match requires:
            case "repository" | "upload":
                self._authorize_repository(request, requires, name, principal, access)
            case "catalog":
                self._authorize_catalog(request, principal, access)
            case "base" if access is None and not principal.name:
                self._challenge(request, requires)
            case "operator" if not principal.operator:
                self._refuse(request, requires, principal, _CATALOG)
            case "replicator" if not principal.replicator:
                self._refuse(request, requires, principal, "")
        return principal

    def challenge_refusal(
        self, request: Request, requires: Requirement, problem: Problem
    ) -> Problem:
        """A client without credentials may be exempt from the rule once it logs in."""
        unknown = request.header("Authorization") is None
        if problem.status != 403 or requires not in ("repository", "upload") or not unknown:
            return problem
        scope = _scope(request, requires, request.repository)
        challenge = self._challenge_of(request, requires, scope)
        return Problem(
            401, "UNAUTHORIZED", problem.message, detail=problem.detail, headers=(challenge,)
        )

    def request_scope(self, request: Request, name: str) -> Problem:
        scope = f"{_scope(request, 'upload', request.repository)} repository:{name}:pull"
        challenge = self._challenge_of(request, "upload", scope, "insufficient_scope")
        message = f"these credentials do not cover pulling from {name}"
        return Problem(401, "UNAUTHORIZED", message, detail=scope, headers=(challenge,))

    def sign_in(self, name: str, secret: str, address: str) -> Principal:
        account = self._logins.check(name, secret, address)
        self._logins.mark_used(account.login)
        return self._principal(account)

    def principal_of(self, name: str, address: str) -> Principal | None:
        account = self._accounts.view().account(name)
        reason = unusable_reason(account, address, self._accounts.clock())
        return None if account is None or reason else self._principal(account)

    def is_secure(self, request: Request) -> bool:
        return self._base_url(request).startswith("https:")

    def _principal(self, account: Account) -> Principal:
        rights = self._tokens.rights(self._accounts.view(), account)
        operator = isinstance(account, User) and account.admin
        return Principal(
            account.login,
            kind_of(account),
            rights,
            operator=operator,
            replicator=operator or may_replicate(account),
            stamp=account.stamp,
        )

    def _authenticate(
        self, request: Request, requires: Requirement, name: str
    ) -> tuple[Principal, AccessMap | None]:
        """The principal, with the token's access if it used one."""
        kind, _, value = (request.header("Authorization") or "").partition(" ")
        match kind.lower():
            case "":
                return self._anonymous(), None
            case "bearer" if requires not in _BASIC:  # tokens are for images only
                return self._bearer(request, value.strip(), requires, name)
            case "basic":
                return self._basic(request, value.strip(), requires), None
        return self._challenge(request, requires, _scope(request, requires, name))

    def _anonymous(self) -> Principal:
        return Principal("", "anonymous", self._tokens.rights(self._accounts.view(), None))

    def _bearer(
        self, request: Request, token: str, requires: Requirement, name: str
    ) -> tuple[Principal, AccessMap]:
        try:
            principal, access = self._tokens.identify(token, request.address)
        except InvalidToken:
            self._challenge(request, requires, _scope(request, requires, name), "invalid_token")
        if principal.name:
            self._logins.mark_used(principal.name)
        return principal, access

    def _basic(self, request: Request, value: str, requires: Requirement) -> Principal:
        name, secret = read_basic(value)
        try:
            return self.sign_in(name, secret, request.address)
        except Problem as problem:
            if problem.status == 401:
                problem.headers += (self._challenge_of(request, requires),)
            raise

    def _authorize_repository(
        self,
        request: Request,
        requires: Requirement,
        name: str,
        principal: Principal,
        access: AccessMap | None,
    ) -> None:
        action = _action(request, requires)
        if principal.may(action, name):
            return
        insufficient_scope = access is not None and not covers(access, action, name)
        self._refuse(
            request,
            requires,
            principal,
            _scope(request, requires, name),
            insufficient_scope=insufficient_scope,
        )

    def _authorize_catalog(
        self, request: Request, principal: Principal, access: AccessMap | None
    ) -> None:
        if access is not None and ("registry", "catalog") not in access:
            self._refuse(request, "catalog", principal, _CATALOG, insufficient_scope=True)
        if access is None and not principal.name and not self._allows_anonymous():
            self._challenge(request, "catalog", _CATALOG)

    def _allows_anonymous(self) -> bool:
        projects = self._accounts.view().projects.values()
        return self._section.anonymous_pull and any(project.public for project in projects)

    def _refuse(
        self,
        request: Request,
        requires: Requirement,
        principal: Principal,
        scope: str,
        *,
        insufficient_scope: bool = False,
    ) -> NoReturn:
        """The same response whether or not the repository exists.

        Anonymous clients, and tokens with too little scope (`insufficient_scope`), are challenged.
        """
        if insufficient_scope:
            problem = "authentication required"
            if principal.name and scope:
                problem = f"the token of {principal.actor} does not cover {scope}"
            self._challenge(request, requires, scope, "insufficient_scope", problem)
        if not principal.name:
            self._challenge(request, requires, scope)
        raise Problem(
            403,
            "DENIED",
            f"{principal.actor} may not access {scope or request.path}",
            detail=scope or None,
        )

    def _challenge(
        self,
        request: Request,
        requires: Requirement,
        scope: str = "",
        error: str = "",
        message: str = "authentication required",
    ) -> NoReturn:
        raise Problem(
            401,
            "UNAUTHORIZED",
            message,
            detail=scope or None,
            headers=(self._challenge_of(request, requires, scope, error),),
        )

    def _challenge_of(
        self, request: Request, requires: Requirement, scope: str = "", error: str = ""
    ) -> tuple[str, str]:
        """A single challenge: docker tries each, and fails at Basic without an account where an
        anonymous token would do.
        """
        if requires in _BASIC or self._section.challenge == "basic":
            return "WWW-Authenticate", f'Basic realm="{self._section.service}", charset="UTF-8"'
        return self._bearer_challenge(request, scope, error)

    def _bearer_challenge(self, request: Request, scope: str, error: str) -> tuple[str, str]:
        fields = {
            "realm": f"{self._base_url(request)}/service/token",
            "service": self._section.service,
            "scope": scope,
            "error": error,
        }
        text = ",".join(f'{key}="{value}"' for key, value in fields.items() if value)
        return "WWW-Authenticate", f"Bearer {text}"


def _is_this_machine(host: str) -> bool:
    name = host.partition("]")[0].strip("[") if "[" in host else host.partition(":")[0]
    return name == "localhost" or name.endswith(".localhost") or is_loopback(name)


def _action(request: Request, requires: Requirement) -> Action:
    return "push" if requires == "upload" else _ACTIONS.get(request.method, "push")


def _scope_actions(action: Action) -> str:
    """The actions to request: a client that pushes also checks what exists."""
    return "pull,push" if action in ("push", "update") else action


def _scope(request: Request, requires: Requirement, name: str) -> str:
    if requires == "catalog":
        return _CATALOG
    if requires in ("repository", "upload") and is_repository(name):
        return f"repository:{name}:{_scope_actions(_action(request, requires))}"
    return ""


def read_basic(value: str) -> tuple[str, str]:
    """Name and secret from Basic credentials (RFC 7617). Raises Problem 401."""
    try:
        name, colon, secret = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        colon = ""
    if not colon or "\0" in name:
        raise Problem(401, "UNAUTHORIZED", "malformed Authorization header")
    return name, secret
