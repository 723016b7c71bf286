"""Laws of the build checks: each rule fires where it should, and only there."""

from __future__ import annotations

import pytest

from shipline.dockerfile import (
    DESCRIPTIONS,
    CheckOptions,
    IgnoreRules,
    KnownImage,
    PlatformArgs,
    check_options,
    enforce,
    lint,
    parse_dockerfile,
    resolve_target,
    rule_url,
)
from shipline.errors import DockerfileError

HERE = PlatformArgs("linux/amd64", "linux/amd64")
IMAGE = KnownImage(("IMAGE=1",), "linux/amd64", "linux/amd64")


def warnings(
    content: str, *, ignore: str = "", target: str | None = None
) -> list[tuple[str, int, str]]:
    dockerfile = parse_dockerfile(content)
    found = lint(
        dockerfile,
        HERE,
        target=resolve_target(dockerfile, target) if target else None,
        ignore=IgnoreRules.parse(ignore),
        images=lambda name, platform: IMAGE if name == "known" else None,
    )
    return [(warning.rule, warning.span.line, warning.message) for warning in found]


BROKEN = [
    ("StageNameCasing", "FROM a AS Base\n", 1, "Stage name 'Base' should be lowercase"),
    ("FromAsCasing", "FROM a as b\n", 1, "'as' and 'FROM' keywords' casing do not match"),
    ("FromAsCasing", "from a AS b\nenv c=d\n", 1, "'AS' and 'from' keywords' casing do not match"),
    ("NoEmptyContinuation", "FROM a\nRUN b \\\n\n c\n", 4, "Empty continuation line"),
    (
        "ConsistentInstructionCasing",
        "FROM a\nrun b\nUSER c\n",
        2,
        "Command 'run' should match the case of the command majority (uppercase)",
    ),
    (
        "ConsistentInstructionCasing",
        "from a\nrun b\nUser c\n",
        3,
        "Command 'User' should match the case of the command majority (lowercase)",
    ),
    (
        "DuplicateStageName",
        "FROM a AS b\nFROM c AS b\n",
        2,
        'Duplicate stage name "b", stage names should be unique',
    ),
    (
        "ReservedStageName",
        "FROM a AS scratch\n",
        1,
        'Stage name should not use the same name as reserved stage "scratch"',
    ),
    (
        "JSONArgsRecommended",
        "FROM a\nCMD b\n",
        2,
        "JSON arguments recommended for CMD to prevent unintended behavior related to OS signals",
    ),
    (
        "MaintainerDeprecated",
        "FROM a\nMAINTAINER b\n",
        2,
        "Maintainer instruction is deprecated in favor of using label",
    ),
    (
        "UndefinedArgInFrom",
        "ARG VERSION=1\nFROM a${VERSOIN}\n",
        2,
        "FROM argument 'VERSOIN' is not declared (did you mean VERSION?)",
    ),
    (
        "WorkdirRelativePath",
        "FROM a\nWORKDIR b\nWORKDIR c\n",
        2,
        'Relative workdir "b" can have unexpected results if the base image changes',
    ),
    (
        "UndefinedVar",
        "FROM scratch\nENV FOO=1\nCOPY $FO /\n",
        3,
        "Usage of undefined variable '$FO' (did you mean $FOO?)",
    ),
    ("UndefinedVar", "FROM known\nUSER $X_Y_Z\n", 2, "Usage of undefined variable '$X_Y_Z'"),
    (
        "MultipleInstructionsDisallowed",
        'FROM a\nCMD ["a"]\nCMD ["b"]\n',
        2,
        "Multiple CMD instructions should not be used in the same stage because only the last one "
        "will be used",
    ),
    (
        "LegacyKeyValueFormat",
        "FROM a\nENV b c\n",
        2,
        '"ENV key=value" should be used instead of legacy "ENV key value" format',
    ),
    (
        "RedundantTargetPlatform",
        "FROM --platform=$TARGETPLATFORM a\n",
        1,
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the "
        "default behavior",
    ),
    (
        "SecretsUsedInArgOrEnv",
        "FROM a\nENV GITHUB_TOKEN=x\n",
        2,
        'Do not use ARG or ENV instructions for sensitive data (ENV "GITHUB_TOKEN")',
    ),
    (
        "InvalidDefaultArgInFrom",
        "ARG TAG=\nFROM a:${TAG}\n",
        2,
        "Default value for ARG a:${TAG} results in empty or invalid base image name",
    ),
    (
        "FromPlatformFlagConstDisallowed",
        "FROM --platform=linux/arm64 a\n",
        1,
        'FROM --platform flag should not use constant value "linux/arm64"',
    ),
    (
        "CopyIgnoredFile",
        "# check=experimental=CopyIgnoredFile\nFROM a\nCOPY ./x/y /\n",
        3,
        'Attempting to Copy file "x/y" that is excluded by .dockerignore',
    ),
    (
        "CopyIgnoredFile",
        "# check=skip=all;experimental=all\nFROM a\nADD x /\n",
        3,
        'Attempting to Add file "x" that is excluded by .dockerignore',
    ),
    (
        "InvalidDefinitionDescription",
        "# check=experimental=all\n\n# the base\nFROM a AS b\n",
        4,
        "Comment for FROM should follow the format: `# b <description>`",
    ),
    (
        "ExposeProtoCasing",
        "FROM a\nEXPOSE 80/TcP\n",
        2,
        "Defined protocol '80/TcP' in EXPOSE instruction should be lowercase",
    ),
    (
        "ExposeInvalidFormat",
        "FROM a\nEXPOSE 127.0.0.1:80:80\n",
        2,
        "EXPOSE instruction should not define an IP address or host-port mapping, found "
        "'127.0.0.1:80:80'",
    ),
]


