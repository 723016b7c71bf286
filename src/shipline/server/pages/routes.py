"""The page's addresses: `/`, `/r/NAME`, `/r/NAME:TAG`, `/r/NAME@DIGEST`, and the login."""

from __future__ import annotations

import json
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, unquote

from shipline import __version__
from shipline.oci import Digest, check_repository, check_tag
from shipline.server.http import Handler, Request, Response, Route, route
from shipline.server.identity import Identity
from shipline.server.node import Node
from shipline.server.pages import views
from shipline.server.pages.rendering import SAFE, asset, page
from shipline.server.pages.sessions import COOKIE, LIFETIME_S, Sessions, cookie
from shipline.server.problems import Problem, problem_of

_FORM_LIMIT = 16 << 10  # bytes


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
    sessions = Sessions(node.storage.clock)
    guard = node.guard

    def identity(request: Request) -> Identity:
        session = sessions.find(cookie(request.header("Cookie"))) if guard.accounts else None
        found = guard.identity_of(session.account, request.address) if session else None
        if session is None or found is None or found.stamp != session.stamp:
            return request.identity
        return found

    def visitor(request: Request) -> Visitor:
        query = request.query_string
        here = request.path + (f"?{query}" if query else "")
        host = request.header("Host") or ""
        return Visitor(identity(request).name, guard.accounts, host, here)

    def shown(handler: Handler) -> Handler:
        """A page instead of JSON where something is wrong."""

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
                    visitor=visitor(request),
                )

        return handle

    def front(request: Request) -> Response:
        search, after = _query(request)
        rows = views.repositories(node, identity(request), after, search)
        more = rows[views.PAGE - 1].name if len(rows) > views.PAGE else ""
        return page(
            "repositories.html",
            rows=rows[: views.PAGE],
            more=more,
            search=search,
            visitor=visitor(request),
        )

    def readable(request: Request, name: str) -> str:
        """The name, if there is such a repository for this visitor: else it is not told apart."""
        check_repository(name)
        if not node.storage.exists(name) or not identity(request).may("pull", name):
            raise Problem(404, "NAME_UNKNOWN", f"There is no repository {name} that you may see.")
        return name

    def repository(request: Request, name: str) -> Response:
        readable(request, name)
        search, after = _query(request)
        rows = views.tags(node, name, after, search)
        more = rows[views.PAGE - 1].tagged.tag if len(rows) > views.PAGE else ""
        return page(
            "repository.html",
            name=name,
            rows=rows[: views.PAGE],
            more=more,
            search=search,
            usage=node.storage.usage(name),
            visitor=visitor(request),
        )

    def manifests(request: Request, name: str) -> Response:
        readable(request, name)
        _, after = _query(request)
        rows = node.manifests.listing(name, after, views.PAGE + 1)
        more = str(rows[views.PAGE - 1].digest) if len(rows) > views.PAGE else ""
        return page(
            "manifests.html",
            name=name,
            rows=rows[: views.PAGE],
            more=more,
            visitor=visitor(request),
        )

    def manifest(request: Request, name: str, target: Digest | str) -> Response:
        readable(request, name)
        stored = node.manifests.get(name, target)
        if stored is None:
            raise Problem(404, "MANIFEST_UNKNOWN", f"{name} has nothing under {target}.")
        tag = target if isinstance(target, str) else ""
        seen = visitor(request)
        reference = f"{seen.host}/{name}" + (f":{tag}" if tag else f"@{stored.digest}")
        return page(
            "manifest.html",
            name=name,
            tag=tag,
            reference=reference,
            view=views.image(node, name, stored),
            verdict=node.door.explain(name, stored),
            pretty=json.dumps(json.loads(stored.raw), indent=2, ensure_ascii=False),
            visitor=seen,
        )

    def by_tag(request: Request, name: str, tag: str) -> Response:
        return manifest(request, name, check_tag(tag))

    def by_digest(request: Request, name: str, digest: str) -> Response:
        return manifest(request, name, Digest.parse(digest))

    def assets(request: Request, name: str) -> Response:
        found = asset(name)
        if found is None:
            raise Problem(404, "UNSUPPORTED", "The page has no such file.")
        return found

    def form(request: Request, refused: str = "", username: str = "") -> Response:
        if not guard.accounts:
            raise Problem(404, "UNSUPPORTED", "This node has no accounts.")
        return page(
            "login.html",
            status=401 if refused else 200,
            refused=refused,
            username=username,
            after=_local(request.parameter("next") or "/"),
            visitor=visitor(request),
        )

    def log_in(request: Request) -> Response:
        _same_origin(request)
        fields = _form(request)
        username = fields.get("username", "")
        if not guard.accounts:
            return form(request)
        try:
            found = guard.sign_in(username, fields.get("password", ""), request.address)
        except Problem as problem:
            return form(request, problem.message, username)
        secure = "; Secure" if request.scheme == "https" else ""
        value = f"{COOKIE}={sessions.begin(found)}; Path=/; HttpOnly; SameSite=Strict"
        return _see(
            _local(fields.get("next", "/")),
            ("Set-Cookie", f"{value}; Max-Age={LIFETIME_S:.0f}{secure}"),
        )

    def log_out(request: Request) -> Response:
        _same_origin(request)
        sessions.end(cookie(request.header("Cookie")))
        return _see("/", ("Set-Cookie", f"{COOKIE}=; Path=/; HttpOnly; Max-Age=0"))

    def table(pattern: str, need: str = "own", **handlers: Handler) -> Route:
        safe = {method: shown(handler) for method, handler in handlers.items()}
        return route(pattern, need="open" if need == "open" else "own", **safe)

    return (
        table("/", GET=front),
        table("/-/assets/(?P<name>[a-z.]+)", "open", GET=assets),
        table("/-/login", GET=form, POST=log_in),
        table("/-/logout", POST=log_out),
        table("/r/(?P<name>[^:@]+)/-/manifests", GET=manifests),
        table("/r/(?P<name>[^:@]+)", GET=repository),
        table("/r/(?P<name>[^:@]+):(?P<tag>[^/:@]+)", GET=by_tag),
        table("/r/(?P<name>[^:@]+)@(?P<digest>[^/@]+)", GET=by_digest),
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


def _same_origin(request: Request) -> None:
    """Browsers say where a form comes from; one of another site is not taken (RFC 6454)."""
    origin = request.header("Origin")
    if origin is not None and origin != f"{request.scheme}://{request.header('Host')}":
        raise Problem(403, "DENIED", "The form did not come from this page.")


def _local(path: str) -> str:
    """Where to go after the login: only ever a path of this node."""
    decoded = unquote(path)
    if not decoded.startswith("/") or decoded.startswith(("//", "/\\")) or "\n" in decoded:
        return "/"
    return quote(decoded, safe="/:@?&=-._~+%")


def _see(path: str, *headers: tuple[str, str]) -> Response:
    return Response.of(303, [("Location", path), ("Cache-Control", "no-store"), *SAFE, *headers])
