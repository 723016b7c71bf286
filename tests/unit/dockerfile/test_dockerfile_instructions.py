"""Laws of typed instructions: what each keyword takes, and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.dockerfile import (
    Add,
    Arg,
    ArgDefault,
    Cmd,
    Command,
    Copy,
    DeviceFlag,
    Entrypoint,
    Env,
    Expose,
    HealthCheck,
    InlineFile,
    Instruction,
    Label,
    OnBuild,
    Pair,
    PlatformArgs,
    Run,
    Shell,
    User,
    VariableScope,
    Volume,
    Workdir,
    apply,
    exposed_ports,
    open_scope,
    parse_dockerfile,
    parse_trigger,
)
from shipline.dockerfile.values import format_duration, parse_duration
from shipline.errors import DockerfileError, Span


def one(text: str) -> Instruction:
    """The instruction that `text` is, in a stage."""
    (instruction,) = parse_dockerfile(f"FROM scratch\n{text}\n").stages[0].instructions
    return instruction


def test_from_takes_a_name_and_a_platform() -> None:
    stage = parse_dockerfile("FROM --platform=$P img:$V as Name.1-x_y\n").stages[0]
    assert (stage.base, stage.platform, stage.name) == ("img:$V", "$P", "name.1-x_y")
    assert (stage.opening.alias, stage.opening.as_keyword) == ("Name.1-x_y", "as")


def test_run_keeps_its_text_for_the_shell() -> None:
    run = one("RUN --network=none --security=insecure --device=a --device=b echo  $x 'a' \\\n b")
    assert isinstance(run, Run)
    assert run.command == Command(("echo  $x 'a'  b",), shell_form=True)
    assert (run.network, run.security) == ("none", "insecure")
    assert run.devices == (DeviceFlag("a"), DeviceFlag("b"))
    assert run.source.startswith("RUN --network")
    exec_form = one('RUN ["a", "b c"]')
    assert isinstance(exec_form, Run)
    assert exec_form.command == Command(("a", "b c"), shell_form=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("v.com/d=foo", DeviceFlag("v.com/d=foo")),
        ("v.com/d", DeviceFlag("v.com/d")),
        ("name=v.com/d=foo,required", DeviceFlag("v.com/d=foo", required=True)),
        ("v.com/d=*,required=false", DeviceFlag("v.com/d=*")),
        ("required=true,name=a", DeviceFlag("a", required=True)),
    ],
)
def test_devices_of_run(text: str, expected: DeviceFlag) -> None:
    run = one(f"RUN --device={text} x")
    assert isinstance(run, Run)
    assert run.devices == (expected,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name=a,name=b", "device name already set to a"),
        ("a,b", "invalid field 'b' must be a key=value pair"),
        ("a,requird=true", "unexpected key 'requird' in 'requird=true'"),
        ("a,required=maybe", "invalid value for required: maybe"),
    ],
)
def test_broken_devices_are_refused(text: str, said: str) -> None:
    with pytest.raises(DockerfileError, match=said):
        one(f"RUN --device={text} x")


def test_copy_flags() -> None:
    copy = one(
        "COPY --from=a --chown=1:2 --chmod=u+x --link --parents=true --exclude=*.md --exclude=x "
        "src 'q' /dst/"
    )
    assert isinstance(copy, Copy)
    assert (copy.sources, copy.destination) == (("src", "'q'"), "/dst/")
    assert (copy.origin, copy.chown, copy.chmod) == ("a", "1:2", "u+x")
    assert (copy.link, copy.parents, copy.excludes) == (True, True, ("*.md", "x"))


def test_add_flags_know_not_given() -> None:
    add = one("ADD --keep-git-dir=false --checksum=sha256:x https://h/a.tar /")
    assert isinstance(add, Add)
    assert (add.keep_git_dir, add.unpack, add.checksum) == (False, None, "sha256:x")
    plain = one('ADD --unpack ["a b", "/c d"]')
    assert isinstance(plain, Add)
    assert (plain.sources, plain.destination, plain.unpack) == (("a b",), "/c d", True)


def test_inline_files_of_copy_and_run() -> None:
    copy = one("COPY <<a x <<-'b' /\n\t1\na\n\t2\n\tb")
    assert isinstance(copy, Copy)
    assert copy.sources == ("x",)
    assert copy.files == (
        InlineFile("a", "\t1\n", expand=True, chomp=False),
        InlineFile("b", "2\n", expand=False, chomp=True),
    )
    run = one("RUN <<-b\n\t2\n\tb")
    assert isinstance(run, Run)
    assert run.files == (InlineFile("b", "\t2\n", expand=True, chomp=True),)


def test_a_quoted_word_is_no_inline_file() -> None:
    copy = one("COPY \"q <<a r\" <<b 'x <<c' /\n1\nb")
    assert isinstance(copy, Copy)
    assert copy.sources == ('"q', "<<a", 'r"', "'x", "<<c'")
    assert [file.name for file in copy.files] == ["b"]


KEYWORDS = [
    "FROM",
    "RUN",
    "COPY",
    "ADD",
    "ENV",
    "ARG",
    "HEALTHCHECK",
    "ONBUILD",
    "EXPOSE",
    "VOLUME",
]
PIECES = [
    "<<a",
    "<<-'a'",
    " ",
    "\n",
    "a",
    "=",
    '"',
    "'",
    "[",
    "]",
    "--mount=",
    "--",
    "CMD ",
    "$a",
    ",",
]
LINES = st.tuples(st.sampled_from(KEYWORDS), st.lists(st.sampled_from(PIECES), max_size=6))


@given(st.lists(LINES, max_size=4))
def test_any_file_is_read_or_refused_with_a_place(lines: list[tuple[str, list[str]]]) -> None:
    content = "FROM a\n" + "".join(f"{key} {''.join(rest)}\n" for key, rest in lines)
    try:
        dockerfile = parse_dockerfile(content)
        scope = open_scope(dockerfile, PlatformArgs("linux/amd64", "linux/amd64"))
        for stage in dockerfile.stages:
            for instruction in stage.instructions:
                apply(instruction, VariableScope.of_image(), scope)
    except DockerfileError as error:
        assert error.span is not None
        assert error.span.text


def test_pairs_and_args() -> None:
    env = one("ENV a=1 b='x y' c=d\\ e f=")
    assert isinstance(env, Env)
    assert env.pairs == (Pair("a", "1"), Pair("b", "'x y'"), Pair("c", "d\\ e"), Pair("f", ""))
    label = one("LABEL key  some  text")
    assert isinstance(label, Label)
    assert label.pairs == (Pair("key", "some  text", legacy=True),)
    arg = one("ARG a b= c='1 2'")
    assert isinstance(arg, Arg)
    assert arg.args == (ArgDefault("a", None), ArgDefault("b", ""), ArgDefault("c", "'1 2'"))


def test_simple_instructions() -> None:
    cases: list[tuple[str, type[Instruction], str, object]] = [
        ("WORKDIR /a b", Workdir, "path", "/a b"),
        ("USER me:us", User, "user", "me:us"),
        ("VOLUME /a /b", Volume, "paths", ("/a", "/b")),
        ('VOLUME ["/a b"]', Volume, "paths", ("/a b",)),
        ("EXPOSE 90 80/udp", Expose, "ports", ("80/udp", "90")),
        ('SHELL ["a", "-c"]', Shell, "shell", ("a", "-c")),
        ("CMD", Cmd, "command", Command((), shell_form=True)),
        (r'CMD ["\ud800"]', Cmd, "command", Command(("\ufffd",), shell_form=False)),
        ("CMD []", Cmd, "command", Command((), shell_form=False)),
        ("ENTRYPOINT a b", Entrypoint, "command", Command(("a b",), shell_form=True)),
    ]
    for text, kind, field, value in cases:
        instruction = one(text)
        assert isinstance(instruction, kind)
        assert getattr(instruction, field) == value


def test_health_check_is_as_in_the_image_configuration() -> None:
    check = one(
        "HEALTHCHECK --interval=1m30s --timeout=1.5s --start-period=0s --start-interval=2ms "
        "--retries=3 cmd curl  x"
    )
    assert isinstance(check, HealthCheck)
    assert check.test == ("CMD-SHELL", "curl  x")
    times = (check.interval_ns, check.timeout_ns, check.start_period_ns, check.start_interval_ns)
    assert times == (90 * 10**9, 1_500_000_000, 0, 2_000_000)
    assert check.retries == 3
    none, words = one("HEALTHCHECK NONE"), one('HEALTHCHECK CMD ["a", "b"]')
    assert isinstance(none, HealthCheck)
    assert isinstance(words, HealthCheck)
    assert (none.test, words.test) == (("NONE",), ("CMD", "a", "b"))


def test_on_build_keeps_its_text_and_is_read_where_it_is_used() -> None:
    plain = one("ONBUILD  copy --from=x a /b")
    assert isinstance(plain, OnBuild)
    assert plain.expression == "copy --from=x a /b"
    assert isinstance(parse_trigger(plain.expression, plain.span), Copy)
    document = one("ONBUILD RUN <<E\necho\nE")
    assert isinstance(document, OnBuild)
    assert document.expression == "RUN <<E\necho\nE"
    again = parse_trigger(document.expression, Span("D", 7, 7))
    assert isinstance(again, Run)
    assert [file.content for file in again.files] == ["echo\n"]
    assert again.span == Span("D", 7, 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FORM x", "dockerfile parse error on line 2: unknown instruction: FORM (did you mean"),
        ("rnu x", "unknown instruction: rnu (did you mean run?)"),
        ("RUNN x", "unknown instruction: RUNN (did you mean RUN?)"),
        ("RNU x", "unknown instruction: RNU (did you mean RUN?)"),
        ("CPOY x y", "unknown instruction: CPOY (did you mean COPY?)"),
        ("&& b", "unknown instruction: &&"),
        ("FROM", "FROM requires either one or three arguments"),
        ("FROM a b", "FROM requires either one or three arguments"),
        ("FROM a to b", "FROM requires either one or three arguments"),
        ("FROM a AS 1b", 'invalid name for build stage: "1b"'),
        ("RUN --mont=x y", "unknown flag: --mont (did you mean mount?)"),
        ("RUN --network=x y", 'invalid network mode "x"'),
        ("RUN --security=x y", 'security "x" is not valid'),
        ("RUN --mount='\"a' y", "failed to parse csv mounts"),
        ("RUN --mount=from=a$B,target=/x y", "'from' doesn't support variable expansion"),
        ("COPY a", "COPY requires at least two arguments"),
        ("COPY --link=x a b", "expecting boolean value for flag --link, not: x"),
        ("COPY --link= a b", "missing a value on flag: --link"),
        ("COPY --chown a b", "missing a value on flag: --chown"),
        ("COPY --from=a --from=b a b", "duplicate flag specified: --from"),
        ("COPY --checksum=x a b", "unknown flag: --checksum"),
        ("COPY a <<E\nE", "COPY cannot accept a heredoc as a destination"),
        ("ENV", "ENV requires at least one argument"),
        ("ENV a", "ENV must have two arguments"),
        ("ENV a=1 b", 'can\'t find = in "b"'),
        ("ENV =1", "ENV names can not be blank"),
        ("ARG", "ARG requires at least one argument"),
        ("ARG =1", "ARG names can not be blank"),
        ("WORKDIR", "WORKDIR requires exactly one argument"),
        ("VOLUME", "VOLUME requires at least one argument"),
        ('VOLUME [""]', "VOLUME specified can not be an empty string"),
        ("SHELL a", "SHELL requires the arguments to be in JSON form"),
        ("SHELL []", "SHELL requires at least one argument"),
        ("EXPOSE", "EXPOSE requires at least one argument"),
        ('CMD ["a", 1]', "arrays must be comprised of strings only"),
        ("HEALTHCHECK", "HEALTHCHECK requires at least one argument"),
        ("HEALTHCHECK x", 'Unknown type "X" in HEALTHCHECK (try CMD)'),
        ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments"),
        ("HEALTHCHECK --interval=5 CMD x", 'time: invalid duration "5"'),
        ("HEALTHCHECK --timeout=2562048h CMD x", 'time: invalid duration "2562048h"'),
        ("HEALTHCHECK --retries=2147483648 CMD x", "invalid number of retries"),
        ("HEALTHCHECK --retries=\u0663 CMD x", "invalid number of retries"),
        ("FROM --platform", "FROM requires either one or three arguments"),
        ("RUN --mount= x", "failed to parse csv mounts: EOF"),
        ("RUN --device= x", "failed to parse csv devices: EOF"),
        ("HEALTHCHECK --interval=1us CMD x", "cannot be less than 1ms"),
        ("HEALTHCHECK --retries=-1 CMD x", "--retries cannot be negative (-1)"),
        ("HEALTHCHECK --retries=x CMD x", 'invalid number of retries: "x"'),
        ("ONBUILD", "ONBUILD requires at least one argument"),
        ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD"),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("ONBUILD ENV a", "ENV must have two arguments"),
        ('ONBUILD copy --link ["a", 1]', "arrays must be comprised of strings only"),
        ("ONBUILD HEALTHCHECK --retries=1 CMD\t[null]", "arrays must be comprised of strings only"),
    ],
)
def test_wrong_instructions_are_refused_with_place_and_hint(text: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        one(text)
    assert message in caught.value.message
    assert caught.value.hint
    assert caught.value.span is not None
    assert caught.value.span.line == 2
    assert caught.value.span.text == text.split("\n")[0]


@pytest.mark.parametrize(
    ("words", "ports"),
    [
        (["80"], ("80/tcp",)),
        (["80/UDP", "90-92/sctp"], ("80/udp", "90/sctp", "91/sctp", "92/sctp")),
        (["127.0.0.1:8080:80"], ("80/tcp",)),
        (["[::1]:8080:80"], ("80/tcp",)),
        (["8080-8090:80"], ("80/tcp",)),
    ],
)
def test_ports_are_written_out(words: list[str], ports: tuple[str, ...]) -> None:
    assert exposed_ports(words) == ports


@pytest.mark.parametrize(
    "word", ["", "x", "80/x", "/tcp", "90-80", "65536", "1:2-3", "x:1:2", "-1"]
)
def test_wrong_ports_are_refused(word: str) -> None:
    with pytest.raises(DockerfileError):
        exposed_ports([word])


@given(st.integers(min_value=-(10**18), max_value=10**18))
def test_durations_are_read_back(nanoseconds: int) -> None:
    assert parse_duration(format_duration(nanoseconds)) == nanoseconds


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [("1h0m5s", 3605 * 10**9), (".5s", 5 * 10**8), ("-1.5ms", -1_500_000), ("1us2ns", 1002)],
)
def test_durations_have_go_s_form(text: str, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "5", "s", "1 s", "1d", "s1"])
def test_wrong_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("CMD [1]", "when using JSON array syntax, arrays must be comprised of strings only"),
        ("HEALTHCHECK CMD [null]", "when using JSON array syntax, arrays must be"),
        ("ENV a", "ENV must have two arguments"),
        ("LABEL a=b c", 'Syntax error - can\'t find = in "c"'),
        ("ONBUILD ONBUILD ENV a", "ENV must have two arguments"),
    ],
)
def test_the_form_of_all_lines_is_checked_before_the_first_instruction(
    line: str, message: str
) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse_dockerfile(f"FROM x\nBAD y\n{line}\n")
    assert caught.value.message.startswith(message)
    assert caught.value.span is not None
    assert caught.value.span.line == 3
