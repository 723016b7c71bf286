"""What is drawn of a run, and in which group."""

from __future__ import annotations

from collections.abc import Mapping

from shipline.history import LogLine, RunDetail, RunState, RunSummary, StepView, Transfer
from shipline.ui.lanes import LaneGroup, Waterfall, waterfall
from shipline.values import replace

AMD, ARM = "linux/amd64", "linux/arm64"
NOW = 2000.0


def step(span: int, name: str, begin: float, end: float = 0.0, **fields: object) -> StepView:
    """A step whose times are seconds from the start of its run."""
    finished = 1000 + end if end else 0.0
    defaults: Mapping[str, object] = {"kind": "run", "platform": AMD, "number": "1/9"}
    return replace(StepView(span, 1, name, 1000 + begin, finished), **{**defaults, **fields})


def run(*steps: StepView, **fields: object) -> RunDetail:
    summary = RunSummary("20261130-000000-000000", "build", "app", 1000.0, platforms=(AMD, ARM))
    ended = {"state": RunState.PASSED, "finished": 1010.0}
    return RunDetail(replace(summary, **{**ended, **fields}), steps)


def titles(drawn: Waterfall) -> list[tuple[str, list[str]]]:
    return [(group.title, [row.name for row in group.rows]) for group in drawn.groups]


def only(drawn: Waterfall) -> LaneGroup:
    (group,) = drawn.groups
    return group


def test_a_step_whose_result_two_platforms_use_is_shared() -> None:
    drawn = waterfall(
        run(
            step(
                2,
                "load build definition from Dockerfile",
                0,
                0.1,
                kind="internal",
                platform="",
                number="",
            ),
            step(3, "FROM node", 0.1, 0.2, kind="pull"),
            step(4, "RUN npm ci", 0.2, 2, inputs=(3,), stage="deps"),
            step(5, "COPY --from=deps", 2, 3, inputs=(4,), kind="copy"),
            step(6, "COPY --from=deps", 2, 3, inputs=(4,), kind="copy", platform=ARM),
            step(7, "push manifests", 4, 5, kind="push", platform="", number=""),
        ),
        NOW,
    )
    assert titles(drawn) == [
        ("Preparation", ["load build definition from Dockerfile"]),
        ("Shared by both platforms", ["FROM node", "RUN npm ci"]),
        (AMD, ["COPY --from=deps"]),
        (ARM, ["COPY --from=deps"]),
        ("Push and export", ["push manifests"]),
    ]


def test_targets_of_bake_have_groups_of_their_own() -> None:
    drawn = waterfall(
        run(
            step(2, "RUN a", 0, 1, target="web"),
            step(3, "RUN b", 0, 1, target="api"),
            step(4, "RUN c", 0, 1, target="api", platform=ARM),
        ),
        NOW,
    )
    assert [group.title for group in drawn.groups] == [f"api {AMD}", f"api {ARM}", f"web {AMD}"]
    assert len({group.id for group in drawn.groups}) == 3


def test_a_ship_run_has_what_ran_beside_the_build_and_what_came_after() -> None:
    plain = {"platform": "", "number": ""}
    drawn = waterfall(
        run(
            step(2, "lint", 0, 3, stage="lint", **plain),
            step(3, "build app", 0, 5, stage="build", **plain),
            step(4, "RUN make", 1, 4, parent=3),
            step(5, "push manifests", 4, 5, parent=3, kind="push", **plain),
            step(6, "sign", 6, 7, stage="sign", **plain),
            step(7, "copy to eu", 6, 7, parent=6, kind="push", **plain),
            kind="ship",
        ),
        NOW,
    )
    assert titles(drawn) == [
        ("Beside the build", ["lint"]),
        (AMD, ["RUN make"]),
        ("From digest to names", ["push manifests", "sign", "copy to eu"]),
    ]


def test_the_axis_ends_on_a_round_number_after_the_run() -> None:
    drawn = waterfall(run(step(2, "RUN a", 0, 9), finished=1038.6), NOW)
    assert (round(drawn.took_s, 1), drawn.end_s) == (38.6, 40)


def test_work_that_waited_shows_since_when_its_base_was_there() -> None:
    drawn = waterfall(
        run(
            step(2, "FROM node", 0, 1, kind="pull"),
            step(3, "RUN slow", 1, 5, inputs=(2,), stage="other"),
            step(4, "COPY --from=other", 5, 6, inputs=(2, 3), kind="copy"),
        ),
        NOW,
    )
    rows = only(drawn).rows
    assert rows[1].pieces == (("work", 1, 5),)
    assert rows[2].pieces == (("wait", 1, 5), ("work", 5, 6))
    assert [kind for kind, _ in drawn.legend] == ["work", "wait"]


