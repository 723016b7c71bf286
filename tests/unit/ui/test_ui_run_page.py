"""What the page of a run says, and what of it changes."""

from __future__ import annotations

import json

import pytest

from shipline.history import LogLine, RunDetail, RunState, RunSummary, StepView
from shipline.observe import clean
from shipline.pages import Frame
from shipline.ui.live import changed_parts, changes
from shipline.ui.report import report_html
from shipline.ui.run_page import failure_of, merged, overlap, run_view
from shipline.ui.runs import run_values
from shipline.values import replace

AMD, ARM = "linux/amd64", "linux/arm64"
NOW = 2000.0
DOCKERFILE = "FROM node\nRUN one\nRUN two \\\n  more\nRUN three\n"
HOSTILE = "<script>alert(1)</script>\x1b[31m\"'&"


def step(span: int, name: str, begin: float, done: float, **fields: object) -> StepView:
    found = StepView(span, 1, name, 1000 + begin, 1000 + done if done else 0.0)
    return replace(found, **{"kind": "run", "platform": AMD, "number": "1/9", **fields})


def run(*steps: StepView, **fields: object) -> RunDetail:
    summary = RunSummary("20261130-000000-abcdef", "build", "app", 1000.0, platforms=(AMD, ARM))
    known = {"state": RunState.PASSED, "finished": 1010.0}
    loaded = step(
        1,
        "load build definition from Dockerfile",
        0,
        0.1,
        kind="internal",
        attributes={"dockerfile": DOCKERFILE},
    )
    return RunDetail(replace(summary, **{**known, **fields}), (loaded, *steps))


def failing() -> RunDetail:
    failed = step(
        5, "RUN two more", 2, 7, file="Dockerfile", line=3, end=4, error="process x: exit code: 3"
    )
    detail = run(
        step(4, "RUN two more", 2, 5, platform=ARM),
        failed,
        step(6, "RUN three", 2, 7.1, platform=ARM, error="interrupted"),
        state=RunState.FAILED,
        error="process x: exit code: 3",
    )
    log = tuple(LogLine(1003.0, 1 + number % 2, b"line %d\n" % number) for number in range(50))
    return replace(detail, output={5: log})


def test_a_failure_names_line_platform_and_exit_code_and_shows_the_source() -> None:
    found = failure_of(failing())
    assert found is not None
    assert found.title == "Dockerfile line 3 failed on linux/amd64: exit code 3"
    assert (found.first, found.source, found.marked) == (
        1,
        ("FROM node", "RUN one", "RUN two \\", "  more", "RUN three"),
        (3, 4),
    )
    assert found.output is not None
    assert (found.output.start, found.output.total, found.output.lines[-1]) == (
        31,
        50,
        (2, "line 49"),
    )
    assert found.passed == ((ARM, 3.0),)


def test_a_failure_outside_of_steps_is_its_message() -> None:
    found = failure_of(run(state=RunState.FAILED, error="no gate passed\nsize: 9 MB"))
    assert found is not None
    assert (found.title, found.message, found.span) == ("no gate passed", "size: 9 MB", 0)
    assert failure_of(run()) is None


def test_a_line_that_is_not_there_shows_no_source() -> None:
    detail = failing()
    wrong = replace(detail.steps[2], line=99)
    found = failure_of(replace(detail, steps=(*detail.steps[:2], wrong)))
    assert found is not None and found.source == ()


def test_figures_say_what_overlapped_and_what_was_not_spent() -> None:
    none = {"platform": "", "number": "", "kind": "upload"}
    detail = run(
        step(2, "RUN a", 0, 4),
        step(3, "RUN b", 0, 4, platform=ARM),
        step(4, "RUN c", 4, 4, cached=True),
        step(5, "upload x", 2, 6, attributes={"size": 100}, **none),
        step(6, "upload y", 3, 4, attributes={"size": 50}, **none),
    )
    before = [replace(detail.summary, finished=1000.0 + took) for took in (30, 20, 40)]
    found = run_view(detail, NOW, before).figures
    assert (found.took_s, found.usual_s) == (10, 30)
    assert found.work_s == 8
    assert (found.cached, found.instructions) == (1, 3)
    assert (found.uploaded, found.upload_s, found.upload_busy_s) == (150, 4, 2)


def test_overlapping_spans_are_counted_once() -> None:
    assert merged([(3, 4), (0, 2), (1, 3), (6, 6), (7, 8)]) == [(0, 4), (7, 8)]
    assert overlap([(0, 2), (3, 5)], [(1, 4), (4.5, 9)]) == 2.5
    assert overlap([], [(0, 1)]) == 0


def test_materials_are_listed_once_and_damaged_ones_left_out() -> None:
    one = {"uri": "pkg:docker/node", "digest": {"sha256": "ab"}}
    facts = {"materials web": json.dumps([one, "x", {}]), "materials api": json.dumps([one])}
    detail = replace(run(), facts={**facts, "materials bad": "{"})
    (found,) = run_view(detail, NOW).materials
    assert (found.name, found.digest) == ("node", "sha256:ab")


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("pkg:docker/node@24?platform=linux%2Farm64", "node:24 (linux/arm64)"),
        ("pkg:docker/eu.example:5000/a/b@1.0", "eu.example:5000/a/b:1.0"),
        ("pkg:docker/a?digest=sha256%3Aab&platform=linux%2Famd64", "a (linux/amd64)"),
        ("pkg:docker/library%2Fa@sha256%3Aab", "library/a"),
        ("https://example.org/a.tar?x=1", "https://example.org/a.tar?x=1"),
        ("pkg:generic/tool@1", "pkg:generic/tool@1"),
    ],
)
def test_images_that_were_downloaded_have_names(uri: str, shown: str) -> None:
    listed = json.dumps([{"uri": uri, "digest": {"sha256": "ab"}}])
    (found,) = run_view(replace(run(), facts={"materials web": listed}), NOW).materials
    assert found.name == shown


