"""The pages of a node: lists, images, and logging in."""

from __future__ import annotations

import re
from urllib.parse import urlencode

from shipline.oci import Digest, check_tag
from shipline.pages import asset
from shipline.server.admission.protocol import PullVerdict
from shipline.server.http import Request, Response, Route
from shipline.server.node import RegistryNode
from shipline.server.pages import images, lists
from shipline.server.pages.accounts import account_page_routes
from shipline.server.pages.changes import change_routes
from shipline.server.pages.operations import operation_page_routes
from shipline.server.pages.site import (
    COOKIE,
    LIFETIME_S,
    Site,
    cookie,
    first,
    local_path,
    read_form,
    redirect,
)
from shipline.server.problems import Problem

_COMMAND = re.compile("`(shipline [^`]+)`")
_NAME, _TAG, _DIGEST = "(?P<name>[^:@]+)", "(?P<tag>[^/:@]+)", "(?P<digest>[^/@]+)"


def page_routes(node: RegistryNode) -> tuple[Route, ...]:
    """The pages show and do only what the visitor may."""
    site = Site(node)
    pages, login = ImagePages(site), LoginPages(site)
    return (
        site.route("/", GET=pages.index),
        site.route("/-/assets/(?P<name>[a-z.]+)", requires="open", GET=_asset),
        site.route("/-/login", GET=login.form, POST=login.log_in),
        site.route("/-/logout", POST=login.log_out),
        *operation_page_routes(site),
        *account_page_routes(site),
        *change_routes(site),
        site.route(f"/r/{_NAME}/-/manifests", GET=pages.manifests),
        site.route(f"/r/{_NAME}/-/packages", GET=pages.packages),
        site.route(f"/r/{_NAME}", GET=pages.tags),
        site.route(f"/r/{_NAME}:{_TAG}", GET=pages.by_tag),
        site.route(f"/r/{_NAME}@{_DIGEST}", GET=pages.by_digest),
    )


def _asset(request: Request, name: str) -> Response:
    found = asset(name)
    if found is None:
        raise Problem(404, "UNSUPPORTED", "The pages have no such file.")
    headers = found.headers(request.parameter("v") or "")
    if request.header("If-None-Match") == found.tag:
        return Response(304, [header for header in headers if header[0] != "Content-Encoding"])
    return Response.of(200, headers, found.content)