def test_the_upload_of_a_layer_is_in_the_lane_of_the_step_that_made_it() -> None:
    made, none = {"blob": "sha256:aa", "size": 17_900_000}, {"platform": "", "number": ""}
    transfer = Transfer(9, "upload", "upload", 1000.5, 1001.5)
    of_first = Transfer(10, "upload", "upload", 1007, 1008, blob="sha256:aa")
    drawn = waterfall(
        run(
            step(2, "RUN apt-get", 0, 4, attributes=made),
            step(3, "RUN apt-get", 1, 4, attributes=made, platform=ARM),
            step(4, "upload to r", 2, 6, kind="upload", attributes={"blob": "sha256:aa"}, **none),
            step(
                5, "upload bb to r", 6, 7, kind="upload", attributes={"blob": "sha256:bb"}, **none
            ),
            step(6, "RUN c", 0, 4, transfers=(transfer, of_first)),
        ),
        NOW,
    )
    amd, arm, after = drawn.groups
    assert amd.rows[0].pieces == (("work", 0, 4), ("upload", 2, 6), ("upload", 7, 8))
    assert amd.rows[0].layer == 17_900_000
    assert amd.rows[1].pieces == (("work", 0, 4), ("upload", 0.5, 1.5))
    assert arm.rows[0].pieces == (("work", 1, 4),)
    assert [row.name for row in after.rows] == ["upload bb to r"]


def test_each_end_of_a_step_has_its_word() -> None:
    drawn = waterfall(
        run(
            step(2, "RUN a", 0, 1, cached=True, attributes={"size": 5}),
            step(3, "RUN b", 1, 2, error="process did not complete: exit code: 3"),
            step(4, "RUN c", 1, 2, error="interrupted"),
            step(5, "RUN d", 1, 2, error="the registry is away"),
            step(6, "RUN e", 1),
            state=RunState.FAILED,
            finished=1003.0,
        ),
        NOW,
    )
    assert [(row.outcome, row.kind, row.pieces[0][0]) for row in only(drawn).rows] == [
        ("cached", "reused", "still"),
        ("exit 3", "bad", "bad"),
        ("stopped", "off", "off"),
        ("failed", "bad", "bad"),
        ("stopped", "off", "off"),
    ]
    assert only(drawn).rows[0].layer == 0


def test_a_running_step_grows_until_now() -> None:
    going = run(step(2, "RUN a", 1), state=RunState.RUNNING, finished=0.0)
    drawn = waterfall(going, 1004.0)
    (row,) = only(drawn).rows
    assert (row.outcome, row.pieces, drawn.took_s) == ("running", (("work", 1, 4),), 4)


def test_a_run_whose_process_died_ends_with_its_last_sign_of_life() -> None:
    died = run(step(2, "RUN a", 1), state=RunState.INTERRUPTED, finished=0.0)
    died = replace(died, output={2: (LogLine(1007.0, 1, b"x"),)})
    drawn = waterfall(died, NOW)
    assert (drawn.took_s, only(drawn).rows[0].pieces) == (7, (("off", 1, 7),))


def test_steps_of_before_a_resumption_are_apart_and_undrawn() -> None:
    drawn = waterfall(run(step(2, "RUN a", -90, -80), step(3, "RUN b", 0, 1)), NOW)
    earlier, now = drawn.groups
    assert (earlier.title, earlier.rows[0].pieces) == ("Before it was resumed", ())
    assert now.title == AMD


def test_of_many_steps_the_short_ones_are_only_counted() -> None:
    many = [step(number, f"RUN {number}", 0, 0.01) for number in range(2, 400)]
    many[5] = replace(many[5], error="no", finished=1000.001)
    many[6] = replace(many[6], finished=1009.0)
    group = only(waterfall(run(*many), NOW))
    assert [row.name for row in group.rows] == ["RUN 7", "RUN 8"]
    assert group.left_out == 396
    assert len(only(waterfall(run(*many), NOW, everything=True)).rows) == 398


def test_an_empty_run_has_no_groups() -> None:
    drawn = waterfall(run(), NOW)
    assert (drawn.groups, drawn.legend) == ((), ())
