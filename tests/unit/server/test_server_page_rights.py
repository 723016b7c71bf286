"""Pages allow what the API allows, to whom it allows it, and only by a form of their own; a list of
very many costs no more than what is shown of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from node_app import NodeApp, Reply, fill
from shipline.oci import Descriptor, Digest, Manifest, media, parse_manifest
from shipline.server.access import AccessSection, Administration, Role, open_access_control
from shipline.server.admission.section import AdmissionSection, RetentionRule
from shipline.server.entries import Changes, counts, tag_entries
from shipline.server.jobs import retention
from shipline.server.pages.lists import PAGE

pytestmark = pytest.mark.usefixtures("cheap_hashes")
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
PASSWORD = "a long enough password"
NAME = "team/app"


@dataclass
class World:
    """A node with an administrator (root), a project `team` with its administrator (pam), a
    maintainer (max) and a guest (gus), and an image `team/app:v1`.
    """

    app: NodeApp
    first: Digest
    second: Digest

    def tag(self, digest: Digest, *tags: str) -> None:
        stored = self.app.node.manifests.get(NAME, digest)
        assert stored is not None
        content = parse_manifest(stored.raw, stored.media_type)
        self.app.node.manifests.put(NAME, digest, content, tags)

    def login(self, who: str) -> dict[str, str]:
        if not who:
            return {}
        body = urlencode({"username": who, "password": PASSWORD}).encode()
        reply = self.app.call("POST", "/-/login", body, FORM)
        assert reply.status == 303, reply.text
        return {"Cookie": reply.headers["Set-Cookie"].partition(";")[0]}

    def get(self, path: str, who: dict[str, str]) -> Reply:
        return self.app.call("GET", path, headers=who)

    def post(self, path: str, who: dict[str, str], **fields: str) -> Reply:
        return self.app.call("POST", path, urlencode(fields).encode(), FORM | who)

    def hidden(self, path: str, who: dict[str, str], button: str) -> dict[str, str]:
        """What the form with this button carries unseen."""
        forms = re.findall(r"<form.*?</form>", self.get(path, who).text, re.DOTALL)
        (form,) = [one for one in forms if f">{button}</button>" in one]
        found = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', form)
        return {key: unescape(value) for key, value in found}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    section = AccessSection(mode="accounts")
    with open_access_control(tmp_path, "127.0.0.1", section, insecure_http=True) as access:
        assert access.accounts is not None
        policy = AdmissionSection(retention=(RetentionRule(latest=0),))
        parts: dict[str, Any] = {
            "authenticator": access.authenticator,
            "accounts": access.accounts,
            "listeners": access.listeners,
            "retention": policy.retention,
        }
        app = NodeApp(tmp_path, **parts)
        job = retention(
            app.storage, app.node.manifests, policy, app.node.admission, lambda event: None
        )
        app.rebuild(retention_job=job)
        administration = Administration(access.accounts.store, actor="test")
        administration.add_user("root", PASSWORD, admin=True)
        for project in ("team", "other"):
            administration.add_project(project)
        roles: dict[str, Role] = {"pam": "admin", "max": "maintainer", "gus": "guest"}
        for name, role in roles.items():
            administration.add_user(name, PASSWORD)
            administration.set_member("team", name, role)
        digests = [image(app, NAME, seed) for seed in ("1", "2")]
        world = World(app, *digests)
        world.tag(world.first, "v1")
        yield world
        app.close()


def image(app: NodeApp, name: str, seed: str, *tags: str) -> Digest:
    config = b'{"architecture": "amd64", "os": "linux"}'
    described = Descriptor.of(config, media.OCI_CONFIG)
    fill(app.node.uploads.put(name, described.digest, len(config)), [config])
    made = Manifest.make(described, [], annotations={"seed": seed})
    app.node.manifests.put(name, made.descriptor.digest, made, tags)
    return made.descriptor.digest


def groups(page: str) -> list[tuple[str, str, list[str]]]:
    """The groups of a list of repositories: name, who may pull, repositories."""
    return [
        (*re.findall(r"^([^<]*)<small>([^<]*)", part)[0], re.findall(r'href="/r/([^":]*)"', part))
        for part in re.split(r'<th scope="rowgroup"[^>]*>', page)[1:]
    ]


def test_the_first_page_groups_repositories_by_project_and_names_no_private_one_to_guests(
    world: World,
) -> None:
    assert world.app.node.accounts is not None
    administration = Administration(world.app.node.accounts.store, actor="test")
    administration.add_project("open", public=True)
    administration.add_project("team/inner", public=True)
    for name in ("alone", "open/a", "open/b/c", "other/x", "team/inner/d", "team/web"):
        image(world.app, name, name, "v1")
    private, public = "members may pull", "everybody may pull"
    opened = ("open", public, ["open/a", "open/b/c"])
    inner = ("team/inner", public, ["team/inner/d"])
    team = [("team", private, ["team/app"]), inner, ("team", private, ["team/web"])]
    guest = world.get("/", {}).text
    assert groups(guest) == [opened, inner]
    assert "other" not in guest and "team/app" not in guest and "team/web" not in guest
    assert groups(world.get("/", world.login("gus")).text) == [opened, *team]
    assert groups(world.get("/", world.login("root")).text) == [
        ("in no project", private, ["alone"]),
        opened,
        ("other", private, ["other/x"]),
        *team,
    ]


@pytest.mark.parametrize(
    ("path", "statuses"),
    [
        ("/-/users", {"": 401, "gus": 403, "max": 403, "pam": 403, "root": 200}),
        ("/-/users/pam", {"": 401, "gus": 403, "pam": 403, "root": 200}),
        ("/-/audit", {"": 401, "pam": 403, "root": 200}),
        ("/-/retention", {"": 401, "pam": 403, "root": 200}),
        ("/-/regions", {"": 401, "pam": 403, "root": 404}),
        ("/-/robots", {"": 401, "gus": 403, "max": 403, "pam": 200, "root": 200}),
        ("/-/account", {"": 401, "gus": 200, "root": 200}),
        (f"/r/{NAME}", {"": 404, "gus": 200, "root": 200}),
        (f"/r/{NAME}/-/delete?what=v1", {"": 404, "gus": 403, "max": 200, "root": 200}),
        (f"/r/{NAME}/-/tag?of=v1&to=v2", {"": 404, "gus": 403, "max": 200, "root": 200}),
    ],
)
def test_each_page_is_for_those_whom_the_api_allows(
    world: World, path: str, statuses: dict[str, int]
) -> None:
    seen = {who: world.get(path, world.login(who)).status for who in statuses}
    assert seen == statuses


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (f"/r/{NAME}/-/delete", {"what": "v1"}),
        (f"/r/{NAME}/-/tag", {"to": "v2", "before": ""}),
        ("/-/users", {"name": "eve", "password": PASSWORD, "admin": "1"}),
        ("/-/users/gus", {"do": "admin"}),
        ("/-/robots", {"name": "eve", "allow": "delete", "project": ""}),
        ("/-/account", {"current": PASSWORD, "password": "x" * 20, "again": "x" * 20}),
        ("/-/retention", {"do": "preview"}),
    ],
)
def test_a_form_without_the_token_of_this_login_changes_nothing(
    world: World, path: str, fields: dict[str, str]
) -> None:
    root, other = world.login("root"), world.login("root")
    stolen = world.hidden("/-/users", other, "Add the user")["token"]
    before = dict(world.app.node.accounts.store.view().users)  # type: ignore[union-attr]
    for token in ("", "x", stolen):
        reply = world.post(path, root, **fields, seen=str(world.first), token=token)
        assert reply.status == 403, reply.text
    assert world.app.node.manifests.target(NAME, "v1") == world.first
    assert world.app.node.accounts.store.view().users == before  # type: ignore[union-attr]


def test_a_form_for_what_one_may_not_is_refused_with_its_token_too(world: World) -> None:
    gus, pam = world.login("gus"), world.login("pam")
    token = world.hidden("/-/account", gus, "Set the password")["token"]
    seen = {"seen": str(world.first), "token": token}
    assert world.post(f"/r/{NAME}/-/delete", gus, what="v1", **seen).status == 403
    untagged = {"what": str(world.second), "seen": str(world.second), "token": token}
    assert world.post(f"/r/{NAME}/-/delete", gus, **untagged).status == 403
    assert world.app.node.manifests.entry(NAME, world.second) is not None
    assert world.post(f"/r/{NAME}/-/tag", gus, to="v2", before="", **seen).status == 403
    assert world.post("/-/users", gus, name="eve", password=PASSWORD, token=token).status == 403
    assert world.post("/-/retention", gus, do="preview", token=token).status == 403
    assert world.app.node.manifests.target(NAME, "v1") == world.first
    token = world.hidden("/-/robots", pam, "Make the robot")["token"]
    for project in ("", "other"):
        forged = {"name": "eve", "allow": "pull", "project": project, "token": token}
        assert world.post("/-/robots", pam, **forged).status == 403


def test_the_form_is_about_the_digest_that_was_shown(world: World) -> None:
    most = world.login("max")
    ask = f"/r/{NAME}/-/delete?what=v1"
    old = world.hidden(ask, most, "Delete v1")
    add = world.hidden(f"/r/{NAME}/-/tag?of=v1&to=v2", most, "Add v2")
    world.tag(world.second, "v1", "v2")
    assert world.post(f"/r/{NAME}/-/delete", most, **old).status == 412
    assert world.post(f"/r/{NAME}/-/tag", most, **add).status == 412
    assert world.app.node.manifests.target(NAME, "v2") == world.second
    fresh = world.hidden(ask, most, "Delete v1")
    assert world.post(f"/r/{NAME}/-/delete", most, **fresh).status == 303
    assert world.app.node.manifests.target(NAME, "v1") is None
    move = world.hidden(f"/r/{NAME}/-/tag?of={world.first}&to=v2", most, "Move v2")
    assert world.post(f"/r/{NAME}/-/tag", most, **move).status == 303
    assert world.app.node.manifests.target(NAME, "v2") == world.first


def test_a_secret_is_shown_once_and_only_to_its_administrator(world: World) -> None:
    pam, root = world.login("pam"), world.login("root")
    fields = world.hidden("/-/robots", pam, "Make the robot")
    made = world.post("/-/robots", pam, **fields, name="ci", allow="pull", project="team")
    (secret,) = re.findall(r'class="cmd"><code>([^<]{20,})</code>', made.text)
    for path in ("/-/robots", "/-/robots/1", "/-/audit"):
        assert secret not in world.get(path, root).text
    assert "robot$team+ci" in world.get("/-/robots", root).text
    shown = world.hidden("/-/robots/1", pam, "Rotate the secret")
    assert world.post("/-/robots/1", pam, **shown, overlap="0").status == 200
    assert world.post("/-/robots/1", pam, **shown, overlap="0").status == 412
    assert world.get("/-/robots/1", world.login("max")).status == 403


def test_what_was_typed_stays_when_it_is_refused(world: World) -> None:
    root = world.login("root")
    fields = world.hidden("/-/robots", root, "Make the robot")
    reply = world.post("/-/robots", root, **fields, name="Nightly Scan", allow="pull", days="7")
    assert reply.status == 400 and 'value="Nightly Scan"' in reply.text
    assert 'role="alert"' in reply.text and "invalid robot name" in reply.text


def test_a_new_password_needs_the_old_one_and_ends_the_login(world: World) -> None:
    gus = world.login("gus")
    fields = world.hidden("/-/account", gus, "Set the password")
    new = {"password": "another long password", "again": "another long password"}
    wrong = world.post("/-/account", gus, **fields, **new, current="wrong")
    assert wrong.status == 400 and "another long password" not in wrong.text
    assert world.post("/-/account", gus, **fields, **new, current=PASSWORD).status == 303
    assert world.get("/-/account", gus).status == 401


class Counting:
    """Records that count what is read of them."""

    def __init__(self, records: Any) -> None:
        self._records = records
        self.read = 0

    def get(self, key: Any) -> Any:
        self.read += 1
        return self._records.get(key)

    def scan(self, *arguments: Any, **options: Any) -> Any:
        found = self._records.scan(*arguments, **options)
        self.read += 1 + len(found)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._records, name)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[NodeApp]:
    opened = NodeApp(tmp_path)
    yield opened
    opened.close()


def reads(app: NodeApp, path: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, Reply]:
    counting = Counting(app.storage.records)
    with monkeypatch.context() as patched:
        patched.setattr(app.storage, "records", counting)
        reply = app.call("GET", path)
    assert reply.status == 200
    return counting.read, reply


def test_a_page_of_ten_thousand_tags_reads_those_that_it_shows(
    app: NodeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = image(app, NAME, "1", "latest")
    changes: Changes = {}
    for number in range(10_000):
        changes |= tag_entries(NAME, f"t{number:05}", digest, at=1.8e9 + number)
    app.storage.commit(changes, counts(NAME, tags=10_000))
    for query in ("", "?sort=name"):
        read, reply = reads(app, f"/r/{NAME}{query}", monkeypatch)
        assert read < 10 * PAGE
    tags = re.findall(rf'href="/r/{NAME}:([^"]+)"', reads(app, f"/r/{NAME}", monkeypatch)[1].text)
    assert tags[:3] == ["latest", "t09999", "t09998"] and len(tags) == PAGE
    (more,) = re.findall(r'rel="next" href="([^"]+)"', reply.text)
    read, reply = reads(app, unescape(more), monkeypatch)
    assert read < 10 * PAGE


def test_a_page_of_ten_thousand_repositories_reads_those_that_it_shows(
    app: NodeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: Changes = {("repository", f"team/n{number:05}"): b"" for number in range(10_000)}
    app.storage.commit(changes)
    read, reply = reads(app, "/", monkeypatch)
    assert read < 20 * PAGE and reply.text.count('scope="row"') == PAGE


def test_what_an_older_version_stored_is_put_in_order_and_completed_once(
    app: NodeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = image(app, NAME, "1", "a", "b")
    old: Changes = {("dated", NAME): None}
    old |= {("newest", NAME, *key): None for key, _ in app.storage.records.scan(("newest", NAME))}
    key = ("manifest", NAME, str(digest))
    old[key] = re.sub(rb',"total".*', b"}", app.storage.records.get(key) or b"")
    app.storage.records.write(old)
    app.storage.cache.forget(old)
    first, reply = reads(app, f"/r/{NAME}", monkeypatch)
    assert "linux/amd64" in reply.text and reply.text.count('scope="row"') == 2
    second, _ = reads(app, f"/r/{NAME}", monkeypatch)
    assert second < first and b'"total"' in (app.storage.records.get(key) or b"")
