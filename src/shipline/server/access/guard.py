"""What stands in front of every handler and says who asks."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import NoReturn, Protocol

from shipline.net import is_loopback
from shipline.server.access.accounts import Account, User
from shipline.server.access.keys import InvalidToken
from shipline.server.access.login import Logins, check_alive
from shipline.server.access.rights import is_repository
from shipline.server.access.section import AccessSection
from shipline.server.access.store import AccountStore
from shipline.server.access.tokens import AccessMap, Tokens, covers, kind_of
from shipline.server.http import ANYONE, Action, Need, Principal, Request, Step
from shipline.server.limits import origin
from shipline.server.problems import Problem

_ACTIONS: dict[str, Action] = {"GET": "pull", "HEAD": "pull", "DELETE": "delete"}
_CATALOG = "registry:catalog:*"


class Authenticator(Protocol):
    @property
    def accounts(self) -> bool:
        """Whether there are accounts to sign in to."""

    def place(self, request: Request) -> Step:
        """Where `admit` runs: passwords are hashed for tens of milliseconds."""

    def admit(self, request: Request, need: Need, name: str) -> Principal:
        """Who asks, if that one may have what the route needs of repository `name`.

        Raises Problem 401 with challenges while nobody says who asks, 403 for one who may not.
        """

    def reconsider(self, request: Request, need: Need, problem: Problem) -> Problem:
        """A refusal after the request was admitted; asks for credentials where they may help."""

    def narrow(self, request: Request, name: str) -> Problem:
        """401 with a challenge for what the request has, and for pulling from `name` too."""

    def sign_in(self, name: str, secret: str, address: str) -> Principal:
        """Who has this name and secret. Raises Problem 401, or 429 after too many tries."""

    def identity_of(self, name: str, address: str) -> Principal | None:
        """An account that signed in before, as it is now; None if it may not come in any more."""

    def is_secure(self, request: Request) -> bool:
        """Whether the client came over TLS, through a proxy perhaps."""


class OpenAuthenticator:
    """Lets everybody do everything: a node without accounts."""

    accounts = False

    def place(self, request: Request) -> Step:
        return Step.LOOP

    def admit(self, request: Request, need: Need, name: str) -> Principal:
        """Not a page whose own name was made to lead to this machine (DNS rebinding)."""
        rebound = request.changes and request.header("Origin") and is_loopback(request.address)
        if rebound and not _is_this_machine(request.header("Host") or ""):
            raise Problem(403, "DENIED", "a page may change nothing here under another name")
        return ANYONE

    def reconsider(self, request: Request, need: Need, problem: Problem) -> Problem:
        return problem

    def narrow(self, request: Request, name: str) -> Problem:
        return Problem(403, "DENIED", f"{name} cannot be read")

    def sign_in(self, name: str, secret: str, address: str) -> Principal:
        return ANYONE

    def identity_of(self, name: str, address: str) -> Principal | None:
        return ANYONE

    def is_secure(self, request: Request) -> bool:
        return request.scheme == "https"


class AccountAuthenticator:
    """Asks for Basic credentials or a token, and holds both to the same rights."""

    accounts = True

    def __init__(
        self,
        directory: AccountStore,
        tokens: Tokens,
        logins: Logins,
        section: AccessSection,
        base_url: Callable[[Request], str],
    ) -> None:
        self._directory = directory
        self._tokens = tokens
        self._logins = logins
        self._section = section
        self._base_url = base_url

    def place(self, request: Request) -> Step:
        kind, _, value = (request.header("Authorization") or "").partition(" ")
        if kind.lower() == "basic":
            return Step.CPU
        login = self._tokens.login_of(value.strip()) if value else ""
        if login is None or self._logins.is_due(login) or not self._directory.is_current():
            return Step.DISK
        return Step.LOOP

    def admit(self, request: Request, need: Need, name: str) -> Principal:
        if self._section.proxies:
            forwarded = request.header("X-Forwarded-For")
            request.address = origin(request.address, forwarded, self._section.proxies)
        if need == "open" or (self._section.open_metrics and request.path == "/metrics"):
            return self._nobody()
        identity, access = self._identify(request, need, name)
        match need:
            case "repository" | "upload":
                self._admit_to_repository(request, need, name, identity, access)
            case "catalog":
                self._admit_to_catalog(request, identity, access)
            case "base" if access is None and not identity.name:
                self._challenge(request, need)
            case "operator" if not identity.operator:
                self._refuse(request, need, identity, _CATALOG)
        return identity

    def reconsider(self, request: Request, need: Need, problem: Problem) -> Problem:
        """One who said nothing about himself may be one for whom the rule has an exception."""
        unknown = request.header("Authorization") is None
        if problem.status != 403 or need not in ("repository", "upload") or not unknown:
            return problem
        scope = _scope(request, need, request.repository)
        challenge = self._challenge_of(request, need, scope)
        return Problem(
            401, "UNAUTHORIZED", problem.message, detail=problem.detail, headers=(challenge,)
        )

    def narrow(self, request: Request, name: str) -> Problem:
        scope = f"{_scope(request, 'upload', request.repository)} repository:{name}:pull"
        challenge = self._challenge_of(request, "upload", scope, "insufficient_scope")
        message = f"these credentials do not say that {name} may be read"
        return Problem(401, "UNAUTHORIZED", message, detail=scope, headers=(challenge,))

    def sign_in(self, name: str, secret: str, address: str) -> Principal:
        account = self._logins.check(name, secret, address)
        self._logins.touch(account.login)
        return self._full_identity(account)

    def identity_of(self, name: str, address: str) -> Principal | None:
        account = self._directory.view().account(name)
        reason = check_alive(account, address, self._directory.clock())
        return None if account is None or reason else self._full_identity(account)

    def is_secure(self, request: Request) -> bool:
        return self._base_url(request).startswith("https:")

    def _full_identity(self, account: Account) -> Principal:
        rights = self._tokens.rights(self._directory.view(), account)
        operator = isinstance(account, User) and account.admin
        return Principal(
            account.login, kind_of(account), rights, operator=operator, stamp=account.stamp
        )

    def _identify(
        self, request: Request, need: Need, name: str
    ) -> tuple[Principal, AccessMap | None]:
        """Who asks, with the access of the token where there is one."""
        kind, _, value = (request.header("Authorization") or "").partition(" ")
        match kind.lower():
            case "":
                return self._nobody(), None
            case "bearer" if need not in ("own", "operator"):  # tokens are for images alone
                return self._bearer(request, value.strip(), need, name)
            case "basic":
                return self._basic(request, value.strip(), need), None
        return self._challenge(request, need, _scope(request, need, name))

    def _nobody(self) -> Principal:
        return Principal("", "anonymous", self._tokens.rights(self._directory.view(), None))

    def _bearer(
        self, request: Request, token: str, need: Need, name: str
    ) -> tuple[Principal, AccessMap]:
        try:
            identity, access = self._tokens.identify(token, request.address)
        except InvalidToken:
            self._challenge(request, need, _scope(request, need, name), "invalid_token")
        if identity.name:
            self._logins.touch(identity.name)
        return identity, access

    def _basic(self, request: Request, value: str, need: Need) -> Principal:
        name, secret = read_basic(value)
        try:
            return self.sign_in(name, secret, request.address)
        except Problem as problem:
            if problem.status == 401:
                problem.headers += (self._challenge_of(request, need),)
            raise

    def _admit_to_repository(
        self,
        request: Request,
        need: Need,
        name: str,
        identity: Principal,
        access: AccessMap | None,
    ) -> None:
        action = _action(request, need)
        if identity.may(action, name):
            return
        narrow = access is not None and not covers(access, action, name)
        self._refuse(request, need, identity, _scope(request, need, name), narrow=narrow)

    def _admit_to_catalog(
        self, request: Request, identity: Principal, access: AccessMap | None
    ) -> None:
        if access is not None and ("registry", "catalog") not in access:
            self._refuse(request, "catalog", identity, _CATALOG, narrow=True)
        if access is None and not identity.name and not self._open_to_nobody():
            self._challenge(request, "catalog", _CATALOG)

    def _open_to_nobody(self) -> bool:
        projects = self._directory.view().projects.values()
        return self._section.anonymous_pull and any(project.public for project in projects)

    def _refuse(
        self, request: Request, need: Need, identity: Principal, scope: str, *, narrow: bool = False
    ) -> NoReturn:
        """The same answer whether the thing is there or not.

        Nobody, and a token that does not say enough (`narrow`), are asked for more.
        """
        if not identity.name or narrow:
            self._challenge(request, need, scope, "insufficient_scope" if narrow else "")
        raise Problem(403, "DENIED", f"{identity.actor} may not do this", detail=scope or None)

    def _challenge(
        self, request: Request, need: Need, scope: str = "", error: str = ""
    ) -> NoReturn:
        raise Problem(
            401,
            "UNAUTHORIZED",
            "authentication required",
            detail=scope or None,
            headers=(self._challenge_of(request, need, scope, error),),
        )

    def _challenge_of(
        self, request: Request, need: Need, scope: str = "", error: str = ""
    ) -> tuple[str, str]:
        """One challenge only: docker answers each that it finds, and fails at Basic without an
        account where a token for nobody would do.
        """
        if need in ("own", "operator") or self._section.challenge == "basic":
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


def _action(request: Request, need: Need) -> Action:
    return "push" if need == "upload" else _ACTIONS.get(request.method, "push")


def _words(action: Action) -> str:
    """What a client needs for an action: one that pushes looks first."""
    return "pull,push" if action in ("push", "update") else action


def _scope(request: Request, need: Need, name: str) -> str:
    if need == "catalog":
        return _CATALOG
    if need in ("repository", "upload") and is_repository(name):
        return f"repository:{name}:{_words(_action(request, need))}"
    return ""


def read_basic(value: str) -> tuple[str, str]:
    """Name and secret of a Basic header (RFC 7617). Raises Problem 401."""
    try:
        name, colon, secret = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        colon = ""
    if not colon or "\0" in name:
        raise Problem(401, "UNAUTHORIZED", "the Authorization header is not readable")
    return name, secret
