"""The page's addresses: `/`, `/r/NAME`, `/r/NAME:TAG`, `/r/NAME@DIGEST`, and the login."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs, quote, unquote

from shipline import __version__
from shipline.oci import Digest, check_repository, check_tag
from shipline.server.http import Handler, Principal, Request, Response, Route, Step, route
from shipline.server.node import Node
from shipline.server.pages import views
from shipline.server.pages.rendering import SAFE, asset, page
from shipline.server.pages.sessions import COOKIE, LIFETIME_S, LoginSessions, cookie
from shipline.server.problems import Problem, problem_of

_FORM_LIMIT = 16 << 10  # bytes
_CPU = Step.CPU


@dataclass(frozen=True, slots=True)
class Visitor:
    """What every page says about who looks at it."""

    account: str
    can_log_in: bool
    host: str
    here: str
    version: str = __version__


def page_routes(node: Node) -> tuple[Route, ...]:
    """Nothing is shown that the visitor could not pull."""
    site = Site(node)
    return (
        route("/", need="own", place=_CPU, GET=site.shown(site.front)),
        route("/-/assets/(?P<name>[a-z.]+)", need="open", place=_CPU, GET=site.shown(site.asset)),
        route(
            "/-/login",
            need="own",
            place=_CPU,
            GET=site.shown(site.form),
            POST=site.shown(site.log_in),
        ),
        route("/-/logout", need="own", place=_CPU, POST=site.shown(site.log_out)),
        route(
            "/r/(?P<name>[^:@]+)/-/manifests",
            need="own",
            place=_CPU,
            GET=site.shown(site.manifests),
        ),
        route("/r/(?P<name>[^:@]+)", need="own", place=_CPU, GET=site.shown(site.repository)),
        route(
            "/r/(?P<name>[^:@]+):(?P<tag>[^/:@]+)",
            need="own",
            place=_CPU,
            GET=site.shown(site.by_tag),
        ),
        route(
            "/r/(?P<name>[^:@]+)@(?P<digest>[^/@]+)",
            need="own",
            place=_CPU,
            GET=site.shown(site.by_digest),
        ),
    )


class Site:
    """The pages of one node; the public methods but `shown` are handlers."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._sessions = LoginSessions(node.storage.clock)

    def shown(self, handler: Handler) -> Handler:
        """The handler, with a page instead of JSON where something is wrong."""

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

    def front(self, request: Request) -> Response:
        search, after = _query(request)
        found = views.repositories(self._node, self._identity(request), after, search)
        return page(
            "repositories.html",
            found=found,
            search=search,
            visitor=self._visitor(request),
        )

    def repository(self, request: Request, name: str) -> Response:
        self._check_readable(request, name)
        search, after = _query(request)
        found = views.tags(self._node, name, after, search)
        return page(
            "repository.html",
            name=name,
            found=found,
            search=search,
            usage=self._node.storage.usage(name),
            visitor=self._visitor(request),
        )

    def manifests(self, request: Request, name: str) -> Response:
        self._check_readable(request, name)
        _, after = _query(request)
        rows = self._node.manifests.listing(name, after, views.PAGE + 1)
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
        found = asset(name)
        if found is None:
            raise Problem(404, "UNSUPPORTED", "The page has no such file.")
        return found

    def form(self, request: Request, refused: str = "", username: str = "") -> Response:
        if not self._node.guard.accounts:
            raise Problem(404, "UNSUPPORTED", "This node has no accounts.")
        return page(
            "login.html",
            status=401 if refused else 200,
            refused=refused,
            username=username,
            after=_local(request.parameter("next") or "/"),
            visitor=self._visitor(request),
        )

    def log_in(self, request: Request) -> Response:
        fields = _form(request)
        username, guard = fields.get("username", ""), self._node.guard
        if not guard.accounts:
            return self.form(request)
        try:
            found = guard.sign_in(username, fields.get("password", ""), request.address)
        except Problem as problem:
            return self.form(request, problem.message, username)
        secure = "; Secure" if guard.is_secure(request) else ""
        value = f"{COOKIE}={self._sessions.begin(found)}; Path=/; HttpOnly; SameSite=Strict"
        return _see(
            _local(fields.get("next", "/")),
            ("Set-Cookie", f"{value}; Max-Age={LIFETIME_S:.0f}{secure}"),
        )

    def log_out(self, request: Request) -> Response:
        self._sessions.end(cookie(request.header("Cookie")))
        return _see("/", ("Set-Cookie", f"{COOKIE}=; Path=/; HttpOnly; Max-Age=0"))

    def _identity(self, request: Request) -> Principal:
        """The account of the session, as it is now; else who the guard has admitted."""
        guard = self._node.guard
        session = self._sessions.find(cookie(request.header("Cookie"))) if guard.accounts else None
        found = guard.identity_of(session.account, request.address) if session else None
        if session is None or found is None or found.stamp != session.stamp:
            return request.identity
        return found

    def _visitor(self, request: Request) -> Visitor:
        query = request.query_string
        here = request.path + (f"?{query}" if query else "")
        host = request.header("Host") or ""
        return Visitor(self._identity(request).name, self._node.guard.accounts, host, here)

    def _check_readable(self, request: Request, name: str) -> None:
        """What a visitor may not see is not told apart from what is not there."""
        check_repository(name)
        if not self._node.storage.exists(name) or not self._identity(request).may("pull", name):
            raise Problem(404, "NAME_UNKNOWN", f"There is no repository {name} that you may see.")

    def _manifest(self, request: Request, name: str, target: Digest | str) -> Response:
        self._check_readable(request, name)
        stored = self._node.manifests.get(name, target)
        if stored is None:
            raise Problem(404, "MANIFEST_UNKNOWN", f"{name} has nothing under {target}.")
        tag = target if isinstance(target, str) else ""
        visitor = self._visitor(request)
        verdict = self._node.door.explain(name, stored)
        writes = self._identity(request).may("push", name)
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
    """What is searched for, and the name to go on behind."""
    search, after = request.parameter("q") or "", request.parameter("after") or ""
    if "\0" in search + after:
        raise Problem(400, "NAME_INVALID", "That cannot be a name.")
    return search.strip().lower()[:255], after[:255]


def _form(request: Request) -> dict[str, str]:
    if request.content_type != "application/x-www-form-urlencoded":
        raise Problem(415, "UNSUPPORTED", "The form did not come from this page.")
    text = request.read(_FORM_LIMIT).decode("utf-8", "replace")
    return {key: values[-1] for key, values in parse_qs(text, keep_blank_values=True).items()}


def _local(path: str) -> str:
    """Where to go after the login: only ever a path of this node."""
    decoded = unquote(path)
    if not decoded.startswith("/") or decoded.startswith(("//", "/\\")) or "\n" in decoded:
        return "/"
    return quote(decoded, safe="/:@?&=-._~+%")


def _see(path: str, *headers: tuple[str, str]) -> Response:
    return Response.of(303, [("Location", path), ("Cache-Control", "no-store"), *SAFE, *headers])
