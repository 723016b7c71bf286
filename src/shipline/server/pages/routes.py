"""The web pages: their routes, and login sessions as random cookies that only this process
knows.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, unquote

from shipline import __version__
from shipline.oci import Digest, check_repository, check_tag
from shipline.server.http import Handler, Pool, Principal, Request, Response, Route, route
from shipline.server.node import RegistryNode
from shipline.server.pages import views
from shipline.server.pages.rendering import SAFE, asset, page
from shipline.server.problems import Problem, problem_of

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
            stored = self._sessions.get(_key(session))
            if stored is not None and stored.expires <= self._clock():
                self._sessions.pop(_key(session), None)
                return None
        return stored

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


_FORM_LIMIT = 16 << 10  # bytes
_CPU = Pool.CPU


@dataclass(frozen=True, slots=True)
class Visitor:
    """What every page shows about the visitor."""

    account: str
    can_log_in: bool
    host: str
    here: str
    version: str = __version__


def page_routes(node: RegistryNode) -> tuple[Route, ...]:
    """The pages show only what the visitor may pull."""
    site = Site(node)
    return (
        route("/", requires="own", pool=_CPU, GET=site.with_error_page(site.index)),
        route(
            "/-/assets/(?P<name>[a-z.]+)",
            requires="open",
            pool=_CPU,
            GET=site.with_error_page(site.asset),
        ),
        route(
            "/-/login",
            requires="own",
            pool=_CPU,
            GET=site.with_error_page(site.form),
            POST=site.with_error_page(site.log_in),
        ),
        route("/-/logout", requires="own", pool=_CPU, POST=site.with_error_page(site.log_out)),
        route(
            "/r/(?P<name>[^:@]+)/-/manifests",
            requires="own",
            pool=_CPU,
            GET=site.with_error_page(site.manifests),
        ),
        route(
            "/r/(?P<name>[^:@]+)",
            requires="own",
            pool=_CPU,
            GET=site.with_error_page(site.repository),
        ),
        route(
            "/r/(?P<name>[^:@]+):(?P<tag>[^/:@]+)",
            requires="own",
            pool=_CPU,
            GET=site.with_error_page(site.by_tag),
        ),
        route(
            "/r/(?P<name>[^:@]+)@(?P<digest>[^/@]+)",
            requires="own",
            pool=_CPU,
            GET=site.with_error_page(site.by_digest),
        ),
    )


class Site:
    """The pages of one node; all public methods but `with_error_page` are handlers."""

    def __init__(self, node: RegistryNode) -> None:
        self._node = node
        self._sessions = LoginSessions(node.storage.clock)

    def with_error_page(self, handler: Handler) -> Handler:
        """Wraps a handler: errors become a page instead of JSON."""

        def handle(request: Request, **arguments: str) -> Response:
            try:
                return handler(request, **arguments)
            except Exception as error:
                problem = problem_of(error)
                return page(
                    "problem.html",
                    status=problem.status,
                    headers=list(problem.headers),
                    title="Not found" if problem.status == 404 else "That did not work",
                    message=problem.message,
                    visitor=self._visitor(request),
                )

        return handle

    def index(self, request: Request) -> Response:
        search, after = _query(request)
        repositories = views.repositories(self._node, self._principal(request), after, search)
        return page(
            "repositories.html",
            found=repositories,
            search=search,
            visitor=self._visitor(request),
        )

    def repository(self, request: Request, name: str) -> Response:
        self._check_readable(request, name)
        search, after = _query(request)
        tags = views.tags(self._node, name, after, search)
        return page(
            "repository.html",
            name=name,
            found=tags,
            search=search,
            usage=self._node.storage.usage(name),
            visitor=self._visitor(request),
        )

    def manifests(self, request: Request, name: str) -> Response:
        self._check_readable(request, name)
        _, after = _query(request)
        rows = self._node.manifests.list_manifests(name, after, views.PAGE + 1)
        return page(
            "manifests.html",
            name=name,
            rows=rows[: views.PAGE],
            more=str(rows[views.PAGE - 1].digest) if len(rows) > views.PAGE else "",
            visitor=self._visitor(request),
        )

    def by_tag(self, request: Request, name: str, tag: str) -> Response:
        return self._manifest(request, name, check_tag(tag))

    def by_digest(self, request: Request, name: str, digest: str) -> Response:
        return self._manifest(request, name, Digest.parse(digest))

    def asset(self, request: Request, name: str) -> Response:
        response = asset(name)
        if response is None:
            raise Problem(404, "UNSUPPORTED", "The page has no such file.")
        return response

    def form(self, request: Request, refused: str = "", username: str = "") -> Response:
        if not self._node.authenticator.accounts:
            raise Problem(404, "UNSUPPORTED", "This node has no accounts.")
        return page(
            "login.html",
            status=401 if refused else 200,
            refused=refused,
            username=username,
            after=_local_path(request.parameter("next") or "/"),
            visitor=self._visitor(request),
        )

    def log_in(self, request: Request) -> Response:
        fields = _form(request)
        username, authenticator = fields.get("username", ""), self._node.authenticator
        if not authenticator.accounts:
            return self.form(request)
        try:
            principal = authenticator.sign_in(username, fields.get("password", ""), request.address)
        except Problem as problem:
            return self.form(request, problem.message, username)
        secure = "; Secure" if authenticator.is_secure(request) else ""
        value = f"{COOKIE}={self._sessions.start(principal)}; Path=/; HttpOnly; SameSite=Strict"
        return _redirect(
            _local_path(fields.get("next", "/")),
            ("Set-Cookie", f"{value}; Max-Age={LIFETIME_S:.0f}{secure}"),
        )

    def log_out(self, request: Request) -> Response:
        self._sessions.end(cookie(request.header("Cookie")))
        return _redirect("/", ("Set-Cookie", f"{COOKIE}=; Path=/; HttpOnly; Max-Age=0"))

    def _principal(self, request: Request) -> Principal:
        """The session's current principal, else the request's."""
        authenticator = self._node.authenticator
        session = (
            self._sessions.find(cookie(request.header("Cookie")))
            if authenticator.accounts
            else None
        )
        principal = (
            authenticator.principal_of(session.account, request.address) if session else None
        )
        if session is None or principal is None or principal.stamp != session.stamp:
            return request.principal
        return principal

    def _visitor(self, request: Request) -> Visitor:
        query = request.query_string
        here = request.path + (f"?{query}" if query else "")
        host = request.header("Host") or ""
        return Visitor(self._principal(request).name, self._node.authenticator.accounts, host, here)

    def _check_readable(self, request: Request, name: str) -> None:
        """Hidden repositories get the same answer as missing ones."""
        check_repository(name)
        if not self._node.storage.exists(name) or not self._principal(request).may("pull", name):
            raise Problem(
                404, "NAME_UNKNOWN", f"There is no repository {name}, or you may not see it."
            )

    def _manifest(self, request: Request, name: str, target: Digest | str) -> Response:
        self._check_readable(request, name)
        stored = self._node.manifests.get(name, target)
        if stored is None:
            raise Problem(404, "MANIFEST_UNKNOWN", f"{name} has no manifest {target}.")
        tag = target if isinstance(target, str) else ""
        visitor = self._visitor(request)
        verdict = self._node.admission.explain(name, stored)
        writes = self._principal(request).may("push", name)
        return page(
            "manifest.html",
            name=name,
            tag=tag,
            reference=f"{visitor.host}/{name}" + (f":{tag}" if tag else f"@{stored.digest}"),
            view=views.image(self._node, name, stored),
            verdict=verdict,
            withheld=verdict is not None and not verdict[0] and not writes,
            visitor=visitor,
        )


def _query(request: Request) -> tuple[str, str]:
    """The search text, and the name after which the page starts."""
    search, after = request.parameter("q") or "", request.parameter("after") or ""
    if "\0" in search + after:
        raise Problem(400, "NAME_INVALID", "Invalid name.")
    return search.strip().lower()[:255], after[:255]


def _form(request: Request) -> dict[str, str]:
    if request.content_type != "application/x-www-form-urlencoded":
        raise Problem(415, "UNSUPPORTED", "The form did not come from this page.")
    text = request.read(_FORM_LIMIT).decode("utf-8", "replace")
    return {key: values[-1] for key, values in parse_qs(text, keep_blank_values=True).items()}


def _local_path(path: str) -> str:
    """The redirect after login, confined to this node."""
    decoded = unquote(path)
    if not decoded.startswith("/") or decoded.startswith(("//", "/\\")) or "\n" in decoded:
        return "/"
    return quote(decoded, safe="/:@?&=-._~+%")


def _redirect(path: str, *headers: tuple[str, str]) -> Response:
    return Response.of(303, [("Location", path), ("Cache-Control", "no-store"), *SAFE, *headers])
