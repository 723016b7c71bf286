"""What all pages of a node share: who looks, the frame around the page, forms with their token, and
errors as pages. Login sessions are random cookies that only this process knows.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode

from shipline.errors import ShiplineError, UsageError
from shipline.oci import check_repository
from shipline.pages import SECURITY_HEADERS, Frame, Link, render
from shipline.server.access.accounts import User
from shipline.server.access.administration import Administration, NoSuchName
from shipline.server.access.rights import administers
from shipline.server.access.store import AccountStore
from shipline.server.http import (
    SMALL_BODY,
    Handler,
    Pool,
    Principal,
    Request,
    Requirement,
    Response,
    Route,
    route,
)
from shipline.server.node import RegistryNode
from shipline.server.problems import Problem, problem_of
from shipline.values import replace

COOKIE = "shipline_session"
LIFETIME_S = 12 * 3600.0
_MAX_SESSIONS = 10_000  # sessions; the oldest are dropped
_FORM_LIMIT = 64 << 10  # bytes
_OPEN = "open to everyone who reaches it"
_TITLES = {
    401: "Log in first",
    403: "Not allowed",
    404: "Not found",
    405: "Not here",
    409: "Something else came first",
    412: "It has changed meanwhile",
}
Form = Mapping[str, tuple[str, ...]]


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
            stored = self._sessions.get(_key(session))
            if stored is not None and stored.expires <= self._clock():
                self._sessions.pop(_key(session), None)
                return None
        return stored

    def end(self, session: str) -> None:
        with self._lock:
            self._sessions.pop(_key(session), None)


class Site:
    """The pages of one node."""

    def __init__(self, node: RegistryNode) -> None:
        self.node = node
        self.sessions = LoginSessions(node.storage.clock)
        self._secret = secrets.token_bytes(32)

    def route(
        self,
        pattern: str,
        *,
        requires: Requirement = "own",
        pool: Pool = Pool.CPU,
        **handlers: Handler,
    ) -> Route:
        """A route of handlers whose errors become a page instead of JSON."""
        wrapped = {method: self._with_error_page(one) for method, one in handlers.items()}
        return route(pattern, requires=requires, pool=pool, body=SMALL_BODY, **wrapped)

    def _with_error_page(self, handler: Handler) -> Handler:
        def handle(request: Request, **arguments: str) -> Response:
            try:
                return handler(request, **arguments)
            except Exception as error:
                return self._error_page(request, error)

        return handle

    def page(
        self, request: Request, template: str, area: str = "", *, status: int = 200, **values: Any
    ) -> Response:
        """A page in the frame of its visitor; `area` is the entry of the navigation that it belongs
        to.
        """
        frame = self._frame(request, area)
        html = render(template, frame=frame, **values)
        headers = [
            ("Content-Type", "text/html; charset=utf-8"),
            ("Cache-Control", "no-store"),
            *SECURITY_HEADERS,
        ]
        return Response.of(status, headers, html)

    def principal(self, request: Request) -> Principal:
        """The session's current principal, else the request's."""
        authenticator = self.node.authenticator
        session = self.sessions.find(cookie(request)) if authenticator.accounts else None
        principal = (
            authenticator.principal_of(session.account, request.address) if session else None
        )
        if session is None or principal is None or principal.stamp != session.stamp:
            return request.principal
        return principal

    def as_visitor(self, request: Request, **fields: Any) -> Request:
        """The request with the visitor's rights, for handlers of the API."""
        return replace(request, principal=self.principal(request), **fields)

    def readable(self, request: Request, name: str) -> Principal:
        """The visitor, who may pull from the repository. Hidden repositories get the same answer as
        missing ones.
        """
        check_repository(name)
        principal = self.principal(request)
        if not self.node.storage.exists(name) or not principal.may("pull", name):
            raise Problem(
                404, "NAME_UNKNOWN", f"There is no repository {name}, or you may not see it."
            )
        return principal

    def require_operator(self, request: Request) -> Principal:
        """The visitor. Raises Problem 401 or 403 unless he is an operator of the node."""
        principal = self.principal(request)
        if not principal.operator:
            raise _not_allowed(principal, "Only administrators of the registry may see this.")
        return principal

    def accounts(self) -> AccountStore:
        """Raises Problem 404 without accounts."""
        if self.node.accounts is None:
            raise Problem(404, "UNSUPPORTED", "This registry has no accounts.")
        return self.node.accounts.store

    def user(self, request: Request) -> User:
        """The visitor's account. Raises Problem for one who has not logged in, and for robots."""
        principal = self.principal(request)
        account = self.accounts().view().account(principal.name) if principal.name else None
        if not isinstance(account, User):
            raise _not_allowed(principal, "Only users may see this.")
        return account

    def administration(self, request: Request) -> Administration:
        """Changes to accounts in the name of the visitor, who must be allowed to make them."""
        self.accounts()
        assert self.node.accounts is not None
        return self.node.accounts.administration(self.as_visitor(request))

    def managed_projects(self, request: Request) -> list[str]:
        """The projects whose robots the visitor manages; "" is the system."""
        user = self.user(request)
        view = self.accounts().view()
        return [name for name in ("", *sorted(view.projects)) if administers(view, user, name)]

    def form(self, request: Request) -> Form:
        """The fields of a form of this visitor. Raises Problem for one that did not come from a
        page that was made for him.
        """
        fields = read_form(request)
        if not hmac.compare_digest(first(fields, "token").encode(), self.token(request).encode()):
            raise Problem(
                403, "DENIED", "The form is too old, or of another login. Load its page again."
            )
        return fields

    def token(self, request: Request) -> str:
        """What a form of this visitor carries, so that no other site can send one for him."""
        principal = self.principal(request)
        of = f"{principal.name}\0{principal.stamp}\0{cookie(request)}"
        return hmac.new(self._secret, of.encode(), hashlib.sha256).hexdigest()

    def host(self, request: Request) -> str:
        """Under which the visitor reaches the node."""
        return request.header("Host") or "localhost"

    def _frame(self, request: Request, area: str) -> Frame:
        node, principal = self.node, self.principal(request)
        query = request.query_string
        here = request.path + (f"?{query}" if query else "")
        logs_in = node.authenticator.accounts and not principal.name
        return Frame(
            self.host(request),
            node.storage.clock(),
            navigation=tuple(
                Link(text, path, text == area) for text, path in self._areas(request, principal)
            ),
            account=principal.name,
            login="/-/login?" + urlencode({"next": here}) if logs_in else "",
            note="" if node.authenticator.accounts else _OPEN,
            token=self.token(request),
            api="/v2/",
        )

    def _areas(self, request: Request, principal: Principal) -> list[tuple[str, str]]:
        """Those that the visitor may see, with their paths."""
        areas = [("Images", "/")]
        if principal.operator:
            if self.node.regions is not None:
                areas.append(("Regions", "/-/regions"))
            areas.append(("Retention", "/-/retention"))
        accounts = self.node.accounts
        if accounts is not None and principal.name:
            if principal.operator:
                areas.append(("Users", "/-/users"))
            user = accounts.store.view().users.get(principal.name)
            if user is not None:
                if self.managed_projects(request):
                    areas.append(("Robots", "/-/robots"))
                if principal.operator:
                    areas.append(("Audit", "/-/audit"))
                areas.append(("Account", "/-/account"))
        return areas

    def _error_page(self, request: Request, error: Exception) -> Response:
        problem = problem_of(_translated(error))
        title = _TITLES.get(problem.status, "That did not work")
        values = {"title": title, "message": problem.message, "hint": problem.hint or ""}
        response = self.page(request, "problem.html", status=problem.status, **values)
        response.headers.extend(problem.headers)
        return response


