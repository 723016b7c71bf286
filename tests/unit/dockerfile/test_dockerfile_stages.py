"""Laws of stages: what a target needs, and what the names in it stand for."""

from __future__ import annotations

import pytest

from shipline.dockerfile import (
    SCRATCH,
    ContextSource,
    Copy,
    Dockerfile,
    Env,
    ImageSource,
    Instruction,
    PlatformArgs,
    Stage,
    StagePlan,
    StageSource,
    open_scope,
    parse_dockerfile,
    parse_trigger,
    resolve_target,
    stage_plan,
)
from shipline.errors import DockerfileError

HERE = PlatformArgs("linux/amd64", "linux/amd64")


def planned(
    content: str, target: str | None = None, contexts: tuple[str, ...] = ()
) -> tuple[Dockerfile, StagePlan]:
    dockerfile = parse_dockerfile(content)
    scope = open_scope(dockerfile, HERE)
    stage = resolve_target(dockerfile, target)
    plan = stage_plan(dockerfile, stage, lambda s: scope.base_of(s).name, contexts=contexts)
    return dockerfile, plan


THREE = """FROM golang AS Build
FROM scratch AS test
COPY --from=build /a /b
FROM scratch
RUN --mount=from=build,target=/x true
"""


def test_the_last_stage_is_the_default_target() -> None:
    dockerfile = parse_dockerfile(THREE)
    assert resolve_target(dockerfile).index == 2
    assert resolve_target(dockerfile).label == "stage-2"


@pytest.mark.parametrize(("target", "index"), [("build", 0), ("BUILD", 0), ("test", 1)])
def test_a_target_is_a_name_in_any_letter_case(target: str, index: int) -> None:
    assert resolve_target(parse_dockerfile(THREE), target).index == index


@pytest.mark.parametrize("target", ["biuld", "2", "3", "-1", "stage-2"])
def test_an_unknown_target_lists_the_stages(target: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        resolve_target(parse_dockerfile(THREE), target)
    assert caught.value.message.startswith(f'target stage "{target}" could not be found')
    assert "build, test" in caught.value.hint
    assert ("did you mean build?" in caught.value.message) is (target == "biuld")


@pytest.mark.parametrize(("target", "needed"), [("build", [0]), ("test", [0, 1]), (None, [0, 2])])
def test_only_the_needed_stages_are_planned(target: str | None, needed: list[int]) -> None:
    _, plan = planned(THREE, target)
    assert [stage.index for stage in plan.stages] == needed


def test_names_stand_for_stages_images_and_contexts() -> None:
    content = (
        "ARG B=base\nFROM alpine AS base\nFROM $B AS two\nFROM scratch AS three\n"
        "COPY --from=0 a b\nCOPY --from=Two a b\nCOPY --from=img:1 a b\nCOPY --from=ctx a b\n"
        "FROM two\nFROM ctx AS last\n"
    )
    dockerfile, plan = planned(content, "three", contexts=("ctx",))
    assert plan.bases == {0: ImageSource("alpine"), 1: StageSource(0), 2: ImageSource(SCRATCH)}
    assert plan.source("0") == StageSource(0)
    assert plan.source("two") == plan.source("TWO") == StageSource(1)
    assert plan.source("img:1") == ImageSource("img:1")
    assert plan.source("ctx") == ContextSource("ctx")
    _, plan = planned(content, "last", contexts=("ctx",))
    assert plan.bases == {4: ContextSource("ctx")}
    assert dockerfile.stages[4].instructions == ()


def test_a_context_replaces_the_stage_of_its_name() -> None:
    _, plan = planned(THREE, "test", contexts=("build",))
    assert plan.bases[0] == ContextSource("build")


def test_a_later_stage_of_the_same_name_does_not_change_a_base() -> None:
    _, plan = planned("FROM a AS x\nFROM x AS y\nFROM b AS x\nFROM x\n")
    assert plan.bases[3] == StageSource(2)
    _, plan = planned("FROM a AS x\nFROM x AS y\nFROM b AS x\nFROM y\n")
    assert plan.bases[1] == StageSource(0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("FROM a AS x\nCOPY --from=y a b\nFROM b AS y\nFROM x\n", 'cannot copy from stage "y"'),
        ("FROM a AS x\nCOPY --from=1 a b\nFROM b AS y\nFROM x\n", 'cannot copy from stage "y"'),
        ("FROM a AS x\nRUN --mount=from=y a\nFROM b AS y\nFROM x\n", "cannot mount from stage"),
        ("FROM a AS x\nCOPY --from=x a b\n", "circular dependency detected on stage: x"),
        ("FROM a\nCOPY --from=0 a b\n", "circular dependency detected on stage: stage-0"),
        ("FROM a\nCOPY --from=7 a b\n", "invalid stage index 7"),
        ("FROM a\nCOPY --from=${x a b\n", "missing '}'"),
        ("FROM a\nCOPY --from=$x a b\n", "variable expansion is not supported for --from"),
    ],
)
def test_wrong_sources_are_refused_where_they_are_needed(content: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        planned(content)
    assert message in caught.value.message
    assert caught.value.span is not None
    assert caught.value.span.line == 2


def test_wrong_sources_do_no_harm_where_they_are_not_needed() -> None:
    _, plan = planned("FROM a\nCOPY --from=7 a b\nFROM c\n")
    assert [stage.index for stage in plan.stages] == [1]


def test_triggers_come_from_the_base_and_run_first() -> None:
    content = (
        "FROM a AS tools\nFROM scratch AS base\nONBUILD COPY --from=tools /t /t\nONBUILD ENV a=1\n"
        "FROM base\nENV b=2\n"
    )
    dockerfile, plan = planned(content)
    last = dockerfile.stages[2]
    kinds = [type(instruction) for instruction in plan.instructions(last)]
    assert kinds == [Copy, Env, Env]
    assert {instruction.span.line for instruction in plan.triggers[2]} == {last.span.line}
    assert [stage.index for stage in plan.stages] == [0, 1, 2]


def test_triggers_of_an_image_can_need_stages() -> None:
    dockerfile = parse_dockerfile("FROM a AS tools\nFROM onbuild\n")

    def triggers(stage: Stage) -> tuple[Instruction, ...]:
        if stage.base != "onbuild":
            return ()
        return (parse_trigger("COPY --from=tools a b", stage.span),)

    plan = stage_plan(
        dockerfile, dockerfile.stages[1], lambda stage: stage.base, image_triggers=triggers
    )
    assert [stage.index for stage in plan.stages] == [0, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("RUN x\nFROM a\n", "no build stage in current context"),
        ("ARG a\n", "dockerfile contains no stages to build"),
    ],
)
def test_a_file_needs_a_stage(content: str, message: str) -> None:
    with pytest.raises(DockerfileError, match=message) as caught:
        parse_dockerfile(content, file="Other")
    assert str(caught.value.span) == "Other:1"


def test_global_args_are_those_before_the_first_stage() -> None:
    dockerfile = parse_dockerfile("ARG a=1\nARG b\nFROM x\nARG c\n")
    assert [arg.args[0].name for arg in dockerfile.global_args] == ["a", "b"]
    assert len(dockerfile.stages[0].instructions) == 1


def test_a_chain_of_stages_may_be_long() -> None:
    chain = "".join(f"FROM s{number - 1} AS s{number}\n" for number in range(1, 3000))
    _, plan = planned(f"FROM scratch AS s0\n{chain}")
    assert len(plan.stages) == 3000