@pytest.mark.parametrize(("rule", "content", "line", "message"), BROKEN)
def test_a_broken_rule_is_reported(rule: str, content: str, line: int, message: str) -> None:
    assert warnings(content, ignore="x") == [(rule, line, message)]


@pytest.mark.parametrize(
    "content",
    [
        'FROM a AS b\nFROM b\nSHELL ["x"]\nCMD y\n',
        "from a as b\nrun c\n",
        "FROM a\nWORKDIR /b\nWORKDIR c\n",
        "FROM a\nUSER $UNKNOWN_BUT_THE_IMAGE_MAY_HAVE_IT\n",
        "FROM known\nUSER $IMAGE\n",
        "FROM scratch AS a\nARG b\nENV c=$b\nFROM a\nENV d=$b$c\n",
        "ARG v\nFROM a$v\n",
        "FROM a\nENV TOKEN_FILE=x PUBLIC_KEY=y KEYBOARD=z AUTH_VERSION=1\n",
        "FROM --platform=linux/arm64 a AS b-arm64\n",
        "FROM --platform=$BUILDPLATFORM a\n",
        "FROM a AS x\nFROM b\nCOPY --from=x /x /y\n",
        "FROM a\n# note\nENV b=c\n",
        "# check=experimental=InvalidDefinitionDescription\n# b is it\nFROM a AS b\n",
        "FROM h.io:5000/a/b-c_d:1.2@sha256:" + "0" * 64 + "\n",
        "FROM a\nEXPOSE 80/tcp 90-91/udp\n",
    ],
)
def test_good_files_have_no_warnings(content: str) -> None:
    assert warnings(content) == []


IGNORED = "# check=experimental=CopyIgnoredFile\nFROM a\n"


def test_a_source_with_exceptions_in_the_rules_is_not_judged() -> None:
    assert warnings(f"{IGNORED}COPY x /\n", ignore="x\n!x/y") == []
    assert warnings(f"{IGNORED}COPY . /\n", ignore="x") == []
    assert [rule for rule, _, _ in warnings(f"{IGNORED}COPY . /\n", ignore="**")] == [
        "CopyIgnoredFile"
    ]


def test_what_is_experimental_runs_only_where_it_is_named() -> None:
    assert warnings("FROM a\nCOPY x /\n# b\nARG c\n", ignore="x") == []


@pytest.mark.parametrize(
    ("source", "ignore", "reported"),
    [
        ("sub/a.txt", "sub\n!sub/b.txt", True),
        ("sub/a.txt", "sub\n!other.txt", True),
        ("sub/a.txt", "sub\n!nope/missing.txt", True),
        ("sub/a.txt", "!sub/b.txt\nsub", True),
        ("sub", "sub\n!sub/a.txt", False),
        (".", "*\n!sub/a.txt", False),
        ("sub/a.txt", "sub\n!sub/a.txt", False),
        ("sub/*.txt", "sub\n!sub/a.txt", False),
        ("sub/deep", "sub\n!*/deep/a.txt", False),
        ("su.b", "su.b\n!su\\.b/keep.txt", False),
    ],
)
def test_only_an_exception_for_the_source_keeps_it_from_being_judged(
    source: str, ignore: str, reported: bool
) -> None:
    found = warnings(f"{IGNORED}COPY {source} /x/\n", ignore=ignore)
    assert [rule for rule, _, _ in found] == ["CopyIgnoredFile"] * reported


def test_rules_can_be_skipped_in_a_file_and_above_an_instruction() -> None:
    body = "FROM a\nMAINTAINER b\nCMD c\n"
    names = [rule for rule, _, _ in warnings(f"# check=skip=JSONArgsRecommended\n{body}")]
    assert names == ["MaintainerDeprecated"]
    assert warnings(f"# check=skip=all\n{body}") == []
    local = "FROM a\n# check=skip=MaintainerDeprecated\nMAINTAINER b\nCMD c\n"
    assert [rule for rule, _, _ in warnings(local)] == ["JSONArgsRecommended"]


