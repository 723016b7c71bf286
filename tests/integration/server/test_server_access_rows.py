"""Rows of the table of known attacks that concern who may do what, by number, over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from guarded import Guarded, basic, bearer, guarded
from spec_client import Answer, sha256

LAYER = b"bytes of a private layer"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Projects `open` (public) and `secret` (private), each with an image and a blob."""
    data = tmp_path_factory.mktemp("rows") / "data"
    with guarded(data, "--accounts", "--public-project", "open") as node:
        node.project("secret")
        for name in ("open/app", "secret/app"):
            assert node.push(name, "v1", node.admin).status == 201
        assert node.blob("secret/app", LAYER, node.admin).status == 201
        yield node


def test_row_19_a_mount_needs_the_right_to_read_the_source(running: Guarded) -> None:
    running.project("other")
    stranger = running.robot("mount", "other", "pull", "push")
    path = f"/v2/other/app/blobs/uploads/?mount={sha256(LAYER)}&from=secret/app"
    assert running.call("POST", path, b"", stranger).status == 202
    anywhere = f"/v2/other/app/blobs/uploads/?mount={sha256(LAYER)}"
    assert running.call("POST", anywhere, b"", stranger).status == 202
    token = running.token(stranger, "repository:other/app:push,pull", "repository:secret/app:pull")
    assert running.call("POST", path, b"", bearer(token)).status == 202
    assert running.call("POST", path, b"", running.admin).status == 201


def test_row_19_a_token_without_the_source_cannot_mount_from_it(running: Guarded) -> None:
    token = running.token(running.admin, "repository:open/app:push,pull")
    path = f"/v2/open/app/blobs/uploads/?mount={sha256(LAYER)}&from=secret/app"
    refused = running.call("POST", path, b"", bearer(token))
    assert refused.status == 401
    scopes = "repository:open/app:pull,push repository:secret/app:pull"
    challenge = refused["WWW-Authenticate"] or ""
    assert f'scope="{scopes}"' in challenge and "insufficient_scope" in challenge
    wide = running.token(running.admin, scopes)
    assert running.call("POST", path, b"", bearer(wide)).status == 201
    both = running.token(
        running.admin, "repository:open/app:push,pull", "repository:secret/app:pull"
    )
    assert running.call("POST", path, b"", bearer(both)).status == 201


def test_row_20_what_was_revoked_is_gone_at_once(running: Guarded) -> None:
    reader = running.robot("revoked", "secret", "pull")
    token = bearer(running.token(reader, "repository:secret/app:pull"))
    path = "/v2/secret/app/manifests/v1"
    for headers in (reader, token):
        assert running.call("GET", path, None, headers).status == 200
    with running.accounts() as accounts:
        number = next(
            robot.id for robot in accounts.view.robots.values() if robot.name == "revoked"
        )
        accounts.remove_robot(number)
    for headers in (reader, token):
        assert running.call("GET", path, None, headers).status == 401


def test_row_21_a_push_to_a_tag_that_is_there_needs_update(running: Guarded) -> None:
    creator = running.robot("creator", "secret", "pull", "create")
    token = bearer(running.token(creator, "repository:secret/new:pull,push"))
    assert running.push("secret/new", "latest", creator, "one").status == 201
    assert running.push("secret/new", "latest", creator, "one").status == 201  # nothing changes
    for headers in (creator, token):
        answer = running.push("secret/new", "latest", headers, "two")
        assert (answer.status, answer.codes) == (403, ["DENIED"])
    owner = running.robot("owner", "secret", "pull", "push")
    assert running.push("secret/new", "latest", owner, "two").status == 201


