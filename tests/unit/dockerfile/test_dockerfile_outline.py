"""What a target takes: arguments, secrets and SSH agents, as BuildKit's frontend outlines it."""

from __future__ import annotations

from collections.abc import Mapping

from shipline import dockerfile as df

HERE = df.PlatformArgs("linux/amd64", "linux/amd64")


def outlined(
    text: str, target: str | None = None, build_args: Mapping[str, str] | None = None
) -> df.Outline:
    dockerfile = df.parse_dockerfile(text)
    stage = df.resolve_target(dockerfile, target)
    scope = df.open_scope(dockerfile, HERE, build_args=build_args, target=stage.name)
    plan = df.stage_plan(dockerfile, stage, lambda one: scope.base_of(one).name)
    steps: dict[int, list[df.ScopedInstruction]] = {}
    for one in plan.stages:
        base = plan.bases[one.index]
        inside = df.VariableScope()
        if isinstance(base, df.StageSource) and steps[base.index]:
            inside = steps[base.index][-1].scope
        steps[one.index] = []
        for line in plan.instructions(one):
            step = df.apply(line, inside, scope)
            steps[one.index].append(step)
            inside = step.scope
    return df.outline(dockerfile, scope, plan, steps)


def arguments(found: df.Outline) -> list[tuple[str, str, str, int]]:
    return [(one.name, one.value, one.description, one.span.line) for one in found.args]


GLOBAL = """\
# A is a
ARG A=1
ARG B=$A
ARG UNUSED=2
# IMG is used once
ARG IMG=busybox:${A}
FROM ${IMG}
ARG B
ARG TARGETARCH
ARG OWN=x-${TARGETARCH}
"""


def test_a_global_argument_is_listed_where_a_stage_uses_it_with_what_its_default_needs() -> None:
    assert arguments(outlined(GLOBAL)) == [
        ("A", "1", "is a", 2),
        ("B", "1", "", 3),
        ("IMG", "busybox:1", "is used once", 6),
        ("OWN", "x-amd64", "", 10),
    ]


def test_a_default_needs_what_has_a_value_where_it_is() -> None:
    text = "ARG A=1\nARG B=$A\nARG C=$D\nARG D=2\nARG B=${B:?}3\nARG A=\nFROM scratch\nARG B C\n"
    assert arguments(outlined(text)) == [("C", "", "", 3), ("B", "13", "", 5), ("A", "", "", 6)]


def test_an_argument_that_is_given_is_the_stages_own_and_needs_nothing() -> None:
    given = {"B": "9", "IMG": "alpine", "TARGETARCH": "z"}
    assert arguments(outlined(GLOBAL, build_args=given)) == [
        ("IMG", "alpine", "is used once", 6),
        ("B", "9", "", 8),
        ("TARGETARCH", "z", "", 9),
        ("OWN", "x-z", "", 10),
    ]


STAGES = """\
FROM scratch AS one
ARG SHARED=one
RUN --mount=type=secret,id=one true
FROM scratch AS two
ARG SHARED=two
ARG ONLY
RUN --mount=type=ssh true
FROM scratch AS unused
ARG NEVER
FROM one AS last
RUN --mount=from=two,target=/m --mount=type=secret,id=one,required=true true
"""


def test_of_one_name_the_nearest_stage_counts() -> None:
    found = outlined(STAGES)
    assert arguments(found) == [("SHARED", "one", "", 2), ("ONLY", "", "", 6)]
    assert [(one.name, one.required, one.span.line) for one in found.secrets] == [("one", True, 11)]
    assert [(one.name, one.required, one.span.line) for one in found.agents] == [
        ("default", False, 7)
    ]


def test_a_target_has_nothing_of_the_stages_that_it_does_not_need() -> None:
    found = outlined(STAGES, target="two")
    assert arguments(found) == [("SHARED", "two", "", 5), ("ONLY", "", "", 6)]
    assert found.secrets == ()


def test_a_description_begins_with_the_name_in_lower_case_for_stages() -> None:
    text = "# other\n# base is it\n# base no more\nFROM scratch AS BASE\n"
    assert df.description(outlined(text).target.opening, "base") == "is it"
    assert df.description(outlined("# \nFROM scratch\n").target.opening, "") == ""
