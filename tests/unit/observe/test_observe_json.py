"""rawjson: one SolveStatus a line, vertexes whole at their start and at their end."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

from events_for_tests import Script

from shipline.events import CANCELLED
from shipline.observe import JsonSink


def told() -> list[dict[str, Any]]:
    stream = io.StringIO()
    script = Script(JsonSink(stream))
    build = script.start(0, "build")
    run = script.start(1, "RUN make", build, platform="linux/amd64", kind="run")
    script.output(1.5, run, b"\xffraw\n", 2)
    upload = script.start(2, "layer", run, kind="upload")
    script.progress(3, upload, 5, 10)
    script.finish(4, upload)
    script.warn(4, run, "careful", "or not")
    script.finish(5, run, "it broke")
    script.finish(5, build, "it broke")
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_each_line_holds_one_list() -> None:
    assert [list(line) for line in told()] == [
        ["vertexes"],
        ["logs"],
        ["statuses"],
        ["statuses"],
        ["warnings"],
        ["vertexes"],
    ]


def test_everything_names_its_vertex() -> None:
    first, log, moving, _, warning, last = told()
    vertex = first["vertexes"][0]
    assert vertex["name"] == "[linux/amd64] RUN make"
    assert vertex["started"] == "2023-11-14T22:13:21.000000Z"
    assert "completed" not in vertex
    done = last["vertexes"][0]
    assert done == {**vertex, "completed": "2023-11-14T22:13:25.000000Z", "error": "it broke"}
    named = [log["logs"][0], moving["statuses"][0], warning["warnings"][0]]
    assert {one["vertex"] for one in named} == {vertex["digest"]}


def test_steps_are_named_by_what_they_do_and_name_what_they_use() -> None:
    stream = io.StringIO()
    script = Script(JsonSink(stream))
    build = script.start(0, "build")
    script.start(1, "FROM x", build, vertex="aa")
    script.start(2, "RUN make", build, vertex="bb", inputs="aa cc")
    first, second = (json.loads(line)["vertexes"][0] for line in stream.getvalue().splitlines())
    assert (first["digest"], "inputs" in first) == ("sha256:aa", False)
    assert (second["digest"], second["inputs"]) == ("sha256:bb", ["sha256:aa", "sha256:cc"])


def test_output_travels_unchanged() -> None:
    log = told()[1]["logs"][0]
    assert (base64.b64decode(log["data"]), log["stream"]) == (b"\xffraw\n", 2)


def test_transfers_count_bytes_until_they_are_complete() -> None:
    moving, complete = (line["statuses"][0] for line in told()[2:4])
    assert (moving["id"], moving["current"], moving["total"]) == ("layer", 5, 10)
    assert "completed" not in moving
    assert "completed" in complete


def test_a_cancelled_vertex_is_told_as_by_buildkit() -> None:
    stream = io.StringIO()
    script = Script(JsonSink(stream))
    build = script.start(0, "build")
    run = script.start(1, "RUN make", build)
    script.finish(2, run, CANCELLED)
    last = json.loads(stream.getvalue().splitlines()[-1])
    assert last["vertexes"][0]["error"] == "context canceled"
