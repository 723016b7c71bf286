"""The web pages show what the visitor may pull, escaped, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import urlencode

import pytest

from attached import NAME, Repository, add_index
from node_app import NodeApp, Reply
from shipline.content import MemoryStore, copy_graph
from shipline.oci import Descriptor, History, ImageConfig, Index, Manifest, Platform, media
from shipline.server.http import Action, Pool, Principal
from shipline.server.problems import Problem
from shipline.supply import Statement, attest, generate_key, sign

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def app(tmp_path: Path) -> Iterator[NodeApp]:
    opened = NodeApp(tmp_path)
    yield opened
    opened.close()


def published(app: NodeApp, name: str = "team/app") -> Index:
    """An index under NAME:v1, signed, with an attestation."""
    source, goal = Repository(), app.repository(name)
    index = add_index(source)
    copy_graph(source, goal, index.descriptor)
    goal.tag(index.descriptor, source, "v1")
    key = generate_key("k")
    sign(goal, index.descriptor, NAME, [key])
    statement = Statement.about(index.descriptor, name, "https://spdx.dev/Document", {})
    attest(goal, index.descriptor, statement, [key])
    return index


def image(app: NodeApp, name: str, tag: str, *, command: str) -> Manifest:
    config = ImageConfig(Platform("linux", "amd64"), history=(History(created_by=command),)).set(
        Labels={"note": command}
    )
    layer = b"layer"
    raw = config.to_bytes()
    store = MemoryStore(raw, layer)
    made = Manifest.make(
        Descriptor.of(raw, media.OCI_CONFIG), [Descriptor.of(layer, media.OCI_LAYER)]
    )
    goal = app.repository(name)
    for part in (made.config, *made.layers):
        goal.push(part, store)
    goal.tag(made.descriptor, MemoryStore(made.raw), tag)
    return made


def links(reply: Reply) -> list[str]:
    return [unescape(one) for one in re.findall(r'href="(/[^"]*)"', reply.text)]


def test_every_link_leads_somewhere(app: NodeApp) -> None:
    published(app)
    seen, todo = {"/"}, ["/"]
    while todo:
        reply = app.call("GET", todo.pop())
        assert reply.status == 200
        fresh = set(links(reply)) - seen if "text/html" in reply.headers["Content-Type"] else set()
        seen |= fresh
        todo += sorted(fresh)
    assert any(link.startswith("/r/team/app@sha256:") for link in seen)


def test_a_repository_lists_tags_with_platforms(app: NodeApp) -> None:
    published(app)
    text = app.call("GET", "/r/team/app").text
    assert "linux/amd64, linux/arm64" in text and "no rule" in text
    assert ".sig<" not in text, "tags that hold statements are not images"


def test_a_manifest_shows_what_is_attached_and_how_to_pull_it(app: NodeApp) -> None:
    index = published(app)
    text = app.call("GET", "/r/team/app:v1").text
    assert "docker pull node.example/team/app:v1" in text
    assert f"node.example/team/app@{index.descriptor.digest}" in text
    assert "https://spdx.dev/Document" in text
    assert "https://sigstore.dev/cosign/sign/v1" in text


def test_layers_stand_beside_the_steps_that_made_them(app: NodeApp) -> None:
    made = image(app, "team/app", "v1", command="COPY a b")
    text = app.call("GET", "/r/team/app:v1").text
    assert "COPY a b" in text and made.layers[0].digest.hex[:12] in text


def test_nothing_from_an_image_becomes_markup(app: NodeApp) -> None:
    image(app, "team/app", "v1", command='RUN <script>alert("x")</script>')
    text = app.call("GET", "/r/team/app:v1").text
    assert "<script>alert" not in text and "&lt;script&gt;" in text
    for path in ("/?q=%3Cb%3E", "/r/team/app?q=%22%3E%3Cb%3E", "/r/%3Cb%3E", "/r/team/app:%3Cb%3E"):
        assert "<b>" not in app.call("GET", path).text


def test_every_page_forbids_what_is_foreign(app: NodeApp) -> None:
    for path in ("/", "/r/none", "/-/assets/style.css"):
        policy = app.call("GET", path).headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/r/none", 404),
        ("/r/team/app:none", 404),
        ("/r/team/app@sha256:zz", 400),
        ("/r/team/app@sha256:" + "0" * 64, 404),
        ("/r/..%2f..%2fetc", 400),
        ("/r/UPPER", 400),
        ("/-/assets/nope.css", 404),
        ("/-/assets/..%2fviews.py", 404),
        ("/?after=%00", 400),
        ("/-/login", 404),
    ],
)
def test_bad_addresses_are_pages_too(app: NodeApp, path: str, status: int) -> None:
    image(app, "team/app", "v1", command="x")
    reply = app.call("GET", path)
    assert reply.status == status
    assert "<h1>" in reply.text or "json" in reply.headers["Content-Type"]


def test_a_long_list_has_pages_and_a_search(app: NodeApp) -> None:
    made = image(app, "team/app", "t000", command="x")
    for number in range(1, 150):
        app.repository("team/app").tag(made.descriptor, MemoryStore(made.raw), f"t{number:03}")
    first = app.call("GET", "/r/team/app?sort=name")
    assert "t099" in first.text and "t100" not in first.text
    (more,) = [link for link in links(first) if "after=" in link]
    second = app.call("GET", more)
    assert "t100" in second.text and "t149" in second.text and "t099" not in second.text
    found = app.call("GET", "/r/team/app?q=t14").text
    assert "t140" in found and "t139" not in found


class Accounts:
    """A guard that knows alice, who may pull team/*."""

    accounts = True

    def __init__(self) -> None:
        self.gone = False
        self.stamp = "first password"

    def pool(self, request: object) -> Pool:
        return Pool.LOOP

    def authorize(self, request: object, requires: object, name: str) -> Principal:
        return Principal("", "anonymous", lambda action, repository, tag: repository == "open")

    def challenge_refusal(self, request: object, requires: object, problem: Problem) -> Problem:
        return problem

    def sign_in(self, name: str, secret: str, address: str) -> Principal:
        if (name, secret) != ("alice", "right"):
            raise Problem(401, "UNAUTHORIZED", "wrong name or password")
        return self.alice

    def principal_of(self, name: str, address: str) -> Principal | None:
        return None if self.gone else self.alice

    def is_secure(self, request: object) -> bool:
        return False

    @property
    def alice(self) -> Principal:
        def may(action: Action, repository: str, tag: str) -> bool:
            return action == "pull" and (repository == "open" or repository.startswith("team/"))

        return Principal("alice", "user", may, stamp=self.stamp)


@pytest.fixture
def authenticator() -> Accounts:
    return Accounts()


@pytest.fixture
def guarded(tmp_path: Path, authenticator: Accounts) -> Iterator[NodeApp]:
    opened = NodeApp(tmp_path, authenticator=authenticator)
    for name in ("open", "team/app", "secret/app"):
        image(opened, name, "v1", command="x")
    yield opened
    opened.close()


def log_in(app: NodeApp, password: str, *, after: str = "/", **headers: str) -> Reply:
    body = urlencode({"username": "alice", "password": password, "next": after}).encode()
    return app.call("POST", "/-/login", body, FORM | headers)


def session(reply: Reply) -> dict[str, str]:
    return {"Cookie": reply.headers["Set-Cookie"].partition(";")[0]}


def send(app: NodeApp, path: str, cookie: dict[str, str], *, page: str, **fields: str) -> Reply:
    """Send a form of `page`, with all that it carries unseen."""
    text = app.call("GET", page, headers=cookie).text
    (form,) = re.findall(rf'<form[^>]*action="{re.escape(path)}">(.*?)</form>', text, re.DOTALL)
    hidden = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', form)
    body = urlencode({**{key: unescape(value) for key, value in hidden}, **fields}).encode()
    return app.call("POST", path, body, FORM | cookie)


def test_visibility_holds_for_the_page_as_for_the_api(guarded: NodeApp) -> None:
    assert "team/app" not in guarded.call("GET", "/").text
    assert guarded.call("GET", "/r/team/app").status == 404
    assert guarded.call("GET", "/r/team/app:v1").status == 404
    alice = session(log_in(guarded, "right"))
    text = guarded.call("GET", "/", headers=alice).text
    assert "/r/team/app" in text and "/r/open" in text and "secret" not in text
    assert guarded.call("GET", "/r/team/app:v1", headers=alice).status == 200
    assert guarded.call("GET", "/r/secret/app:v1", headers=alice).status == 404


def test_a_wrong_password_begins_no_session(guarded: NodeApp) -> None:
    reply = log_in(guarded, "wrong")
    assert reply.status == 401
    assert "Set-Cookie" not in reply.headers and "wrong name or password" in reply.text
    assert 'value="wrong"' not in reply.text


def test_a_session_ends_with_logout_time_account_or_secret(
    guarded: NodeApp, authenticator: Accounts
) -> None:
    cookies = [session(log_in(guarded, "right")) for _ in range(3)]
    assert "HttpOnly; SameSite=Strict" in log_in(guarded, "right").headers["Set-Cookie"]

    def inside(cookie: dict[str, str]) -> bool:
        return guarded.call("GET", "/r/team/app", headers=cookie).status == 200

    assert inside(cookies[0])
    assert guarded.call("POST", "/-/logout", b"token=x", FORM | cookies[0]).status == 403
    assert inside(cookies[0])
    assert send(guarded, "/-/logout", cookies[0], page="/").status == 303
    assert not inside(cookies[0]) and inside(cookies[1])
    authenticator.gone = True
    assert not inside(cookies[1])
    authenticator.gone, authenticator.stamp = False, "second password"
    assert not inside(cookies[1])
    authenticator.stamp = "first password"
    assert inside(cookies[1])
    guarded.now += 13 * 3600
    assert not inside(cookies[2])


def test_a_form_of_another_site_is_refused(guarded: NodeApp) -> None:
    assert log_in(guarded, "right", Origin="https://evil.example").status == 403
    assert log_in(guarded, "right", Origin="http://node.example").status == 303


@pytest.mark.parametrize(
    ("after", "goes"),
    [
        ("/r/team/app?q=a", "/r/team/app?q=a"),
        ("//evil.example/", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example", "/"),
        ("/a\r\nSet-Cookie: x=y", "/"),
        ("/%2f/evil.example", "/"),
    ],
)
def test_after_the_login_one_stays_here(guarded: NodeApp, after: str, goes: str) -> None:
    assert log_in(guarded, "right", after=after).headers["Location"] == goes
