"""The report at the end of a run, and when terminals get colours."""

from __future__ import annotations

import pytest
from events_for_tests import Script

from shipline.observe import RunReport
from shipline.observe.displays import colored


def test_the_report_has_time_chain_uploads_and_sizes() -> None:
    report = RunReport()
    script = Script(report)
    build = script.start(0, "build")
    base = script.start(0, "FROM alpine", build, vertex="aa", kind="pull")
    script.finish(1, base, cached=True)
    slow = script.start(1, "RUN make", build, vertex="bb", inputs="aa", number="2/3")
    other = script.start(1, "RUN test", build, vertex="cc", inputs="aa", number="2/3")
    script.finish(3, other)
    script.finish(9, slow)
    last = script.start(9, "COPY . /app", build, vertex="dd", inputs="bb", number="3/3")
    upload = script.start(9, "layer", last, kind="upload")
    script.progress(10, upload, 2_000_000, 2_000_000)
    script.finish(10, upload)
    script.finish(10, last)
    report.facts |= {"stored": 5_000_000, "sizes": "linux/amd64=5000000 linux/arm64=4000000"}
    script.finish(10, build)
    assert report.lines() == [
        "time      10.0s: 4 steps, 1 cached",
        "longest   8.0s [2/3] RUN make",
        "          1.0s [3/3] COPY . /app",
        "          1.0s FROM alpine",
        "uploaded  2.00MB; 3.00MB was there already",
        "size      linux/amd64 5.00MB, linux/arm64 4.00MB",
    ]


def test_steps_of_no_time_are_no_part_of_the_report() -> None:
    report = RunReport()
    script = Script(report)
    build = script.start(0, "build")
    script.finish(0.01, script.start(0, "COPY a /a", build, vertex="aa"))
    assert report.lines() == ["time      0.0s: 1 step, 0 cached"]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, True),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": ""}, True),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, True),
        ({"NO_COLOR": "1", "CLICOLOR_FORCE": "1"}, True),
        ({"NO_COLOR": "1", "FORCE_COLOR": "0"}, False),
    ],
)
def test_colours_are_taken_away_and_given_back(environ: dict[str, str], expected: bool) -> None:
    assert colored(environ) is expected
