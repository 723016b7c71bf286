"""The build checks see the ignore rules, the base images and the options of the command line."""

from __future__ import annotations

import base64

import pytest

from shipline import dockerfile as df
from shipline.build import BuildRequest, Context, ContextKind
from shipline.build.checks import show_warnings, warnings_of
from shipline.build.contexts import configured
from shipline.errors import DockerfileError
from shipline.events import Event, Started, Stream, Warned
from shipline.oci import ImageConfig, Platform
from shipline.values import replace

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
REQUEST = BuildRequest(Context(ContextKind.LOCAL, "."), platforms=(AMD64, ARM64))
NONE = df.IgnoreRules.of(())


def parsed(text: str) -> df.Dockerfile:
    return df.parse_dockerfile(text.encode(), file="Dockerfile")


def rules(text: str, ignore: df.IgnoreRules = NONE, **more: object) -> list[str]:
    found = warnings_of(REQUEST, parsed(text), ignore, target=None, **more)  # type: ignore[arg-type]
    return [one.rule for one in found]


def test_ignored_sources_are_told() -> None:
    text = "# check=experimental=CopyIgnoredFile\nFROM scratch\nCOPY a /\n"
    assert rules(text) == []
    assert rules(text, df.IgnoreRules.of(["a"])) == ["CopyIgnoredFile"]


def test_each_warning_is_told_once_for_all_platforms_in_the_order_of_lines() -> None:
    text = "FROM scratch\nCMD run\nMAINTAINER me\nFROM scratch as b\nMAINTAINER me\n"
    assert rules(text) == [
        "JSONArgsRecommended",
        "MaintainerDeprecated",
        "FromAsCasing",
        "MaintainerDeprecated",
    ]


def test_variables_of_a_base_image_are_defined_where_they_are_known() -> None:
    text = "FROM base\nUSER $WHO\n"
    known = {AMD64: image(AMD64, "WHO=x"), ARM64: image(ARM64)}
    assert rules(text) == []
    assert rules(text, images=lambda name, platform: known[platform]) == ["UndefinedVar"]
    assert rules(text, images=lambda name, platform: image(platform, "WHO=x")) == []


def test_a_base_image_for_another_platform_is_told() -> None:
    def amd64(name: str, platform: Platform) -> ImageConfig:
        return image(AMD64)

    text = "FROM base\nFROM --platform=linux/amd64/v1 base\nFROM --platform=linux/x86_64 base\n"
    (found,) = [
        one
        for one in warnings_of(REQUEST, parsed(text), NONE, target=None, images=amd64)
        if one.rule == "InvalidBaseImagePlatform"
    ]
    assert found.span.line == 1
    assert found.message == (
        'Base image base was pulled with platform "linux/amd64", expected "linux/arm64" for current'
        " build"
    )
    skipped = "# check=skip=InvalidBaseImagePlatform\nFROM base\n"
    assert rules(skipped, images=amd64) == []
    assert rules("FROM --platform=no/thing/at/all base\n", images=amd64) == [
        "FromPlatformFlagConstDisallowed"
    ]


def image(platform: Platform, *env: str) -> ImageConfig:
    """The configuration of an image with these variables."""
    return ImageConfig(platform, run={"Env": [*env]})


def test_the_build_argument_replaces_the_options_of_the_file() -> None:
    file = parsed("# check=error=true\nFROM scratch\nMAINTAINER me\n")
    assert df.check_options(file).error
    request = replace(
        REQUEST, build_args={"BUILDKIT_DOCKERFILE_CHECK": "skip=MaintainerDeprecated"}
    )
    other = configured(file, request)
    assert not df.check_options(other).error
    assert warnings_of(request, other, NONE, target=None) == ()
    assert configured(file, REQUEST) is file
    wrong = replace(REQUEST, build_args={"BUILDKIT_DOCKERFILE_CHECK": "foo=bar"})
    with pytest.raises(DockerfileError) as caught:
        configured(file, wrong)
    assert caught.value.message == (
        'failed to parse build-arg:BUILDKIT_DOCKERFILE_CHECK: invalid check option "foo"'
    )


def test_warnings_are_the_last_thing_told_and_silence_is_silent() -> None:
    seen: list[Event] = []
    found = warnings_of(REQUEST, parsed("FROM scratch\nMAINTAINER me\n"), NONE, target=None)
    with Stream(seen.append) as stream, stream.step("build") as step:
        show_warnings(found, step)
        show_warnings((), step)
    assert [one.name for one in seen if isinstance(one, Started)] == ["build", "check Dockerfile"]
    (warned,) = [one for one in seen if isinstance(one, Warned)]
    assert warned.message.startswith("MaintainerDeprecated: ")
    assert warned.message.endswith("(line 2)")
    assert warned.more["range"] == [{"start": {"line": 2}, "end": {"line": 2}}]


def test_the_dockerfile_of_a_warning_has_no_logins_of_urls() -> None:
    seen: list[Event] = []
    text = "FROM scratch\nMAINTAINER me\nADD https://me:secret@example.com/a /\n"
    with Stream(seen.append) as stream, stream.step("build") as step:
        show_warnings(warnings_of(REQUEST, parsed(text), NONE, target=None), step)
    (warned,) = [one for one in seen if isinstance(one, Warned)]
    source = warned.more["sourceInfo"]
    assert isinstance(source, dict)
    assert base64.b64decode(source["data"]).decode() == text.replace("me:secret@", "")


def test_error_true_forbids_warnings() -> None:
    file = parsed("# check=error=true\nFROM scratch\nMAINTAINER me\n")
    with pytest.raises(DockerfileError, match="MaintainerDeprecated") as caught:
        df.enforce(warnings_of(REQUEST, file, NONE, target=None), df.check_options(file))
    assert caught.value.span is not None
    assert caught.value.span.line == 3