@pytest.mark.parametrize("text", ["CMD x", "ENV a b", "ARG secret", 'CMD ["x"]\nCMD ["y"]'])
def test_only_the_stages_of_a_target_are_walked(text: str) -> None:
    content = f"FROM a AS b\n{text}\nFROM c AS d\n{text}\n"
    lines = [line for _, line, _ in warnings(content)]
    assert len(lines) == 2
    assert [line for _, line, _ in warnings(content, target="b")] == [2]
    assert [line for _, line, _ in warnings(content, target="d")] == lines[1:]


def test_a_repeated_instruction_is_reported_only_before_what_cannot_be_built() -> None:
    failures: list[DockerfileError] = []
    content = 'FROM scratch\nCMD ["a"]\nUSER ${b:?}\nCMD ["c"]\n'
    assert lint(parse_dockerfile(content), HERE, on_failure=failures.append) == ()
    assert len(failures) == 1


def test_triggers_are_checked_where_they_run() -> None:
    content = "FROM scratch AS a\nONBUILD CMD b\nONBUILD ENV token=c\nFROM a AS d\n"
    assert [(rule, line) for rule, line, _ in warnings(content)] == [
        ("JSONArgsRecommended", 4),
        ("SecretsUsedInArgOrEnv", 4),
    ]
    assert warnings(f"{content}FROM scratch\n") == []


def test_a_variable_of_expose_may_be_undefined() -> None:
    content = "FROM scratch\nEXPOSE ${A:-80}/tcp\nUSER ${B:-c}\n"
    assert [(rule, line) for rule, line, _ in warnings(content)] == [("UndefinedVar", 3)]


def test_names_are_those_after_expansion_and_quoted_as_in_go() -> None:
    content = "FROM scratch\nARG a=b\\\\c\nWORKDIR $a\nENV ${a%%?c}_key=d\ncmd []\ncmd []\n"
    found = [message for _, _, message in warnings(f"# check=skip=X\n{content}")]
    assert any('Relative workdir "b\\\\c" can' in message for message in found)
    assert any('(ENV "b_key")' in message for message in found)
    assert any("Multiple cmd instructions" in message for message in found)


def test_error_true_refuses_the_build() -> None:
    dockerfile = parse_dockerfile("# check=error=true\nFROM a\nCMD x\n")
    found = lint(dockerfile, HERE)
    with pytest.raises(DockerfileError, match="lint violation found for rules: JSONArgs") as caught:
        enforce(found, check_options(dockerfile))
    assert caught.value.span == found[0].span
    enforce((), check_options(dockerfile))
    enforce(found, CheckOptions())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("skipp=a", 'invalid check option "skipp"'),
        ("skip", 'invalid check option "skip"'),
        ("SKIP=all", 'invalid check option "SKIP"'),
        ("skip = A", 'invalid check option "skip"'),
        (
            "error=maybe",
            'failed to parse check option "error=maybe": strconv.ParseBool: parsing "maybe": '
            "invalid syntax",
        ),
    ],
)
def test_wrong_check_options_are_refused_with_the_place(text: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        check_options(parse_dockerfile(f"# check={text}\nFROM a\n"))
    assert caught.value.message == f"failed to parse check options: {message}"
    assert caught.value.span is not None
    assert caught.value.span.line == 1


def test_options_are_lists_and_switches() -> None:
    options = CheckOptions.parse("skip=A, B;error=1;experimental=all")
    assert options == CheckOptions(frozenset({"A", "B"}), frozenset({"all"}), error=True)
    assert CheckOptions.parse("skip=all;skip=none;skip=A").skip == {"all", "A"}


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (
            "FROM --platform=$BULIDPLATFORM a\n",
            "BULIDPLATFORM' is not declared (did you mean BUILD",
        ),
        ("FROM $Y\n", "Y' is not declared"),
    ],
)
def test_an_undeclared_argument_is_reported_where_nothing_is_left(content: str, name: str) -> None:
    failures: list[DockerfileError] = []
    found = lint(parse_dockerfile(content), HERE, on_failure=failures.append)
    assert [one for one in found if name in one.message and one.rule == "UndefinedArgInFrom"]
    assert len(failures) == 1


def test_every_rule_has_a_description_and_a_page() -> None:
    assert {rule for rule, *_ in BROKEN} <= set(DESCRIPTIONS)
    assert rule_url("JSONArgsRecommended").endswith("/rule/json-args-recommended/")
    assert rule_url("SecretsUsedInArgOrEnv").endswith("/rule/secrets-used-in-arg-or-env/")


def test_a_path_with_a_drive_is_absolute_on_windows() -> None:
    absolute = "FROM --platform=windows/amd64 scratch\nWORKDIR c:/b\n"
    assert "WorkdirRelativePath" not in [rule for rule, *_ in warnings(absolute)]
    elsewhere = absolute.replace("c:", "d:")
    assert "WorkdirRelativePath" in [rule for rule, *_ in warnings(elsewhere)]
