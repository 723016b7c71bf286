"""Instructions to configuration, history and vertices, one stage after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from layers_for_tests import AMD64, ARM64

from shipline import dockerfile as df
from shipline.build import BuildRequest, CacheSettings, Context, ContextKind
from shipline.build.base_images import BaseImage
from shipline.build.graph import ContextOp, CopyOp, ImageOp, MakeDirectoryOp, RunOp, ScratchOp, walk
from shipline.build.plan import PlatformPlan
from shipline.build.request import RunOptions
from shipline.build.stages import StageState
from shipline.errors import DockerfileError, NotFound, ShiplineError
from shipline.oci import Digest, History, ImageConfig, Platform, Reference
from shipline.values import replace

REQUEST = BuildRequest(Context(ContextKind.LOCAL, "."))


class Images:
    """Base images by name, and what was asked for."""

    def __init__(self, **runs: Mapping[str, Any]) -> None:
        self.runs = runs
        self.asked: list[tuple[str, Platform]] = []

    def resolve(self, name: str, platform: Platform) -> BaseImage:
        self.asked.append((name, platform))
        if name not in self.runs:
            raise NotFound(f"base image {name} was not found")
        config = ImageConfig(platform, self.runs[name], history=(History("t0", "base"),))
        digest = Digest.of(f"{name} {platform}".encode())
        return BaseImage(Reference.parse(name), ImageOp(digest), config, ())


class Registry(Images):
    """Reads names as registries do."""

    def resolve(self, name: str, platform: Platform) -> BaseImage:
        Reference.parse(name)
        return super().resolve(name, platform)


def plan(
    text: str,
    *,
    request: BuildRequest = REQUEST,
    images: Images | None = None,
    platform: Platform = AMD64,
) -> StageState:
    dockerfile = df.parse_dockerfile(text.encode(), file="Dockerfile")
    return PlatformPlan(request, dockerfile, platform, images or Images(base={})).result()


def config(instruction: str, **run: Any) -> dict[str, Any]:
    """The run configuration after one instruction on an image with `run`."""
    found = plan(f"FROM base\n{instruction}\n", images=Images(base=run)).image.run
    return {key: value for key, value in found.items() if key != "Env"}


@pytest.mark.parametrize(
    ("instruction", "before", "after"),
    [
        ("CMD run it", {}, {"Cmd": ["/bin/sh", "-c", "run it"], "ArgsEscaped": True}),
        ('CMD ["run", "it"]', {}, {"Cmd": ["run", "it"], "ArgsEscaped": True}),
        ('ENTRYPOINT ["e"]', {"Cmd": ["old"]}, {"Entrypoint": ["e"]}),
        ("USER me:us", {}, {"User": "me:us"}),
        ("WORKDIR /a/../b/", {}, {"WorkingDir": "/a/../b/"}),
        ("WORKDIR c", {"WorkingDir": "/a"}, {"WorkingDir": "/a/c"}),
        ("LABEL a=1 b=2", {"Labels": {"a": "0"}}, {"Labels": {"a": "1", "b": "2"}}),
        ("EXPOSE 80 53/udp", {}, {"ExposedPorts": {"80/tcp": {}, "53/udp": {}}}),
        ("VOLUME /v /w", {"Volumes": {"/u": {}}}, {"Volumes": {"/u": {}, "/v": {}, "/w": {}}}),
        ("STOPSIGNAL SIGINT", {}, {"StopSignal": "SIGINT"}),
        ('SHELL ["sh", "-x"]', {}, {"Shell": ["sh", "-x"]}),
        ("ONBUILD RUN x", {}, {"OnBuild": ["RUN x"]}),
        ("HEALTHCHECK NONE", {}, {"Healthcheck": {"Test": ["NONE"]}}),
        (
            "HEALTHCHECK --interval=5s --retries=3 CMD true",
            {},
            {
                "Healthcheck": {
                    "Test": ["CMD-SHELL", "true"],
                    "Interval": 5_000_000_000,
                    "Retries": 3,
                }
            },
        ),
    ],
)
def test_each_instruction_sets_its_part(
    instruction: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    assert config(instruction, **before) == after


def test_the_environment_is_that_of_the_image_and_of_env() -> None:
    images = Images(base={"Env": ["PATH=/bin", "A=1"]})
    found = plan("FROM base\nENV A=2 B=$A\nARG C=3\n", images=images)
    assert found.image.run["Env"] == ["PATH=/bin", "A=2", "B=1"]


def test_a_cmd_of_this_file_survives_an_entrypoint() -> None:
    assert config('CMD ["c"]\nENTRYPOINT ["e"]')["Cmd"] == ["c"]


def test_the_shell_is_that_of_the_image() -> None:
    assert config("CMD x", Shell=["bash", "-c"])["Cmd"] == ["bash", "-c", "x"]


def test_labels_of_the_command_line_win() -> None:
    request = replace(REQUEST, labels={"a": "2"})
    found = plan("FROM scratch\nLABEL a=1 b=1\n", request=request)
    assert found.image.run["Labels"] == {"a": "2", "b": "1"}


def test_what_changes_no_file_adds_no_vertex() -> None:
    found = plan("FROM scratch\nENV A=1\nLABEL b=2\nUSER me\nCMD x\n")
    assert isinstance(found.vertex.op, ScratchOp)
    assert [note.vertex for note in found.notes] == [None] * 4


def test_each_layer_has_one_line_of_history() -> None:
    found = plan("FROM base\nCOPY a /\nENV A=1\nWORKDIR /w\nRUN x\n")
    with_layer = [note.vertex for note in found.notes if note.vertex is not None]
    assert [type(one.op) for one in with_layer] == [CopyOp, MakeDirectoryOp, RunOp]
    assert with_layer == list(found.vertex.chain())[2::-1]
    assert found.image.history == (History("t0", "base"),)


def test_a_stage_goes_on_from_another_with_its_history() -> None:
    found = plan("FROM scratch AS one\nENV A=1\nUSER me\nFROM one\nCOPY a /\n")
    assert found.user == "me"
    assert [note.text.split()[0] for note in found.notes] == ["ENV", "USER", "COPY"]


def test_only_what_the_target_needs_is_planned() -> None:
    images = Images(base={})
    plan("FROM missing AS one\nRUN x\nFROM base\nCOPY a /\n", images=images)
    assert set(images.asked) == {("base", AMD64)}


def test_copy_from_names_a_stage_a_number_or_an_image() -> None:
    images = Images(base={}, other={})
    text = "FROM base AS one\nRUN x\nFROM scratch\nCOPY --from={} /a /\n"
    stage = plan(text.format("one"), images=images).vertex.inputs[1]
    assert isinstance(stage.op, RunOp)
    assert plan(text.format("0"), images=images).vertex.inputs[1] == stage
    assert isinstance(plan(text.format("other"), images=images).vertex.inputs[1].op, ImageOp)


def test_a_copy_without_from_reads_the_context() -> None:
    found = plan("FROM scratch\nCOPY a b /d/\n").vertex
    assert found.inputs[1].op == ContextOp("context")
    assert isinstance(found.op, CopyOp)
    assert (found.op.sources, found.op.destination) == (("a", "b"), "/d/")


def test_copies_are_equal_for_all_platforms_where_nothing_says_otherwise() -> None:
    text = "FROM scratch\nCOPY a /\n"
    assert plan(text).vertex == plan(text, platform=ARM64).vertex
    text = "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /\n"
    assert plan(text).vertex != plan(text, platform=ARM64).vertex


def test_a_stage_of_the_build_platform_is_one_for_all() -> None:
    text = "FROM --platform=linux/amd64 base AS one\nRUN x\nFROM scratch\nCOPY --from=one /a /\n"
    one, two = (plan(text, platform=platform) for platform in (AMD64, ARM64))
    assert one.vertex == two.vertex
    assert (one.image.platform, two.image.platform) == (AMD64, ARM64)


def test_the_configuration_has_the_platform_of_its_stage() -> None:
    """Unless the build names one: BuildKit tells implied platforms from others."""
    text = "FROM --platform=linux/arm64 base\n"
    found = plan(text)
    assert (found.image.platform, found.target) == (ARM64, AMD64)
    found = plan(text, request=replace(REQUEST, platforms=(AMD64,)))
    assert (found.image.platform, found.target) == (AMD64, AMD64)


def test_a_base_for_windows_says_which_version_it_is() -> None:
    """Where the platform of the build says none."""
    base = Platform.parse("windows(10.0.20348.1)/amd64")

    class Versioned(Images):
        def resolve(self, name: str, platform: Platform) -> BaseImage:
            found = super().resolve(name, platform)
            return replace(found, config=replace(found.config, platform=base))

    found = plan("FROM base\n", images=Versioned(base={}), platform=replace(base, os_version=""))
    assert (found.image.platform, found.target) == (base, base)
    newer = Platform.parse("windows(10.0.26100.1)/amd64")
    text = "FROM base\nARG TARGETOSVERSION\nLABEL version=$TARGETOSVERSION\n"
    found = plan(text, images=Versioned(base={}), platform=newer)
    assert found.image.platform == newer
    assert found.image.run["Labels"] == {"version": "10.0.26100.1"}


def test_steps_run_for_their_platform_with_their_arguments() -> None:
    images = Images(base={"Env": ["PATH=/bin"]})
    found = plan("FROM base\nARG V=1\nUSER me\nWORKDIR /w\nRUN x\n", images=images, platform=ARM64)
    op = found.vertex.op
    assert isinstance(op, RunOp)
    assert (op.args, op.platform, op.user, op.cwd) == (
        ("/bin/sh", "-c", "x"),
        "linux/arm64",
        "me",
        "/w",
    )
    assert {"PATH=/bin", "V=1"} <= set(op.env)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("copy a b", "COPY a b"),
        ("run x", "RUN x"),
        ("RUN <<E\n\nfirst\nsecond\nE", "RUN <<E (first...)"),
        ("RUN <<-E\n\t#!/bin/sh\nE", "RUN <<-E (#!/bin/sh)"),
        ("RUN cat <<E\nfirst\nE", "RUN cat <<E"),
    ],
)
def test_a_step_is_named_by_its_instruction(text: str, name: str) -> None:
    assert plan(f"FROM base\n{text}\n").vertex.label.name == name


def test_proxies_reach_the_step_and_are_no_part_of_its_name() -> None:
    request = replace(REQUEST, build_args={"HTTP_PROXY": "http://p"})
    with_proxy = plan("FROM base\nRUN x\n", request=request).vertex
    assert isinstance(with_proxy.op, RunOp)
    assert "HTTP_PROXY=http://p" in with_proxy.op.proxies
    assert with_proxy == plan("FROM base\nRUN x\n").vertex


def test_triggers_of_the_image_come_first_and_are_used_up() -> None:
    images = Images(base={"OnBuild": ["ENV A=1"]})
    found = plan("FROM base\nENV B=$A\n", images=images)
    assert found.image.run["Env"][-2:] == ["A=1", "B=1"]
    assert "OnBuild" not in found.image.run


def test_no_cache_is_for_all_stages_or_for_those_named() -> None:
    text = "FROM scratch AS one\nCOPY a /\nFROM one AS two\nCOPY b /\n"
    some = replace(REQUEST, cache=CacheSettings(disabled_stages=("two",)))
    fresh = [one.fresh for one in walk(plan(text, request=some).vertex) if one.label.number]
    assert fresh == [False, True]
    every = replace(REQUEST, cache=CacheSettings(disabled=True))
    assert all(one.fresh for one in walk(plan(text, request=every).vertex) if one.label.number)


def test_named_contexts_replace_images() -> None:
    contexts = {"base": Context(ContextKind.IMAGE, "other"), "src": Context(ContextKind.LOCAL, "s")}
    request = replace(REQUEST, build_contexts=contexts)
    images = Images(other={"User": "me"})
    found = plan("FROM base\nCOPY --from=src a /\n", request=request, images=images)
    assert found.user == "me"
    assert found.vertex.inputs[1].op == ContextOp("src")


def test_what_lists_of_packages_cover_is_declared_by_each_stage() -> None:
    lines = ("FROM base AS a", "ARG BUILDKIT_SBOM_SCAN_STAGE=true", "FROM base")
    copied = "COPY --from=a / /"
    text = "\n".join((*lines, "ARG BUILDKIT_SBOM_SCAN_CONTEXT=true", copied, ""))
    assert [name for name, _ in plan(text).scanned] == ["a", "context"]
    other = text.replace("_STAGE", "_X").replace("_CONTEXT", "_STAGE").replace("_X", "_CONTEXT")
    assert not plan(other).scanned


def test_steps_are_counted_as_people_see_them() -> None:
    found = plan("FROM base\nENV A=1\nCOPY a /\nRUN x\n").vertex
    assert [one.label.number for one in found.chain()] == ["3/3", "2/3", "1/3"]
    own = plan("FROM base AS a\nRUN x\nFROM a AS b\nRUN y\nRUN z\n").vertex
    assert [one.label.number for one in own.chain()] == ["2/2", "1/2", "2/2", "1/2"]
    assert plan("FROM scratch\nCOPY a /\n").vertex.label.number == "1/1"


@pytest.mark.parametrize(
    ("flag", "entitlement", "allowed"),
    [
        ("--network=host", "network.host", RunOptions(entitlements=frozenset({"network.host"}))),
        ("--network=host", "network.host", RunOptions(network="host")),
        (
            "--security=insecure",
            "security.insecure",
            RunOptions(entitlements=frozenset({"security.insecure"})),
        ),
    ],
)
def test_an_entitlement_is_refused_unless_it_is_given(
    flag: str, entitlement: str, allowed: RunOptions
) -> None:
    text = f"FROM base\nRUN {flag} x\n"
    others = {"network.host", "security.insecure"} - {entitlement}
    for run in (RunOptions(), RunOptions(entitlements=frozenset(others))):
        with pytest.raises(DockerfileError, match=f"^{entitlement} is not allowed$"):
            plan(text, request=replace(REQUEST, run=run))
    op = plan(text, request=replace(REQUEST, run=allowed)).vertex.op
    assert isinstance(op, RunOp)
    assert (op.network == "host", op.insecure) in ((True, False), (False, True))


@pytest.mark.parametrize("given", ["default", "none", "host"])
@pytest.mark.parametrize("written", ["", "--network=default ", "--network=none "])
def test_the_network_is_that_of_the_build_unless_a_command_has_none(
    given: str, written: str
) -> None:
    request = replace(REQUEST, run=RunOptions(network=given))  # type: ignore[arg-type]
    op = plan(f"FROM base\nRUN {written}x\n", request=request).vertex.op
    assert isinstance(op, RunOp)
    assert op.network == ("none" if "none" in written else given)


@pytest.mark.parametrize(
    ("instruction", "named"),
    [
        ("ADD https://h/f.git?x=1 /", "unknown key 'x'"),
        ("ADD https://h/f.git#-x /", "'-x' is not the name of a Git ref"),
        ("ADD --checksum=sha256:00 https://h/f.git /", "expected hex commit hash"),
        ("ADD --checksum=00 https://h/f.git a /", "--checksum is for a single source"),
        ("ADD --checksum=sha256:00 https://h/f /", "--checksum"),
        ("RUN --device=gpu x", 'invalid device "gpu"'),
        ("RUN --device=v.example/c=x,required y", 'device "v.example/c=x" is not registered'),
        ("ADD --checksum=sha256:00 a /", "--checksum"),
        ("COPY a https://h/f /", "source can't be a URL for COPY"),
        ("COPY --from=base https://h/f.git#v1 /", "source can't be a git ref for COPY"),
        ("COPY https://h/f.git?x=1 /", "unknown key 'x'"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(instruction: str, named: str) -> None:
    with pytest.raises(DockerfileError, match=named):
        plan(f"FROM base\n{instruction}\n")


def test_a_missing_image_is_told_with_its_line() -> None:
    with pytest.raises(NotFound, match="missing") as caught:
        plan("FROM base AS one\nFROM missing\nCOPY --from=one a /\n")
    assert str(caught.value.span) == "Dockerfile:2"


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("FROM base AS build\nFROM base\nCOPY --from=biuld /x /\n", 3, "the stage build?"),
        ("FROM base AS build\nFROM buidl\n", 2, "the stage build?"),
        ("FROM last\nFROM base AS last\nCOPY --from=0 / /\n", 1, "is on line 2: move it"),
        ("FROM base:$V\n", 1, "$V is not declared: write ARG V=VALUE before"),
        ("ARG V\nFROM base:$V\n", 2, "give ARG V a default, or --build-arg V=VALUE"),
        ("ARG VERSION=1\nFROM base:$VERSOIN\n", 2, "did you mean $VERSION?"),
        ("FROM base\nARG V=1\nFROM other:$V\nCOPY --from=0 / /\n", 3, "move ARG (line 2)"),
        ("FROM base:bad:tag\n", 1, "[HOST[:PORT]/]NAME[:TAG]"),
        ("FROM Base\n", 1, "write base"),
        ("FROM https://example.com/base\n", 1, "write example.com/base"),
        ("FROM base@sha256:12\n", 1, ""),
    ],
)
def test_a_name_that_is_no_image_is_told_with_what_was_meant(
    text: str, line: int, hint: str
) -> None:
    with pytest.raises(ShiplineError) as caught:
        plan(text, images=Registry(base={}))
    assert caught.value.span is not None
    assert caught.value.span.line == line
    assert hint in caught.value.hint


def test_a_stage_named_like_its_own_image_is_not_meant() -> None:
    with pytest.raises(NotFound) as caught:
        plan("FROM other AS other\n")
    assert caught.value.hint == ""


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("ARG TARGETPLATFORM", "linux/amd64->arm64"),
        ("ARG TARGETARCH", "linux/amd64->arm64"),
        ("ARG OTHER", "linux/amd64"),
    ],
)
def test_a_step_that_makes_something_for_another_platform_is_shown_so(
    argument: str, shown: str
) -> None:
    text = f"FROM --platform=linux/amd64 base\n{argument}\nRUN make\n"
    made = plan(text, platform=ARM64)
    assert made.vertex.label.platform == shown
    assert isinstance(made.vertex.op, RunOp)
    assert made.vertex.op.platform == "linux/amd64"
    assert plan("FROM base\nARG TARGETPLATFORM\nRUN make\n").vertex.label.platform == "linux/amd64"


def test_the_shell_is_that_of_the_operating_system() -> None:
    found = plan("FROM scratch\nENTRYPOINT foo bar\n", platform=Platform("windows", "amd64"))
    assert found.image.run["Entrypoint"] == ["cmd", "/S", "/C", "foo bar"]