def test_row_21_one_of_two_creators_at_once_wins(running: Guarded) -> None:
    creator = running.robot("racer", "secret", "create", "pull")
    answers: list[Answer] = []

    def push(note: str) -> None:
        answers.append(running.push("secret/race", "once", creator, note))

    threads = [threading.Thread(target=push, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status for answer in answers) == [201] + [403] * 7


def test_row_22_a_token_for_nobody_reads_no_private_image(running: Guarded) -> None:
    scopes = ("repository:open/app:pull", "repository:secret/app:pull,push", "registry:catalog:*")
    nobody = bearer(running.token({}, *scopes))
    assert running.call("GET", "/v2/open/app/manifests/v1", None, nobody).status == 200
    for path in ("manifests/v1", "tags/list", f"blobs/{sha256(LAYER)}", "referrers/" + sha256(b"")):
        for headers in (nobody, {}):
            assert running.call("GET", f"/v2/secret/app/{path}", None, headers).status == 401
    assert running.push("open/app", "v2", nobody).status == 401


def test_row_22_the_catalogue_shows_what_one_may_pull(running: Guarded) -> None:
    reader = running.robot("lister", "secret", "pull")
    for headers in (reader, bearer(running.token(reader, "registry:catalog:*"))):
        seen = running.call("GET", "/v2/_catalog", None, headers).json["repositories"]
        assert {"open/app", "secret/app"} <= set(seen)
    assert running.call("GET", "/v2/_catalog").json == {"repositories": ["open/app"]}
    narrow = bearer(running.token(reader, "repository:secret/app:pull"))
    assert running.call("GET", "/v2/_catalog", None, narrow).status == 401


def test_row_22_a_token_for_the_catalogue_shows_names_and_nothing_in_them(running: Guarded) -> None:
    listing = bearer(running.token(running.admin, "registry:catalog:*"))
    seen = running.call("GET", "/v2/_catalog", None, listing).json["repositories"]
    assert "secret/app" in seen
    for path in ("manifests/v1", f"blobs/{sha256(LAYER)}", "tags/list"):
        assert running.call("GET", f"/v2/secret/app/{path}", None, listing).status == 401
    mount = f"/v2/open/app/blobs/uploads/?mount={sha256(LAYER)}&from=secret/app"
    both = running.token(running.admin, "registry:catalog:*", "repository:open/app:push")
    assert running.call("POST", mount, b"", bearer(both)).status == 401


def test_row_22_pages_of_the_catalogue_leave_nothing_out(running: Guarded) -> None:
    seen: list[str] = []
    path: str | None = "/v2/_catalog?n=1"
    while path:
        answer = running.call("GET", path, None, running.admin)
        seen += answer.json["repositories"]
        link = answer["Link"]
        path = link.partition(">")[0].lstrip("<") if link else None
    assert seen == sorted(set(seen)) and {"open/app", "secret/app"} <= set(seen)


def test_row_22_there_is_no_telling_whether_a_private_repository_exists(running: Guarded) -> None:
    stranger = running.user("stranger")
    for headers in ({}, stranger):
        there, missing = (
            running.call("GET", f"/v2/secret/{name}/manifests/v1", None, headers)
            for name in ("app", "ppa")
        )
        assert there.status == missing.status
        assert there.body == missing.body.replace(b"ppa", b"app")


def test_row_23_basic_and_token_have_the_same_rights(running: Guarded) -> None:
    reader = running.robot("reader", "secret", "pull")
    scope = "repository:secret/app:pull,push,delete"
    token = bearer(running.token(reader, scope))
    for headers in (reader, token):
        assert running.call("GET", "/v2/secret/app/manifests/v1", None, headers).status == 200
        assert running.push("secret/app", "v9", headers).status in (401, 403)
        path = "/v2/secret/app/manifests/v1"
        assert running.call("DELETE", path, None, headers).status in (401, 403)
        assert running.call("GET", "/v2/elsewhere/app/manifests/v1", None, headers).status >= 401


def test_row_23_a_narrow_token_of_an_administrator_administers_nothing(running: Guarded) -> None:
    token = bearer(running.token(running.admin, "repository:open/app:pull", "registry:catalog:*"))
    assert running.push("open/app", "v3", token).status == 401
    assert running.call("GET", "/v2/secret/app/manifests/v1", None, token).status == 401
    assert running.api("GET", "/robots", headers=token).status == 401
    assert running.call("GET", "/metrics", None, token).status == 401
    kind = {"Content-Type": "application/json"}
    for path in ("/api/gc", "/api/retention"):
        assert running.call("POST", path, b"{}", {**token, **kind}).status == 401
    assert running.call("GET", "/metrics", None, running.admin).status == 200


def test_row_24_access_for_a_name_is_not_access_for_a_longer_one(running: Guarded) -> None:
    running.push("secret/ap", "v1", running.admin)
    token = bearer(running.token(running.admin, "repository:secret/ap:pull"))
    assert running.call("GET", "/v2/secret/ap/manifests/v1", None, token).status == 200
    for name in ("secret/app", "secret/ap/p", "secret/a", "secret"):
        assert running.call("GET", f"/v2/{name}/manifests/v1", None, token).status == 401


def test_row_24_a_token_of_another_node_is_refused(running: Guarded, tmp_path: Path) -> None:
    with guarded(tmp_path / "data", "--accounts") as other:
        token = other.token(other.admin, "repository:secret/app:pull")
    answer = running.call("GET", "/v2/secret/app/manifests/v1", None, bearer(token))
    assert answer.status == 401
    assert 'error="invalid_token"' in (answer["WWW-Authenticate"] or "")


def test_row_25_no_secret_is_ever_shown_again(running: Guarded) -> None:
    made = running.api(
        "POST",
        "/robots",
        {
            "name": "told-once",
            "level": "project",
            "duration": 1,
            "permissions": [
                {
                    "namespace": "secret",
                    "kind": "project",
                    "access": [{"resource": "repository", "action": "pull"}],
                }
            ],
        },
    )
    assert made.status == 201
    secret = made.json["secret"]
    listed = running.api("GET", "/robots?q=Level=project,ProjectID=secret&page_size=100")
    single = running.api("GET", f"/robots/{made.json['id']}")
    for answer in (listed, single):
        assert answer.status == 200
        assert secret.encode() not in answer.body and b'"secret":' not in answer.body
        assert b"digest" not in answer.body


def test_row_25_the_first_password_is_random_and_shown_once(tmp_path: Path) -> None:
    with guarded(tmp_path / "one", "--accounts") as first:
        assert len(first.password) >= 20
        assert first.call("GET", "/v2/", None, basic("admin", "Harbor12345")).status == 401
        kept = first.password
    with guarded(tmp_path / "one", "--accounts") as again:
        assert again.password == ""
        assert again.call("GET", "/v2/", None, basic("admin", kept)).status == 200
    with guarded(tmp_path / "two", "--accounts") as second:
        assert second.password != kept


def test_row_30_an_upload_belongs_to_who_opened_it(running: Guarded) -> None:
    mine = running.robot("mine", "secret", "pull", "push")
    yours = running.robot("yours", "secret", "pull", "push")
    begun = running.call("POST", "/v2/secret/app/blobs/uploads/", b"", mine)
    assert begun.status == 202
    place = begun["Location"]
    assert place
    content = b"half of it"
    for method in ("PATCH", "PUT", "GET", "DELETE"):
        path = place + (f"?digest={sha256(content)}" if method == "PUT" else "")
        body = content if method in ("PATCH", "PUT") else None
        assert running.call(method, path, body, yours).status == 404
    elsewhere = place.replace("secret/app", "secret/other")
    assert running.call("PATCH", elsewhere, content, mine).status == 404
    assert running.call("PATCH", place, content, mine).status == 202
    token = bearer(running.token(mine, "repository:secret/app:pull,push"))
    done = running.call("PUT", f"{place}?digest={sha256(content)}", b"", token)
    assert done.status == 201
    assert running.call("PATCH", place, content, mine).status == 404


def test_patterns_of_tags_hold_for_pulls_pushes_and_deletes(running: Guarded) -> None:
    running.project("tagged")
    robot = running.robot("narrow", "tagged", "*", tags=("v*",))
    for tag in ("v1", "latest"):
        assert running.push("tagged/app", tag, running.admin, "same").status == 201
    digest = running.call("GET", "/v2/tagged/app/manifests/v1", None, robot)[
        "Docker-Content-Digest"
    ]
    base = "/v2/tagged/app/manifests/"
    assert running.push("tagged/app", "v2", robot, "new").status == 201
    assert running.push("tagged/app", "next", robot, "new").status == 403
    assert running.call("GET", base + "latest", None, robot).status == 403
    assert running.call("DELETE", base + "latest", None, robot).status == 403
    assert running.call("DELETE", f"{base}{digest}", None, robot).status == 403
    assert running.call("DELETE", base + "v1", None, robot).status == 202
    assert running.call("GET", base + "latest", None, running.admin).status == 200


def test_a_token_without_the_right_is_told_so(running: Guarded) -> None:
    reader = running.robot("reader", "open", "pull")
    token = running.token(reader, "repository:open/app:push,pull")
    refused = running.call("POST", "/v2/open/app/blobs/uploads/", b"", bearer(token))
    assert refused.status == 401 and "insufficient_scope" in (refused["WWW-Authenticate"] or "")
    said = "the token of robot$open+reader does not cover repository:open/app:pull,push"
    assert said in refused.body.decode()
