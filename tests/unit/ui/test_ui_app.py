"""Who may see the pages of `shipline ui`, and what their answers carry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession, CookieJar, web

from shipline.errors import NotFound
from shipline.ui.app import (
    Admittance,
    PageChange,
    PageRequest,
    PageResponse,
    PageRoute,
    Workspace,
    make_app,
    open_socket,
    serve,
)


def hello(request: PageRequest) -> PageResponse:
    return PageResponse(f"hello {request.parts['name']} {request.query.get('q', '')}".encode())


def act(request: PageRequest) -> PageResponse:
    return PageResponse(location=f"/hello/{request.form['name']}")


def missing(request: PageRequest) -> PageResponse:
    raise NotFound("there is no <run>", hint="look elsewhere")


def broken(request: PageRequest) -> PageResponse:
    raise ZeroDivisionError("by <zero>")


async def changes(request: PageRequest) -> AsyncIterator[PageChange]:
    yield PageChange("step-1", "<b>one</b>")
    yield PageChange("step-2", "two\nlines")


async def endless(request: PageRequest) -> AsyncIterator[PageChange]:
    await asyncio.sleep(3600)
    yield PageChange("never", "")


PAGES = (
    PageRoute("/hello/{name}", show=hello),
    PageRoute("/do", show=hello, act=act),
    PageRoute("/missing", show=missing),
    PageRoute("/broken", show=broken),
    PageRoute("/changes", follow=changes),
    PageRoute("/endless", follow=endless),
    PageRoute("/pieces", show=lambda _: PageResponse(iter([b"one", b"two"]), media_type="x/y")),
)


class Browser:
    """A client of the server with a cookie jar."""

    def __init__(self, session: ClientSession, url: str, admittance: Admittance) -> None:
        self.session, self.url, self.admittance = session, url, admittance

    async def get(self, path: str, **options: Any) -> ClientResponse:
        return await self.session.get(self.url + path, allow_redirects=False, **options)

    async def post(self, path: str, form: dict[str, str], **options: Any) -> ClientResponse:
        return await self.session.post(self.url + path, data=form, allow_redirects=False, **options)

    async def enter(self) -> None:
        answer = await self.get("/hello/x?token=" + self.admittance.token)
        assert answer.status == 200, await answer.text()


def visit(work: Callable[[Browser], Coroutine[Any, Any, None]]) -> list[BaseException]:
    """Run `work` with a server; returns the bugs that the server reported."""
    reported: list[BaseException] = []

    async def run() -> None:
        admittance = Admittance(["box.example"])
        workspace = Workspace(Path("/nowhere"), Path("/nowhere"))
        app: web.Application = make_app(workspace, PAGES, admittance, report=reported.append)
        opened, stop, started = open_socket("127.0.0.1", 0), asyncio.Event(), asyncio.Event()
        url = f"http://127.0.0.1:{opened.getsockname()[1]}"
        serving = asyncio.create_task(serve(app, opened, started.set, stop))
        await started.wait()
        async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as session:
            try:
                await work(Browser(session, url, admittance))
            finally:
                stop.set()
                await asyncio.wait_for(serving, 10)

    asyncio.run(run())
    return reported


def test_without_the_token_nothing_is_shown() -> None:
    async def work(browser: Browser) -> None:
        for path in ("/hello/x", "/hello/x?token=guess", "/changes", "/nothing"):
            answer = await browser.get(path)
            assert answer.status == 403 and "hello" not in await answer.text()
        assert (await browser.post("/do", {"token": browser.admittance.form_token})).status == 403

    visit(work)


def test_the_token_becomes_a_cookie_that_scripts_and_other_sites_do_not_have() -> None:
    async def work(browser: Browser) -> None:
        answer = await browser.get(f"/hello/x?q=1&token={browser.admittance.token}")
        cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
        assert browser.admittance.token not in cookie + await answer.text()
        assert 'url=/hello/x?q=1"' in await answer.text()
        shown = await browser.get("/hello/x?q=1")
        assert await shown.text() == "hello x 1"

    visit(work)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:80", 200),
        ("[::1]:80", 200),
        ("192.0.2.7", 200),
        ("localhost:1", 200),
        ("BOX.example", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:80", 421),
        ("", 421),
        ("[::1", 421),
        ("\udcff", 421),
    ],
)
def test_a_name_that_another_site_can_rebind_is_refused(host: str, status: int) -> None:
    async def work(browser: Browser) -> None:
        await browser.enter()
        for path in ("/hello/x", "/-/assets/style.css"):
            answer = await browser.get(path, headers={"Host": host})
            assert answer.status == status

    visit(work)


def test_a_cookie_token_or_form_that_is_no_text_is_a_wrong_one() -> None:
    no_text = "\udcff"

    async def work(browser: Browser) -> None:
        cookie = f"shipline-ui-{browser.url.rpartition(':')[2]}={no_text}"
        answer = await browser.get("/hello/x", headers={"Cookie": cookie})
        assert answer.status == 403

    assert visit(work) == []
    admittance = Admittance([])
    for knows in (admittance.admits, admittance.knows, admittance.sent):
        assert not knows(no_text)


def test_a_form_without_its_secret_or_of_another_origin_does_nothing() -> None:
    async def work(browser: Browser) -> None:
        await browser.enter()
        secret = browser.admittance.form_token
        assert (await browser.post("/do", {"name": "x"})).status == 403
        assert (await browser.post("/do", {"name": "x", "token": secret + "x"})).status == 403
        foreign = {"Origin": "http://127.0.0.1:1"}
        form = {"name": "x", "token": secret}
        assert (await browser.post("/do", form, headers=foreign)).status == 403
        answer = await browser.post("/do", form, headers={"Origin": browser.url})
        assert (answer.status, answer.headers["Location"]) == (303, "/hello/x")
        large = await browser.post("/do", {**form, "more": "x" * (1 << 20)})
        assert large.status == 413

    visit(work)


def test_every_answer_is_kept_from_frames_scripts_and_caches() -> None:
    async def work(browser: Browser) -> None:
        answers = [await browser.get("/hello/x")]
        await browser.enter()
        for path in ("/hello/x", "/missing", "/broken", "/nothing", "/pieces", "/changes"):
            answers.append(await browser.get(path))
        for answer in answers:
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"

    visit(work)


def test_an_error_is_a_page_and_a_bug_is_reported_too() -> None:
    async def work(browser: Browser) -> None:
        await browser.enter()
        answer = await browser.get("/missing")
        assert answer.status == 404
        assert "<p>there is no &lt;run&gt;</p><p>look elsewhere</p>" in await answer.text()
        answer = await browser.get("/broken")
        assert answer.status == 500
        assert "ZeroDivisionError: by &lt;zero&gt;" in await answer.text()
        assert (await browser.get("/nothing")).status == 404
        assert (
            await browser.post("/hello/x", {"token": browser.admittance.form_token})
        ).status == 405

    assert [type(bug) for bug in visit(work)] == [ZeroDivisionError]


def test_changes_are_server_sent_events_until_there_are_no_more() -> None:
    async def work(browser: Browser) -> None:
        await browser.enter()
        answer = await browser.get("/changes")
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert await answer.text() == (
            'event: change\ndata: {"id": "step-1", "html": "<b>one</b>"}\n\n'
            'event: change\ndata: {"id": "step-2", "html": "two\\nlines"}\n\n'
            "event: end\ndata:\n\n"
        )

    visit(work)


def test_more_open_pages_than_a_person_has_get_no_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shipline.ui.app._MOST_FOLLOWERS", 3)

    async def work(browser: Browser) -> None:
        await browser.enter()
        opened = [await browser.get("/endless") for _ in range(4)]
        assert [one.status for one in opened] == [200, 200, 200, 503]
        assert (await browser.get("/hello/x")).status == 200

    visit(work)


def test_an_open_page_does_not_keep_the_server_from_stopping() -> None:
    async def work(browser: Browser) -> None:
        await browser.enter()
        assert (await browser.get("/endless")).status == 200

    visit(work)


def test_assets_are_kept_by_their_fingerprint() -> None:
    async def work(browser: Browser) -> None:
        answer = await browser.get("/-/assets/style.css")
        assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-cache")
        tag = answer.headers["ETag"]
        answer = await browser.get("/-/assets/style.css", headers={"If-None-Match": tag})
        assert (answer.status, await answer.read()) == (304, b"")
        answer = await browser.get("/-/assets/style.css?v=" + tag.strip('"'))
        assert "immutable" in answer.headers["Cache-Control"]
        for name in ("nothing.css", "..%2Fbase.html"):
            assert (await browser.get(f"/-/assets/{name}")).status == 404

    visit(work)


def test_a_body_in_pieces_is_sent_as_it_comes() -> None:
    async def work(browser: Browser) -> None:
        await browser.enter()
        answer = await browser.get("/pieces")
        assert (answer.headers["Content-Type"], await answer.text()) == ("x/y", "onetwo")

    visit(work)