def going(*steps: StepView) -> RunDetail:
    return run(*steps, state=RunState.RUNNING, finished=0.0)


def test_only_rows_that_differ_change_while_a_run_goes_on() -> None:
    done, busy = step(2, "RUN a", 0, 1), step(3, "RUN b", 1, 0)
    before, now = (run_view(going(done, busy), at) for at in (1003.2, 1003.4))
    assert [id for id, _, _ in changed_parts(before, now, {}, {})] == ["figures", "step-3"]
    assert list(changed_parts(now, now, {}, {})) == []
    logged = [id for id, _, _ in changed_parts(now, now, {}, {2: "/log"})]
    assert logged == ["step-2"]


def test_a_new_step_changes_its_group_and_a_new_group_the_timeline() -> None:
    one, two = step(2, "RUN a", 0, 1), step(3, "RUN b", 0, 1)
    one, two = replace(one, parent=9), replace(two, parent=9)
    before = run_view(going(one), 1003.0)
    group = run_view(going(one, two), 1003.0)
    parts = [id for id, _, _ in changed_parts(before, group, {}, {})]
    assert parts == ["figures", f"group-3--{AMD}"]
    other = run_view(going(one, replace(two, platform=ARM)), 1003.0)
    assert [id for id, _, _ in changed_parts(before, other, {}, {})][-1] == "timeline"


def test_the_verdict_changes_once_and_brings_the_failure() -> None:
    before = run_view(going(step(5, "RUN two more", 2, 0)), 1007.0)
    after = run_view(failing(), NOW)
    frame = Frame("box", NOW)
    logs = {5: "/runs/x/logs/5"}
    made = {change.id: change.html for change in changes(before, after, {}, logs, frame)}
    assert list(made) == ["verdict", "outcome", "figures", "timeline"]
    assert 'role="status">failed' in made["verdict"]
    assert "Dockerfile line 3 failed" in made["outcome"]
    for id, html in made.items():
        assert f'id="{id}"' in html.partition(">")[0]
        assert 'role="status"' not in html or id == "verdict"


def test_a_report_is_one_file_without_scripts_that_shows_hostile_text_as_text() -> None:
    detail = failing()
    hostile = replace(
        detail.steps[2],
        name=clean(HOSTILE),
        file=HOSTILE,
        error=HOSTILE,
        target=HOSTILE,
        attributes={"dockerfile": HOSTILE},
    )
    summary = replace(
        detail.summary,
        name=HOSTILE,
        branch=HOSTILE,
        commit=HOSTILE,
        error=HOSTILE,
        names=(HOSTILE,),
    )
    bad = RunDetail(
        summary, (hostile,), (), {"target": HOSTILE}, {5: (LogLine(1.0, 1, HOSTILE.encode()),)}
    )
    for one in (detail, bad):
        html = report_html(one).decode()
        assert "<script" not in html
        assert "\x1b" not in html
        assert 'href="/' not in html and "src=" not in html
        assert "Content-Security-Policy" in html
    assert "&lt;script&gt;alert(1)" in html


def test_a_failure_says_what_the_hint_of_the_box_says() -> None:
    detail = failing()
    hinted = replace(detail, summary=replace(detail.summary, hint="install `make` <first>"))
    assert b"<p>install <code>make</code> &lt;first&gt;</p>" in report_html(hinted)


def test_a_failure_names_the_command_that_explains_it() -> None:
    detail = failing()
    coded = replace(detail, summary=replace(detail.summary, code="step-exit"))
    assert b"shipline explain step-exit" in report_html(coded)
    assert b"shipline explain" not in report_html(detail)


def test_a_report_shows_the_end_of_each_log() -> None:
    lines = tuple(LogLine(1.0, 1, b"line %d\n" % number) for number in range(3000))
    html = report_html(replace(failing(), output={5: lines})).decode()
    assert "line 2999" in html and "line 2000\n" in html and "line 1999\n" not in html
    assert 'href="#log-5"' in html and 'id="log-5"' in html


def test_values_of_many_steps_offer_all_of_them() -> None:
    many = [step(number, f"RUN {number}", 0, 0.001) for number in range(2, 400)]
    detail = run(*many)
    assert run_values(detail, run_view(detail, NOW))["all"].endswith("?steps=all")
    assert run_values(detail, run_view(detail, NOW, everything=True))["all"] == ""


def test_the_other_steps_that_failed_are_named_after_the_first() -> None:
    detail = failing()
    late = step(
        7, "RUN two more", 2, 8, platform=ARM, file="Dockerfile", line=3, error="exit code: 4"
    )
    found = failure_of(replace(detail, steps=(*detail.steps, late)))
    assert found is not None
    assert found.title == "Dockerfile line 3 failed on linux/amd64: exit code 3"
    assert found.also == ((7, "Dockerfile line 3 failed on linux/arm64: exit code 4"),)
    page = report_html(replace(detail, steps=(*detail.steps, late))).decode()
    assert "<li>Dockerfile line 3 failed on linux/arm64: exit code 4</li>" in page
