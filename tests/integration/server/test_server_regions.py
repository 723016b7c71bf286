"""A primary and its edges as people run them: the journal, rights, push mode, commands."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from commands import run_shipline
from nodes import Node
from peers import Registry
from proxy import CutResponse, FaultProxy
from served import served
from spec_client import MANIFEST, Answer, Target, sha256, to_json

_POOL = 40  # threads of the node for disk work, which read the journal first


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Node]:
    (tmp_path / "primary").mkdir()
    with served(tmp_path / "primary", "role: primary") as running:
        yield running


def edge_of(root: Path, name: str, address: str, more: str = "", **environ: str) -> Any:
    (root / name).mkdir(exist_ok=True)
    replication = f"replication: [{{name: main, from: '{address}'{more}}}]"
    return served(root / name, f"role: edge\n{replication}", **environ)


def push(node: Node, name: str, tag: str, seed: str, **more: Any) -> dict[str, Any]:
    target = Target(node.url, name)
    document = target.image(seed, **more)
    assert target.push(document, tag).status == 201
    return document


def eventually(look: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < end
        time.sleep(0.05)


def has(node: Node, name: str, tag: str, document: dict[str, Any]) -> bool:
    answer = Target(node.url, name).call("GET", f"manifests/{tag}", headers={"Accept": MANIFEST})
    return answer.status == 200 and answer.body == to_json(document)


def poll(node: Node, query: str, authorization: str = "") -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": authorization} if authorization else {}
    request = urllib.request.Request(f"{node.url}/_shipline/journal?{query}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=90) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, {}


def test_images_and_later_changes_arrive_at_an_edge_and_at_an_edge_of_the_edge(
    primary: Node, tmp_path: Path
) -> None:
    first = push(primary, "team/app", "v1", "one")
    with (
        edge_of(tmp_path, "edge", primary.address) as edge,
        edge_of(tmp_path, "far", edge.address) as far,
    ):
        for node in (edge, far):
            eventually(lambda: has(node, "team/app", "v1", first))  # noqa: B023
        second = push(primary, "team/app", "v1", "two")
        about = Target(primary.url, "team/app").artifact("about", second)
        assert Target(primary.url, "team/app").push(about).status == 201
        for node in (edge, far):
            eventually(lambda: has(node, "team/app", "v1", second))  # noqa: B023
            referrers = f"referrers/{sha256(to_json(second))}"
            eventually(
                lambda: bool(
                    Target(node.url, "team/app").call("GET", referrers).json["manifests"]  # noqa: B023
                )
            )


def test_what_an_edge_replicates_is_changed_at_its_source(primary: Node, tmp_path: Path) -> None:
    """And nowhere else, since a copy that was changed would differ without anyone noticing."""
    document = push(primary, "team/app", "v1", "one")
    more = ", repositories: ['team/*'], deletes: true"
    with edge_of(tmp_path, "edge", primary.address, more) as edge:
        eventually(lambda: has(edge, "team/app", "v1", document))
        target = Target(edge.url, "team/app")
        for method, path, body in (
            ("POST", "blobs/uploads/", b""),
            ("PUT", "manifests/v2", to_json(document)),
            ("DELETE", "manifests/v1", None),
            ("DELETE", f"manifests/{sha256(to_json(document))}", None),
        ):
            refused = target.call(method, path, body, {"Content-Type": MANIFEST})
            assert refused.status == 405, (method, path)
            assert f"{primary.address}/team/app" in refused.body.decode()
        assert has(edge, "team/app", "v1", document)
        push(edge, "own/app", "v1", "two")  # not replicated
        assert "whoever reaches this node can pull" in edge.log.read_text()


def test_copies_of_what_is_deleted_elsewhere_can_be_deleted(primary: Node, tmp_path: Path) -> None:
    document = push(primary, "team/app", "v1", "one")
    with edge_of(tmp_path, "edge", primary.address) as edge:  # without `deletes`
        eventually(lambda: has(edge, "team/app", "v1", document))
        assert Target(edge.url, "team/app").call("DELETE", "manifests/v1").status == 202


def test_an_edge_of_nothing_says_so_at_its_start(tmp_path: Path) -> None:
    with served(tmp_path, "role: edge") as edge:
        assert "neither upstreams nor a replication" in edge.log.read_text()


def test_waiting_readers_cost_no_thread_and_wake_at_once(primary: Node) -> None:
    _, start = poll(primary, "since=")
    before = _threads(primary)
    answers: list[tuple[float, dict[str, Any]]] = []

    def wait() -> None:
        _, page = poll(primary, f"since={start['cursor']}&wait=50s")
        answers.append((time.monotonic(), page))

    readers = [threading.Thread(target=wait) for _ in range(100)]
    for reader in readers:
        reader.start()
    time.sleep(1)
    assert _threads(primary) <= before + _POOL
    assert not answers
    push(primary, "team/app", "v1", "one")
    pushed = time.monotonic()
    for reader in readers:
        reader.join()
    assert len(answers) == 100
    assert max(at for at, _ in answers) < pushed + 10
    assert {page["entries"][0]["tag"] for _, page in answers} == {"v1"}


def test_a_node_that_stops_answers_those_who_wait(primary: Node) -> None:
    _, start = poll(primary, "since=")
    answers: list[int] = []
    query = f"since={start['cursor']}&wait=50s"
    reader = threading.Thread(target=lambda: answers.append(poll(primary, query)[0]))
    reader.start()
    time.sleep(0.5)
    began = time.monotonic()
    assert primary.stop() == 0
    reader.join()
    assert answers == [200]
    assert time.monotonic() - began < 20


def test_only_the_right_to_replicate_reads_the_journal_and_it_pushes_nothing(
    tmp_path: Path,
) -> None:
    (tmp_path / "edge").mkdir()
    with served(tmp_path, "role: primary\naccess: {mode: accounts}") as primary:
        for name in ("team", "other"):
            run_shipline("registry", "project", "add", name, "--data", primary.data)
        secrets = {action: _robot(primary, action) for action in ("replicate", "pull")}
        assert poll(primary, "since=")[0] == 401
        assert poll(primary, "since=", secrets["pull"])[0] == 403
        status, page = poll(primary, "since=", secrets["replicate"])
        assert (status, page["cut"]) == (200, True)
        started = Target(primary.url, "team/app").call(
            "POST", "blobs/uploads/", b"", {"Authorization": secrets["replicate"]}
        )
        assert started.status in (401, 403)


def test_an_edge_with_the_right_to_replicate_gets_its_project_and_nothing_else(
    tmp_path: Path,
) -> None:
    (tmp_path / "primary").mkdir()
    with served(tmp_path / "primary", "role: primary\naccess: {mode: accounts}") as primary:
        for name in ("team", "other"):
            run_shipline("registry", "project", "add", name, "--data", primary.data)
        secret = _robot(primary, "replicate")
        admin = _admin(primary)
        for name in ("team/app", "other/app"):
            assert Account(primary.url, name, admin).push_image("one", "v1") == 201
        auths = {primary.address: {"auth": secret.removeprefix("Basic ")}}
        (tmp_path / "config.json").write_text(json.dumps({"auths": auths}))
        with edge_of(tmp_path, "edge", primary.address, DOCKER_CONFIG=str(tmp_path)) as edge:
            target = Target(edge.url, "team/app")
            eventually(lambda: target.call("HEAD", "manifests/v1").status == 200)
            eventually(lambda: _region(edge)["verified"] > 0)
            assert Target(edge.url, "other/app").call("HEAD", "manifests/v1").status == 404
            assert _region(edge)["errors"] == 0


@dataclass(frozen=True)
class Account(Target):
    """A repository as an account sees it."""

    authorization: str

    def call(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        known = {"Authorization": self.authorization, **(headers or {})}
        return super().call(method, path, body, known)

    def push_image(self, seed: str, tag: str) -> int:
        return self.push(self.image(seed), tag).status


def _admin(node: Node) -> str:
    found = re.search(r"password: (\S+) ", node.log.read_text())
    assert found, node.log.read_text()
    return "Basic " + base64.b64encode(f"admin:{found[1]}".encode()).decode()


def _robot(node: Node, action: str) -> str:
    words = ("--project", "team", "--allow", action, "--data", str(node.data))
    done = run_shipline("registry", "robot", "add", action, *words)
    login = f"robot$team+{action}"
    return "Basic " + base64.b64encode(f"{login}:{done.stdout.strip()}".encode()).decode()


def test_a_partition_is_shown_as_lag_and_heals(primary: Node, tmp_path: Path) -> None:
    port = int(primary.address.rpartition(":")[2])
    with (
        FaultProxy(port) as proxy,
        edge_of(tmp_path, "edge", f"127.0.0.1:{proxy.port}", ", max-lag: 2s") as edge,
    ):
        eventually(lambda: _region(edge)["verified"] > 0)
        proxy.break_next(CutResponse(0), times=10_000)
        document = push(primary, "team/app", "v1", "one")
        eventually(lambda: _region(edge)["errors"] >= 2, 60)
        assert not has(edge, "team/app", "v1", document)
        proxy.forget()
        eventually(lambda: has(edge, "team/app", "v1", document), 60)
        eventually(lambda: _region(edge)["entries"] == 0 and _region(edge)["error"] == "", 60)


def test_a_primary_pushes_to_a_registry_of_another_kind(registry: Registry, tmp_path: Path) -> None:
    section = f"replication: [{{name: out, to: '{registry.address}/copies', tags: ['v*']}}]"
    (tmp_path / "primary").mkdir()
    with served(tmp_path / "primary", section) as primary:
        document = push(primary, "regions/app", "v1", "one")
        push(primary, "regions/app", "edge", "two")
        target = Target(registry.url, "copies/regions/app")
        accept = {"Accept": MANIFEST}
        eventually(lambda: target.call("HEAD", "manifests/v1", headers=accept).status == 200)
        assert target.call("GET", "manifests/v1", headers=accept).body == to_json(document)
        assert target.call("GET", "tags/list").json["tags"] == ["v1"]


def test_mirror_sync_copies_what_a_plan_names_and_keeps_what_it_saw(
    primary: Node, registry: Registry, tmp_path: Path
) -> None:
    source = Target(registry.url, "mirrored/app")
    documents = {tag: source.image(tag) for tag in ("v1", "v2", "edge")}
    for tag, document in documents.items():
        assert source.push(document, tag).status == 201
    about = source.artifact("about", documents["v1"])
    assert source.push(about).status == 201
    plan, lock = tmp_path / "plan.yaml", tmp_path / "lock.json"
    plan.write_text(
        f"mirrors: [{{from: '{registry.address}/mirrored', to: '{primary.address}/copy',"
        " repositories: ['*'], tags: ['v*']}]\n"
    )
    dry = run_shipline("mirror", "sync", str(plan), "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "2 tags to copy" in dry.stderr and "v1" in dry.stdout
    assert run_shipline("mirror", "sync", str(plan), "--check").returncode == 15
    done = run_shipline("mirror", "sync", str(plan), "--lock", str(lock))
    assert done.returncode == 0, done.stderr
    assert "copied 2 tags" in done.stderr
    assert has(primary, "copy/app", "v1", documents["v1"])
    assert not has(primary, "copy/app", "edge", documents["edge"])
    assert run_shipline("mirror", "sync", str(plan), "--check").returncode == 0
    moved = source.image("moved")
    assert source.push(moved, "v1").status == 201
    kept = run_shipline("mirror", "sync", str(plan), "--lock", str(lock), "--locked")
    assert kept.returncode == 15
    assert "mirrored/app:v1" in kept.stderr
    assert has(primary, "copy/app", "v1", documents["v1"])
    assert run_shipline("mirror", "sync", str(plan), "--lock", str(lock)).returncode == 0
    assert has(primary, "copy/app", "v1", moved)
    tags = json.loads(lock.read_text())["tags"][f"{registry.address}/mirrored/app"]
    assert tags["v1"] == sha256(to_json(moved))


@pytest.mark.parametrize(
    ("source", "words", "message"),
    [
        ("mirrored/app:v1", (), "has a tag or digest"),
        ("mirrored/app", ("--locked", "--lock", "none.json"), "cannot read none.json"),
    ],
)
def test_mirror_sync_of_what_is_not_there_is_no_success(
    tmp_path: Path, source: str, words: tuple[str, ...], message: str
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(f"mirrors: [{{from: 'a.example/{source}', to: b.example/app}}]\n")
    done = run_shipline("mirror", "sync", str(plan), *words, cwd=tmp_path)
    assert done.returncode == 3
    assert message in done.stderr


def test_mirror_sync_warns_of_a_source_without_such_tags(
    primary: Node, registry: Registry, tmp_path: Path
) -> None:
    source = Target(registry.url, "unmatched/app")
    assert source.push(source.image("some"), "v1").status == 201
    plan, name = tmp_path / "plan.yaml", f"{registry.address}/unmatched/app"
    plan.write_text(
        f"mirrors: [{{from: '{name}', to: '{primary.address}/copy', tags: ['release-*']}}]\n"
    )
    done = run_shipline("mirror", "sync", str(plan))
    assert done.returncode == 0
    assert f"warning: {name} has no tag that the plan names" in done.stderr


def test_mirror_sync_that_fails_says_what_and_copies_the_rest(
    primary: Node, registry: Registry, tmp_path: Path
) -> None:
    source = Target(registry.url, "partly/app")
    document = source.image("good")
    assert source.push(document, "v1").status == 201
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "mirrors:\n"
        f"  - {{from: '{registry.address}/partly/none', to: '{primary.address}/partly/none'}}\n"
        f"  - {{from: '{registry.address}/partly/app', to: '{primary.address}/partly/app'}}\n"
    )
    done = run_shipline("mirror", "sync", str(plan))
    assert done.returncode == 8
    assert "partly/none" in done.stderr
    assert has(primary, "partly/app", "v1", document)


def test_a_signature_made_at_the_primary_verifies_at_the_edge(
    primary: Node, tmp_path: Path
) -> None:
    push(primary, "team/app", "v1", "one")
    (tmp_path / "password").write_text("secret")
    key, public = tmp_path / "key.key", tmp_path / "key.pub"
    password = ("--password-file", str(tmp_path / "password"))
    made = run_shipline("key", "generate", "-o", "key", *password, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    name = f"{primary.address}/team/app:v1"
    signed = run_shipline("sign", "--key", str(key), *password, name, cwd=tmp_path)
    assert signed.returncode == 0, signed.stderr
    with edge_of(tmp_path, "edge", primary.address) as edge:
        there = f"{edge.address}/team/app:v1"
        eventually(lambda: Target(edge.url, "team/app").call("HEAD", "manifests/v1").status == 200)
        verified = run_shipline("verify", "--identity", "path", "--key", str(public), there)
        assert verified.returncode == 0, verified.stderr
        if cosign := shutil.which("cosign"):
            flags = ("--insecure-ignore-tlog=true", "--allow-insecure-registry")
            command = (cosign, "verify", *flags, "--key", str(public), there)
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr


def test_a_source_that_keeps_no_journal_is_named(registry: Registry, tmp_path: Path) -> None:
    with edge_of(tmp_path, "edge", registry.address) as edge:
        eventually(lambda: "keeps no journal" in _region(edge)["error"])
        assert "serve it with --role primary" in edge.log.read_text()


def test_regions_are_shown_with_their_lag(primary: Node, tmp_path: Path) -> None:
    push(primary, "team/app", "v1", "one")
    with edge_of(tmp_path, "edge", primary.address) as edge:
        eventually(lambda: _region(edge)["verified"] > 0)

        def followers() -> list[dict[str, Any]]:
            done = run_shipline("regions", "--node", primary.address, "--json")
            assert done.returncode == 0, done.stderr
            found: list[dict[str, Any]] = json.loads(done.stdout)
            return found

        eventually(lambda: [one["verified"] > 0 for one in followers()] == [True])
        (one,) = followers()
        assert (one["mode"], one["entries"], one["errors"]) == ("follower", 0, 0)
        shown = run_shipline("regions", "--node", edge.address)
        assert "main" in shown.stdout and "pull" in shown.stdout
        metrics = urllib.request.urlopen(f"{edge.url}/metrics").read().decode()
        assert 'replication_lag_seconds{mode="pull",region="main"} 0.0' in metrics
    assert run_shipline("regions").returncode == 2


def _region(node: Node) -> dict[str, Any]:
    with urllib.request.urlopen(f"{node.url}/_shipline/regions") as answer:
        regions: list[dict[str, Any]] = json.load(answer)["regions"]
    return regions[0]


def _threads(node: Node) -> int:
    return len(list(Path(f"/proc/{node.process.pid}/task").iterdir()))
