"""SOURCE_DATE_EPOCH: seconds, or the name of what has a time."""

from __future__ import annotations

import pytest

from shipline import dockerfile as df
from shipline.build import BuildRequest, Context, ContextKind
from shipline.build.clock import EPOCH, Clock, clock_of, epoch_of, with_seconds
from shipline.build.result_flags import parse_output
from shipline.errors import DockerfileError, ShiplineError, UsageError
from shipline.values import replace

LOCAL = BuildRequest(Context(ContextKind.LOCAL, "."))
ARCHIVE = BuildRequest(Context(ContextKind.STDIN, "/unpacked", newest=7))
PLAIN = "FROM scratch\n"


def time_of(name: str, stage: df.Stage) -> int:
    if name != "src":
        raise DockerfileError(f"{name} has no time", span=stage.span)
    return 9


def resolved(text: str, request: BuildRequest = LOCAL, **arguments: str) -> str:
    file = df.parse_dockerfile(text.encode(), file="Dockerfile")
    return epoch_of(*with_seconds(replace(request, build_args=arguments), file, time_of))


def test_the_build_argument_beats_the_default_of_the_dockerfile() -> None:
    assert resolved(PLAIN) == ""
    assert resolved(f"ARG {EPOCH}=5\n{PLAIN}") == "5"
    assert resolved(f"ARG T=6\nARG {EPOCH}=$T\n{PLAIN}") == "6"
    assert resolved(f"ARG {EPOCH}=5\n{PLAIN}", SOURCE_DATE_EPOCH="-8") == "-8"
    assert resolved(f"ARG {EPOCH}=5\n{PLAIN}", SOURCE_DATE_EPOCH="") == ""


def test_context_is_the_newest_file_of_an_archive_and_nothing_for_a_directory() -> None:
    for words in ({"SOURCE_DATE_EPOCH": "context"}, {}):
        text = PLAIN if words else f"ARG {EPOCH}=context\n{PLAIN}"
        assert resolved(text, ARCHIVE, **words) == "7"
        assert resolved(text, LOCAL, **words) == ""


@pytest.mark.parametrize(
    ("attributes", "clock"),
    [
        ("rewrite-timestamp=true", Clock(5, True)),
        ("rewrite-timestamp=true,source-date-epoch=6", Clock(6, True)),
        ("rewrite-timestamp=true,source-date-epoch=", Clock(5, False)),
        ("source-date-epoch=6", Clock(6, False)),
    ],
)
def test_the_epoch_of_an_output_comes_first(attributes: str, clock: Clock) -> None:
    file = df.parse_dockerfile(f"ARG {EPOCH}=5\n{PLAIN}".encode())
    request = replace(LOCAL, outputs=(parse_output(f"type=oci,dest=o,{attributes}"),))
    assert clock_of(request, file) == clock
    other = parse_output("type=oci,dest=p,source-date-epoch=7")
    if "epoch=6" in attributes:
        with pytest.raises(UsageError, match="share one source-date-epoch"):
            clock_of(replace(request, outputs=(*request.outputs, other)), file)


def test_a_stage_sees_the_seconds() -> None:
    text = f"ARG {EPOCH}=context\n{PLAIN}ARG {EPOCH}\n"
    _, file = with_seconds(ARCHIVE, df.parse_dockerfile(text.encode(), file="Dockerfile"), time_of)
    scope = df.open_scope(file, df.PlatformArgs("linux/amd64", "linux/amd64"))
    step = df.apply(file.stages[0].instructions[0], df.VariableScope(), scope)
    assert step.scope.variables[EPOCH] == "7"


def test_a_named_context_has_no_time() -> None:
    named = replace(LOCAL, build_contexts={"src": Context(ContextKind.LOCAL, ".")})
    assert resolved(PLAIN, named, SOURCE_DATE_EPOCH="src") == ""


def test_a_stage_has_the_time_that_it_is_given() -> None:
    text = f"FROM scratch AS src\nFROM scratch AS other\n{PLAIN}"
    assert resolved(f"ARG {EPOCH}=src\n{text}") == "9"
    assert resolved(text, SOURCE_DATE_EPOCH="src") == "9"
    with pytest.raises(DockerfileError, match="other has no time"):
        resolved(text, SOURCE_DATE_EPOCH="other")


@pytest.mark.parametrize("value", ["soon", "1.5", "--5", "1 2", "253402300800"])
def test_what_is_no_time_is_refused(value: str) -> None:
    with pytest.raises(UsageError, match=EPOCH) as caught:
        resolved(PLAIN, SOURCE_DATE_EPOCH=value)
    assert isinstance(caught.value, ShiplineError) and "git log" in caught.value.hint
