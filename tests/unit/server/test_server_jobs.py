"""Jobs that operators start run once, are reported, and never stop the node."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from directories import Directory

from served import served
from shipline.server.gc import GcOptions, GcReport
from shipline.server.jobs import Job, JobOptions, collection
from shipline.server.problems import Problem
from shipline.tasks import TaskGroup, sleep
from spec_client import OCTETS, Answer, Target, sha256

INDEX = "application/vnd.oci.image.index.v1+json"
SECTION = """
collection: {every: null}
policy: {retention: [{tags: ["old-*"], latest: 0}]}
"""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with served(tmp_path_factory.mktemp("jobs"), SECTION) as node:
        yield Target(node.url, "team/app")


def begin(target: Target, path: str, **options: Any) -> Answer:
    kind = {"Content-Type": "application/json"}
    return target.call("POST", path, json.dumps(options).encode(), kind)


def ended(target: Target, path: str) -> dict[str, Any]:
    """The state of a chore once it has ended."""
    for _ in range(3000):
        state: dict[str, Any] = target.call("GET", path).json
        if not state["running"]:
            return state
        time.sleep(0.02)
    raise AssertionError(f"{path} does not end")


def push(target: Target, tag: str) -> None:
    body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}).encode()
    path = f"/v2/team/app/manifests/{tag}"
    assert target.call("PUT", path, body, {"Content-Type": INDEX}).status == 201


def test_a_collection_on_demand_frees_while_the_node_serves(target: Target) -> None:
    content = b"nobody needs this"
    path = f"/v2/team/app/blobs/{sha256(content)}"
    target.call("POST", f"/v2/team/app/blobs/uploads/?digest={sha256(content)}", content, OCTETS)
    assert begin(target, "/api/gc", dry_run=True, grace="0").status == 202
    assert ended(target, "/api/gc")["result"]["files"] == 1
    assert target.call("HEAD", path).status == 200
    assert begin(target, "/api/gc", grace="1h").status == 202
    assert ended(target, "/api/gc")["result"]["files"] == 0
    assert begin(target, "/api/gc", grace="0").status == 202
    state = ended(target, "/api/gc")
    assert (state["result"]["files"], state["error"]) == (1, "")
    assert target.call("HEAD", path).status == 404
    assert b'gc_runs_total{result="ok"} 2' in target.call("GET", "/metrics").body


def test_retention_on_demand_says_why_before_it_removes(target: Target) -> None:
    for tag in ("old-1", "new-1"):
        push(target, tag)
    begin(target, "/api/retention", dry_run=True)
    (decision,) = ended(target, "/api/retention")["result"]
    assert (decision["tag"], decision["kept"]) == ("old-1", False) and decision["reason"]
    assert target.call("GET", "/v2/team/app/tags/list").json["tags"] == ["new-1", "old-1"]
    begin(target, "/api/retention")
    ended(target, "/api/retention")
    assert target.call("GET", "/v2/team/app/tags/list").json["tags"] == ["new-1"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{}", "application/x-www-form-urlencoded"),
        (b"", "text/plain"),
        (b"[]", "application/json"),
        (b"{", "application/json"),
        (b'{"force": true}', "application/json"),
        (b'{"dry_run": "yes"}', "application/json"),
        (b'{"grace": "soon"}', "application/json"),
    ],
)
def test_malformed_options_start_no_job(target: Target, body: bytes, kind: str) -> None:
    before = target.call("GET", "/api/gc").json["began"]
    assert target.call("POST", "/api/gc", body, {"Content-Type": kind}).status == 400
    assert target.call("GET", "/api/gc").json["began"] == before


def test_a_job_runs_once_at_a_time_and_ends_with_the_node() -> None:
    inside = threading.Event()

    def work(options: JobOptions, actor: str) -> None:
        inside.set()
        sleep(60)

    job = Job(work)
    with pytest.raises(Problem, match="starting"):
        job.begin({}, "me")
    with TaskGroup() as group:
        job.start(group)
        job.begin({}, "me")
        assert inside.wait(60)
        with pytest.raises(Problem, match="already running"):
            job.begin({}, "me")
        group.scope.cancel()
    assert not job.state.running and "shut down" in job.state.error


def test_a_collection_that_fails_is_reported(tmp_path: Path) -> None:
    node, reports = Directory(tmp_path), list[GcReport | None]()
    job = collection(node.storage, GcOptions(), reports.append, lambda event: None)
    (tmp_path / "blobs" / "sha512").rmdir()
    with TaskGroup() as group:
        job.start(group)
        job.begin({}, "me")
    node.close()
    assert reports == [None] and job.state.error


def test_a_failed_job_stops_nothing_and_may_run_again() -> None:
    def work(options: JobOptions, actor: str) -> str:
        if options:
            raise RuntimeError("no luck")
        return "done"

    job = Job(work)
    with TaskGroup() as group:
        job.start(group)
        job.begin({"dry_run": True}, "me")
        group.join()
        assert job.state.error == "no luck"
        job.begin({}, "me")
        group.join()
        assert job.state.result == "done" and not job.state.error