def _translated(error: Exception) -> Exception:
    """Errors of account changes as Problems."""
    match error:
        case Problem():
            return error
        case NoSuchName():
            return Problem(404, "UNSUPPORTED", error.message)
        case UsageError():
            return Problem(400, "UNSUPPORTED", sentence(error))
    return error


def sentence(error: ShiplineError) -> str:
    """What is wrong, and what would do."""
    return f"{error.message}: {error.hint}" if error.hint else error.message


def _not_allowed(principal: Principal, message: str) -> Problem:
    return Problem(403 if principal.name else 401, "DENIED", message)


def cookie(request: Request) -> str:
    """The session in the Cookie header, empty if none."""
    for pair in (request.header("Cookie") or "").split(";"):
        name, _, value = pair.strip().partition("=")
        if name == COOKIE:
            return value
    return ""


def read_form(request: Request) -> Form:
    """The fields of any form, whoever sent it."""
    if request.content_type != "application/x-www-form-urlencoded":
        raise Problem(415, "UNSUPPORTED", "The form did not come from this page.")
    text = request.read(_FORM_LIMIT).decode("utf-8", "replace")
    try:
        fields = parse_qs(text, keep_blank_values=True, max_num_fields=200)
    except ValueError:
        raise Problem(400, "UNSUPPORTED", "The form has too many fields.") from None
    return {key: tuple(values) for key, values in fields.items()}


def first(fields: Form, name: str) -> str:
    """A field's text, empty if it does not exist."""
    return fields.get(name, ("",))[0].strip()


def redirect(location: str, *headers: tuple[str, str]) -> Response:
    """See other, with GET."""
    return Response.of(
        303, [("Location", location), ("Cache-Control", "no-store"), *SECURITY_HEADERS, *headers]
    )


def local_path(path: str) -> str:
    """The redirect after login, confined to this node."""
    decoded = unquote(path)
    if not decoded.startswith("/") or decoded.startswith(("//", "/\\")) or "\n" in decoded:
        return "/"
    return quote(decoded, safe="/:@?&=-._~+%")


def _key(session: str) -> bytes:
    """Looked up by hash, so that timing reveals nothing."""
    return hashlib.sha256(session.encode()).digest()
