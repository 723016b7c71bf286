"""The server of `shipline ui`: who may see its pages, and how a page answers a request.

A page is a function from a PageRequest to a PageResponse, which runs on a thread; `PAGES` in
routes.py is the table of all. Nothing here knows what a page shows.

The address that the command prints carries a random token; it is exchanged for a cookie of this
process (HttpOnly, SameSite=Strict), so that other users of the machine, and other sites in the
same browser, see nothing. A Host header must be an address or a name of this machine: a name that
an attacker makes resolve to 127.0.0.1 (DNS rebinding) is refused. A form carries a secret of its
own besides, since SameSite does not tell ports of one host apart.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from aiohttp import web
from msgspec import Struct, field

from shipline.errors import NotFound, ShiplineError, UsageError
from shipline.observe import clean
from shipline.pages import SECURITY_HEADERS, Frame, Link, asset, render
from shipline.values import replace

HEADERS = dict(SECURITY_HEADERS)
NAVIGATION = (
    Link("Board", "/board"),
    Link("Releases", "/releases"),
    Link("Runs", "/runs"),
    Link("Regions", "/regions"),
)
_HOST = socket.gethostname()
_HTML = "text/html; charset=utf-8"
_FORM_LIMIT = 64 << 10  # bytes
_KEEPALIVE_S = 15.0
_SHUTDOWN_S = 1.0
_NAME_SHOWN = 255  # characters
_MOST_FOLLOWERS = 64


class Workspace(Struct, frozen=True):
    """What the pages are about: the state directory of this machine, and the directory of the
    project, with its shipline.yaml if there is one.
    """

    home: Path
    root: Path
    environ: Mapping[str, str] = field(default_factory=dict)


class PageRequest(Struct, frozen=True):
    """A request by somebody who has the cookie: captured parts of the path, fields of the query
    and, if it is a POST, of the form, whose `token` was compared.
    """

    workspace: Workspace
    path: str
    parts: Mapping[str, str]
    query: Mapping[str, str]
    form: Mapping[str, str]
    token: str

    def page(
        self, template: str, *, status: int = 200, live: str = "", **values: Any
    ) -> PageResponse:
        """A page of `pages/templates`; `live` is the path of its changes."""
        return PageResponse(render(template, frame=self.frame(live), **values), status)

    def frame(self, live: str = "") -> Frame:
        """What is around the page."""
        here = f"{self.path}/"
        navigation = tuple(
            replace(link, current=here.startswith(f"{link.href}/")) for link in NAVIGATION
        )
        return Frame(_HOST, time.time(), navigation=navigation, token=self.token, live=live)

    def here(self, below: str = "", **query: str) -> str:
        """The address of the page, or of one `below` it, with its query changed by `query`."""
        text = urlencode({**self.query, **query})
        return quote(self.path + below) + (f"?{text}" if text else "")


class PageResponse(Struct, frozen=True):
    """The answer; with `location` a redirect (303). A body in pieces is sent as it comes."""

    body: bytes | Iterator[bytes] = b""
    status: int = 200
    media_type: str = _HTML
    location: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


class PageChange(Struct, frozen=True):
    """The element of a page with this id is now `html`."""

    id: str
    html: str


class PageRoute(Struct, frozen=True):
    """A path as aiohttp writes it (`/runs/{run}`), with what GET and POST do; `follow` gives
    changes for as long as a page is open (server-sent events).
    """

    path: str
    show: Callable[[PageRequest], PageResponse] | None = None
    act: Callable[[PageRequest], PageResponse] | None = None
    follow: Callable[[PageRequest], AsyncIterator[PageChange]] | None = None


class Admittance:
    """The token of the printed address, the session behind it, and the secret of forms."""

    def __init__(self, names: Sequence[str], token: str = "") -> None:
        self.token = token or secrets.token_urlsafe(32)
        self.form_token = secrets.token_urlsafe(32)
        self._session = secrets.token_urlsafe(32)
        self._names = frozenset({"localhost", *(name.lower() for name in names)})

    def cookie(self, port: int) -> tuple[str, str]:
        """Name and value; cookies belong to a host, whatever the port, so it is in the name."""
        return f"shipline-ui-{port}", self._session

    def is_host(self, header: str) -> bool:
        """Whether a Host header names this machine: an address cannot be rebound, a name can."""
        try:
            name = urlsplit(f"//{header}").hostname or ""
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return True

    def admits(self, cookie: str) -> bool:
        return _same(cookie, self._session)

    def knows(self, token: str) -> bool:
        return _same(token, self.token)

    def sent(self, form_token: str) -> bool:
        """Whether a form is one of ours."""
        return _same(form_token, self.form_token)


def _same(sent: str, secret: str) -> bool:
    """Compared in constant time; what was sent may be no UTF-8."""
    return hmac.compare_digest(sent.encode(errors="surrogateescape"), secret.encode())


def problem(status: int, title: str, message: str, hint: str = "") -> PageResponse:
    """The page of an error."""
    frame = Frame(_HOST, time.time())
    values = {"title": title, "message": message, "hint": hint}
    return PageResponse(render("problem.html", frame=frame, **values), status)


def make_app(
    workspace: Workspace,
    pages: Sequence[PageRoute],
    admittance: Admittance,
    *,
    report: Callable[[BaseException], object],
) -> web.Application:
    """The application; `report` is told about exceptions that are bugs."""
    server = _Server(workspace, admittance, report)
    app = web.Application(client_max_size=_FORM_LIMIT, middlewares=[server.guard])
    app[_STOPPING] = asyncio.Event()

    app.router.add_get("/-/assets/{name}", _asset, name=_OPEN)
    for page in pages:
        if page.show is not None:
            app.router.add_get(page.path, server.shown(page.show))
        if page.act is not None:
            app.router.add_post(page.path, server.shown(page.act))
        if page.follow is not None:
            app.router.add_get(page.path, server.followed(page.follow))

    async def stop(app: web.Application) -> None:
        app[_STOPPING].set()

    app.on_shutdown.append(stop)
    return app


_STOPPING = web.AppKey("stopping", asyncio.Event)
_OPEN = "open"
Served = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Server:
    def __init__(
        self,
        workspace: Workspace,
        admittance: Admittance,
        report: Callable[[BaseException], object],
    ) -> None:
        self._workspace = workspace
        self._admittance = admittance
        self._report = report
        self._followers = 0

    @web.middleware
    async def guard(self, request: web.Request, handler: Served) -> web.StreamResponse:
        """Everything passes here: host, session, form, then the page and its errors."""
        if not self._admittance.is_host(request.host):
            hint = "open the address that `shipline ui` printed; --host NAME adds a name"
            name = clean(request.host)[:_NAME_SHOWN]
            answer = problem(421, "Another host", f"This is not {name}.", hint)
            return await self.send(request, answer)
        if request.match_info.route.name == _OPEN:
            return await handler(request)
        name, session = self._admittance.cookie(_port(request))
        if self._admittance.knows(request.query.get("token", "")):
            return _enter(request, name, session)
        if not self._admittance.admits(request.cookies.get(name, "")):
            hint = "open the address that `shipline ui` printed, with its token"
            answer = problem(403, "Not open to you", "This page belongs to one user.", hint)
            return await self.send(request, answer)
        try:
            if request.method == "POST" and not await self._is_own_form(request):
                hint = "go back, load the page again and repeat what you did"
                answer = problem(403, "Not done", "The form is not of this page.", hint)
                return await self.send(request, answer)
            return await handler(request)
        except web.HTTPException as error:
            lost = "There is nothing at this address." if error.status == 404 else ""
            return await self.send(request, problem(error.status, error.reason, lost))
        except ShiplineError as error:
            status = 404 if isinstance(error, NotFound | UsageError) else 500
            title = "Not found" if status == 404 else error.title.capitalize()
            answer = problem(status, title, error.message, error.hint)
            return await self.send(request, answer)
        except ConnectionError:
            raise
        except Exception as error:
            self._report(error)
            answer = problem(500, "A bug in shipline", f"{type(error).__name__}: {error}")
            return await self.send(request, answer)

    async def _is_own_form(self, request: web.Request) -> bool:
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.host:
            return False
        return self._admittance.sent(str((await request.post()).get("token", "")))

    def shown(self, page: Callable[[PageRequest], PageResponse]) -> Served:
        async def serve(request: web.Request) -> web.StreamResponse:
            asked = await self._request(request)
            return await self.send(request, await asyncio.to_thread(page, asked))

        return serve

    def followed(self, follow: Callable[[PageRequest], AsyncIterator[PageChange]]) -> Served:
        async def serve(request: web.Request) -> web.StreamResponse:
            if self._followers >= _MOST_FOLLOWERS:  # a page without changes is whole, too
                raise web.HTTPServiceUnavailable
            headers = {**HEADERS, "Content-Type": "text/event-stream", "Cache-Control": "no-store"}
            response = web.StreamResponse(headers=headers)
            self._followers += 1
            try:
                await response.prepare(request)
                changes = follow(await self._request(request))
                stopping = asyncio.ensure_future(request.app[_STOPPING].wait())
                with suppress(ConnectionError):
                    await _send_changes(response, changes, stopping)
                stopping.cancel()
            finally:
                self._followers -= 1
            return response

        return serve

    async def _request(self, request: web.Request) -> PageRequest:
        form = await request.post() if request.method == "POST" else {}
        return PageRequest(
            workspace=self._workspace,
            path=request.path,
            parts=dict(request.match_info),
            query=dict(request.query),
            form={name: value for name, value in form.items() if isinstance(value, str)},
            token=self._admittance.form_token,
        )

    async def send(self, request: web.Request, answer: PageResponse) -> web.StreamResponse:
        headers = {"Cache-Control": "no-store", **HEADERS, "Content-Type": answer.media_type}
        if answer.location:
            headers["Location"] = answer.location
        headers |= answer.headers
        status = 303 if answer.location else answer.status
        if isinstance(answer.body, bytes):
            return web.Response(status=status, headers=headers, body=answer.body)
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(request)
        while (piece := await asyncio.to_thread(next, answer.body, None)) is not None:
            await response.write(piece)
        await response.write_eof()
        return response


async def _send_changes(
    response: web.StreamResponse, changes: AsyncIterator[PageChange], stopping: asyncio.Future[Any]
) -> None:
    """Send changes until there are no more, the page is closed or the server stops."""

    async def following() -> PageChange | None:
        return await anext(changes, None)

    while True:
        coming = asyncio.ensure_future(following())
        while not coming.done():
            await asyncio.wait(
                {coming, stopping}, timeout=_KEEPALIVE_S, return_when=asyncio.FIRST_COMPLETED
            )
            if stopping.done():
                coming.cancel()
                return
            if not coming.done():
                await response.write(b": still here\n\n")  # finds a page that was closed
        change = coming.result()
        if change is None:
            await response.write(b"event: end\ndata:\n\n")
            return
        data = json.dumps({"id": change.id, "html": change.html})
        await response.write(f"event: change\ndata: {data}\n\n".encode())


async def _asset(request: web.Request) -> web.StreamResponse:
    found = asset(request.match_info["name"])
    if found is None:
        raise web.HTTPNotFound
    headers = dict(found.headers(request.query.get("v", "")))
    if request.headers.get("If-None-Match") == found.tag:
        return web.Response(status=304, headers=headers)
    return web.Response(headers=headers, body=found.content)


def _enter(request: web.Request, name: str, session: str) -> web.Response:
    """Give the cookie, and go on without the token.

    Not by a redirect: a browser that was sent here by another site, or a file, would not send a
    SameSite=Strict cookie along with it (RFC 6265bis, 5.2).
    """
    query = {key: value for key, value in request.query.items() if key != "token"}
    target = escape(str(request.rel_url.with_query(query)), quote=True)
    body = (
        "<!doctype html><html lang=en><meta charset=utf-8><title>shipline</title>"
        "<link rel=icon href=data:,>"
        f'<meta http-equiv=refresh content="0; url={target}"><a href="{target}">Continue</a></html>'
    )
    headers = {**HEADERS, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    response = web.Response(text=body, content_type="text/html", headers=headers)
    response.set_cookie(name, session, httponly=True, samesite="Strict", path="/")
    return response


def _port(request: web.Request) -> int:
    assert request.transport is not None
    port: int = request.transport.get_extra_info("sockname")[1]
    return port


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UsageError."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}: {error}", code="listen-address", hint="name an address"
        ) from None
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen()
    except OSError as error:
        opened.close()
        hint = "--port 0 takes a free port" if port else "name an address of this machine"
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror}", code="listen-address", hint=hint
        ) from None
    return opened


async def serve(
    app: web.Application, opened: socket.socket, ready: Callable[[], object], stop: asyncio.Event
) -> None:
    """Answer requests until `stop` is set; open event streams end with it."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    try:
        await web.SockSite(runner, opened).start()
        ready()
        await stop.wait()
    finally:
        await runner.cleanup()