class ImagePages:
    """Repositories, tags, manifests and images; all public methods are handlers."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._node = site.node

    def index(self, request: Request) -> Response:
        search, after = _query(request)
        found = lists.repositories(self._node, self._site.principal(request), after, search)
        more = _next(request, "/", found.more)
        return self._site.page(
            request, "repositories.html", "Images", found=found, search=search, next=more
        )

    def tags(self, request: Request, name: str) -> Response:
        principal = self._site.readable(request, name)
        search, after = _query(request)
        order = "name" if request.parameter("sort") == "name" else ""
        found = lists.tags(self._node, name, after, search, order)
        return self._site.page(
            request,
            "tags.html",
            "Images",
            name=name,
            found=found,
            search=search,
            order=order,
            first_page=not (search or order or after),
            usage=self._node.storage.usage(name),
            next=_next(request, f"/r/{name}", found.more),
            pushes=principal.may("push", name),
        )

    def manifests(self, request: Request, name: str) -> Response:
        self._site.readable(request, name)
        _, after = _query(request)
        rows = self._node.manifests.list_manifests(name, after, lists.PAGE + 1)
        more = str(rows[lists.PAGE - 1].digest) if len(rows) > lists.PAGE else ""
        return self._site.page(
            request,
            "manifests.html",
            "Images",
            name=name,
            rows=rows[: lists.PAGE],
            usage=self._node.storage.usage(name),
            next=_next(request, f"/r/{name}/-/manifests", more),
        )

    def by_tag(self, request: Request, name: str, tag: str) -> Response:
        return self._image(request, name, check_tag(tag))

    def by_digest(self, request: Request, name: str, digest: str) -> Response:
        return self._image(request, name, Digest.parse(digest))

    def packages(self, request: Request, name: str) -> Response:
        """The packages of one image in an index; those of a refused one are withheld."""
        principal = self._site.readable(request, name)
        index = Digest.parse(request.parameter("in") or "")
        image = Digest.parse(request.parameter("image") or "")
        stored = self._node.manifests.get(name, index)
        if stored is None:
            raise Problem(404, "MANIFEST_UNKNOWN", f"{name} has no manifest {index}.")
        verdict = self._node.admission.explain(name, stored)
        if verdict is not None and not verdict.allowed and not principal.may("push", name):
            raise Problem(403, "DENIED", "What is in this image is withheld: a rule refuses it.")
        search, _ = _query(request)
        found = images.packages(self._node, name, image, stored)
        start = int(text) if (text := (request.parameter("after") or "0")[:7]).isdecimal() else 0
        rows = [one for one in found or () if search in one.name.lower()]
        last = start + lists.PAGE
        more = str(last) if len(rows) > last else ""
        return self._site.page(
            request,
            "packages.html",
            "Images",
            name=name,
            index=index,
            image=image,
            rows=rows[start:last],
            matching=len(rows),
            listed=found is not None,
            every=len(found or ()),
            search=search,
            next=_next(request, f"/r/{name}/-/packages", more),
        )

    def _image(self, request: Request, name: str, target: Digest | str) -> Response:
        principal = self._site.readable(request, name)
        tag = target if isinstance(target, str) else ""
        if tag and not principal.may("pull", name, tag):
            raise Problem(403, "DENIED", f"You may not pull {name}:{tag}.")
        stored = self._node.manifests.get(name, target)
        if stored is None:
            raise Problem(404, "MANIFEST_UNKNOWN", f"{name} has no manifest {target}.")
        verdict = self._node.admission.explain(name, stored)
        refused = verdict is not None and not verdict.allowed
        pushes = principal.may("push", name)
        host = self._site.host(request)
        platform = request.parameter("platform") or ""
        pinned = f"{host}/{name}@{stored.digest}"
        return self._site.page(
            request,
            "image.html",
            "Images",
            name=name,
            tag=tag,
            tagged=self._node.manifests.tag(name, tag) if tag else None,
            pinned=pinned,
            reference=f"{host}/{name}:{tag}" if tag else pinned,
            view=images.image(self._node, name, stored, platform),
            verdict=verdict,
            refused=refused,
            cure=_cure(verdict, pinned) if refused and verdict else "",
            scan=self._node.admission.scan(name, stored),
            withheld=refused and not pushes,
            pushes=pushes,
            deletes=principal.may("delete", name, tag),
        )


def _cure(verdict: PullVerdict, reference: str) -> str:
    """The command in the hint, with this image; empty if there is none."""
    found = _COMMAND.search(verdict.hint)
    if found is None:
        return ""
    command = found[1].replace("IMAGE", reference).replace(" ...", " --predicate FILE --key KEY")
    return command if reference in command else f"{command} {reference}"


class LoginPages:
    """Logging in and out; all public methods are handlers."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def form(self, request: Request, refused: str = "", username: str = "") -> Response:
        node = self._site.node
        if not node.authenticator.accounts:
            raise Problem(404, "UNSUPPORTED", "This registry has no accounts.")
        view = node.accounts.store.view() if node.accounts is not None else None
        public = sorted(one.name for one in view.projects.values() if one.public) if view else []
        return self._site.page(
            request,
            "login.html",
            status=401 if refused else 200,
            refused=refused,
            username=username,
            after=local_path(request.parameter("next") or "/"),
            public=public,
        )

    def log_in(self, request: Request) -> Response:
        fields = read_form(request)
        username, authenticator = first(fields, "username"), self._site.node.authenticator
        if not authenticator.accounts:
            return self.form(request)
        password = fields.get("password", ("",))[0]
        try:
            principal = authenticator.sign_in(username, password, request.address)
        except Problem as problem:
            return self.form(request, problem.message, username)
        secure = "; Secure" if authenticator.is_secure(request) else ""
        session = self._site.sessions.start(principal)
        value = f"{COOKIE}={session}; Path=/; HttpOnly; SameSite=Strict"
        return redirect(
            local_path(first(fields, "next") or "/"),
            ("Set-Cookie", f"{value}; Max-Age={LIFETIME_S:.0f}{secure}"),
        )

    def log_out(self, request: Request) -> Response:
        if self._site.sessions.find(cookie(request)) is not None:
            self._site.form(request)
        self._site.sessions.end(cookie(request))
        return redirect("/", ("Set-Cookie", f"{COOKIE}=; Path=/; HttpOnly; Max-Age=0"))


def _query(request: Request) -> tuple[str, str]:
    """The search text, and the name after which the page starts."""
    search, after = request.parameter("q") or "", request.parameter("after") or ""
    if "\0" in search + after:
        raise Problem(400, "NAME_INVALID", "Invalid name.")
    return search.strip().lower()[:255], after[:300]


def _next(request: Request, path: str, after: str) -> str:
    """The path of the page that begins after a name, empty without one."""
    if not after:
        return ""
    kept = {key: values[-1] for key, values in request.query.items() if key != "after"}
    return f"{path}?{urlencode({**kept, 'after': after})}"
