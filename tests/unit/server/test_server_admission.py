"""Admission rules: immutable tags stay, and full quotas refuse."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from node_app import NodeApp
from shipline.content import MemoryStore
from shipline.globs import Glob
from shipline.oci import Descriptor, ImageConfig, Manifest, Platform, media
from shipline.server.admission.retention import decide, retain
from shipline.server.admission.rules import Quotas
from shipline.server.admission.section import AdmissionSection, ImmutableRule, Quota, RetentionRule
from shipline.server.cache import UsageTotals
from shipline.server.events import NodeEvent
from shipline.server.http import ANYONE, READ
from shipline.server.manifests import TaggedDigest
from shipline.server.problems import Problem
from shipline.units import ByteSize, Duration

DAY = 86_400.0
V = (Glob("v*"),)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Callable[[AdmissionSection], NodeApp]]:
    opened: list[NodeApp] = []

    def open_node(policy: AdmissionSection) -> NodeApp:
        opened.append(NodeApp(tmp_path / str(len(opened)), policy))
        return opened[-1]

    yield open_node
    for one in opened:
        one.close()


def image(node: NodeApp, name: str, env: str) -> Manifest:
    """The manifest of an image whose configuration the repository has."""
    config = ImageConfig(Platform("linux", "amd64")).set(Env=[env]).to_bytes()
    descriptor = Descriptor.of(config, media.OCI_CONFIG)
    node.repository(name).push(descriptor, MemoryStore(config))
    return Manifest.make(descriptor, [])


def push(node: NodeApp, name: str, reference: str, env: str) -> int:
    made = image(node, name, env)
    return node.push(name, reference, made.raw, made.media_type).status


def test_an_immutable_tag_neither_moves_nor_goes(
    node: Callable[[AdmissionSection], NodeApp],
) -> None:
    rule = ImmutableRule(V, (Glob("team/*"),), unless=(Glob("v0*"),))
    app = node(AdmissionSection(immutable=(rule,)))
    first = image(app, "team/app", "A=1")
    assert push(app, "team/app", "v1", "A=1") == 201
    assert push(app, "team/app", "v1", "A=1") == 201, "the same content again is not a move"
    other = image(app, "team/app", "A=2")
    refused = app.push("team/app", "v1", other.raw, other.media_type)
    assert refused.status == 403
    assert "v1" in refused.message and str(first.descriptor.digest) in refused.message
    by_digest = f"{other.descriptor.digest}?tag=new&tag=v1"
    assert app.push("team/app", by_digest, other.raw, other.media_type).status == 403
    assert app.pull("team/app", "new").status == 404, "all tags or none"
    assert app.pull("team/app", "v1").body == first.raw
    for target in ("v1", first.descriptor.digest):
        assert app.call("DELETE", f"/v2/team/app/manifests/{target}").status == 403
    assert app.pull("team/app", "v1").status == 200


def test_other_tags_and_repositories_are_as_before(
    node: Callable[[AdmissionSection], NodeApp],
) -> None:
    rule = ImmutableRule(V, (Glob("team/*"),), unless=(Glob("v0*"),))
    app = node(AdmissionSection(immutable=(rule,)))
    for name, tag in (("team/app", "latest"), ("team/app", "v0.1"), ("other/app", "v1")):
        assert push(app, name, tag, "A=1") == 201
        assert push(app, name, tag, "A=2") == 201
        assert app.call("DELETE", f"/v2/{name}/manifests/{tag}").status == 202


def blob(app: NodeApp, name: str, content: bytes, *, session: bool) -> int:
    digest = Descriptor.of(content, "x").digest
    if not session:
        return app.call("POST", f"/v2/{name}/blobs/uploads/?digest={digest}", content).status
    opened = app.call("POST", f"/v2/{name}/blobs/uploads/")
    if opened.status != 202:
        return opened.status
    place = opened.headers["Location"]
    return app.call("PUT", f"{place}?digest={digest}", content).status


@pytest.mark.parametrize("session", [False, True])
def test_a_full_project_takes_nothing_more(
    node: Callable[[AdmissionSection], NodeApp], session: bool
) -> None:
    app = node(AdmissionSection(quotas=(Quota("team", ByteSize(1000)),)))
    assert blob(app, "team/a", b"a" * 600, session=session) == 201
    assert blob(app, "team/b", b"b" * 600, session=session) == 403, "both repositories count"
    assert blob(app, "team/b", b"b" * 300, session=session) == 201
    assert blob(app, "other/a", b"a" * 5000, session=session) == 201
    assert blob(app, "team", b"c" * 200, session=session) == 403
    digest = Descriptor.of(b"a" * 600, "x").digest
    assert app.call("DELETE", f"/v2/team/a/blobs/{digest}").status == 202
    assert blob(app, "team/b", b"c" * 600, session=session) == 201, "what is gone is free again"


def start(app: NodeApp, name: str) -> str:
    return app.call("POST", f"/v2/{name}/blobs/uploads/").headers["Location"]


def test_uploads_that_have_not_ended_fill_a_project(
    node: Callable[[AdmissionSection], NodeApp],
) -> None:
    app = node(AdmissionSection(quotas=(Quota("team", ByteSize(1000)),)))
    first, second = start(app, "team/a"), start(app, "team/b")
    assert app.call("PATCH", first, b"a" * 600).status == 202
    assert app.call("PATCH", second, b"b" * 600).status == 403
    assert app.call("PATCH", second, b"b" * 400).status == 202
    assert app.call("POST", "/v2/team/c/blobs/uploads/").status == 403
    assert app.call("DELETE", first).status == 204
    assert blob(app, "team/c", b"c" * 600, session=True) == 201
    digest = Descriptor.of(b"b" * 400, "x").digest
    assert app.call("PUT", f"{second}?digest={digest}").status == 201
    assert app.storage.totals.total("team") == {"blobs": 2, "bytes": 1000, "uploading": 0}


def test_uploads_of_an_earlier_process_count(tmp_path: Path) -> None:
    policy = AdmissionSection(quotas=(Quota("team", ByteSize(1000)),))
    before = NodeApp(tmp_path, policy)
    place = start(before, "team/a")
    assert before.call("PATCH", place, b"a" * 600).status == 202
    assert blob(before, "team/b", b"b" * 300, session=False) == 201
    before.close()
    app = NodeApp(tmp_path, policy)
    app.node.uploads.recover()
    assert app.storage.totals.total("team")["uploading"] == 600
    assert blob(app, "team/b", b"c" * 200, session=False) == 403
    assert app.call("DELETE", place).status == 204
    assert blob(app, "team/b", b"c" * 200, session=False) == 201
    app.close()


def test_uploads_of_one_account_have_an_end(node: Callable[[AdmissionSection], NodeApp]) -> None:
    app = node(AdmissionSection())
    places = [start(app, "team/a") for _ in range(2000)]
    refused = app.call("POST", "/v2/team/a/blobs/uploads/")
    assert refused.status == 429 and "Retry-After" in refused.headers
    assert app.call("DELETE", places[0]).status == 204
    assert app.call("POST", "/v2/team/a/blobs/uploads/").status == 202


def test_what_is_promised_at_once_does_not_fit_together(
    node: Callable[[AdmissionSection], NodeApp],
) -> None:
    app = node(AdmissionSection(quotas=(Quota("team", ByteSize(1000)),)))
    uploads, admission = app.node.uploads, app.node.admission

    def check(came: int, whole: bool) -> None:
        admission.blob(ANYONE, "team/a", 0)

    digest = Descriptor.of(b"a" * 600, "x").digest
    waiting = uploads.put("team/a", digest, 600, check=check)
    assert next(waiting) is READ
    assert blob(app, "team/b", b"b" * 600, session=False) == 403
    waiting.close()
    assert blob(app, "team/b", b"b" * 600, session=False) == 201


def test_a_project_inside_of_another_has_a_quota_of_its_own() -> None:
    totals = UsageTotals()
    totals.add({("usage", "team/app", "bytes"): 600, ("usage", "team/in/app", "bytes"): 900})
    rules = (Quota("team", ByteSize(1000)), Quota("*", ByteSize(5000)))
    Quotas(totals, rules, lambda: ("team", "team/in")).admit("team/app", 400)
    Quotas(totals, rules, lambda: ("team", "team/in")).admit("team/in/app", 4000)
    with pytest.raises(Problem, match="project team/in: the limit is 5KB"):
        Quotas(totals, rules, lambda: ("team", "team/in")).admit("team/in/app", 4101)
    with pytest.raises(Problem, match=r"project team: .* 1500 bytes are used"):
        Quotas(totals, rules).admit("team/app", 400)


def test_a_quota_costs_the_same_for_many_repositories() -> None:
    def cost(repositories: int) -> float:
        totals = UsageTotals()
        for number in range(repositories):
            totals.add({("usage", f"team/r{number}", "bytes"): 1})
        quotas = Quotas(totals, (Quota("team", ByteSize(10**9)),))
        began = time.thread_time()
        for _ in range(2000):
            quotas.admit("team/r0", 1)
        return time.thread_time() - began

    assert min(cost(20_000) for _ in range(3)) < 50 * min(cost(2) for _ in range(3))


def test_mounting_counts_against_the_quota(node: Callable[[AdmissionSection], NodeApp]) -> None:
    app = node(AdmissionSection(quotas=(Quota("team", ByteSize(1000)),)))
    assert blob(app, "other/a", b"a" * 2000, session=False) == 201
    digest = Descriptor.of(b"a" * 2000, "x").digest
    path = f"/v2/team/a/blobs/uploads/?mount={digest}&from=other/a"
    refused = app.call("POST", path)
    assert refused.status == 403
    assert "team" in refused.message and "1KB" in refused.message


def test_tags_have_a_quota_of_their_own(node: Callable[[AdmissionSection], NodeApp]) -> None:
    app = node(AdmissionSection(quotas=(Quota("*", tags=2),)))
    assert [push(app, "team/app", tag, "A=1") for tag in ("a", "b", "c")] == [201, 201, 403]
    assert push(app, "team/app", "a", "A=2") == 201, "moving a tag makes none"
    assert push(app, "other/app", "c", "A=1") == 201, "each project has its own"


def tagged(*ages: tuple[str, float]) -> list[TaggedDigest]:
    digest = Descriptor.of(b"x", "x").digest
    return [TaggedDigest(tag, digest, -age * DAY, "") for tag, age in ages]


def kept(rules: tuple[RetentionRule, ...], *ages: tuple[str, float]) -> dict[str, bool]:
    return {one.tag: one.kept for one in decide(rules, "team/app", tagged(*ages), 0.0)}


def test_a_tag_is_kept_where_any_condition_keeps_it() -> None:
    rule = RetentionRule(keep=V, latest=1, within=Duration.parse("7d"))
    ages = (("v1", 99.0), ("new", 1.0), ("week", 7.0), ("old", 8.0))
    assert kept((rule,), *ages) == {"v1": True, "new": True, "week": True, "old": False}


def test_a_tag_is_kept_where_any_rule_keeps_it_and_others_are_left_alone() -> None:
    rules = (
        RetentionRule(tags=(Glob("dev-*"),), latest=1),
        RetentionRule(tags=(Glob("dev-keep*"),), latest=5),
        RetentionRule(repositories=(Glob("other/*"),), latest=0),
    )
    found = kept(rules, ("dev-1", 3), ("dev-2", 2), ("dev-keep", 9), ("main", 99))
    assert found == {"dev-1": False, "dev-2": True, "dev-keep": True}


def test_tags_of_signatures_have_no_time_of_their_own() -> None:
    signature = f"sha256-{'a' * 64}.sig"
    assert kept((RetentionRule(latest=0),), (signature, 99), ("x", 1)) == {"x": False}


def test_retention_removes_what_it_said_and_nothing_immutable(
    node: Callable[[AdmissionSection], NodeApp],
) -> None:
    rules = (RetentionRule(latest=1),)
    app = node(AdmissionSection(immutable=(ImmutableRule(V),), retention=rules))
    for tag in ("a", "v1", "b", "c"):
        assert push(app, "team/app", tag, f"T={tag}") == 201
        app.now += DAY
    storage, manifests, admission = app.storage, app.node.manifests, app.node.admission
    dry = retain(storage, manifests, rules, admission=admission, dry_run=True)
    assert manifests.tags("team/app", "", 10) == ["a", "b", "c", "v1"]
    told: list[NodeEvent] = []
    done = retain(storage, manifests, rules, admission=admission, publish=told.append)
    gone = [(one.repository, (one.tag,)) for one in done if not one.kept]
    assert [(one.repository, one.tags) for one in told if one.kind == "untag"] == gone
    assert {one.actor for one in told} == {"retention"} and told[-1].kind == "collect"
    assert done == dry
    assert {one.tag: one.kept for one in done} == {"a": False, "b": False, "c": True, "v1": True}
    assert manifests.tags("team/app", "", 10) == ["c", "v1"]
    why = {one.tag: one.reason for one in done}
    assert "immutable" in why["v1"] and why["a"] == "not one of the last 1"
