"""Laws of scopes: which value a variable has at each place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.dockerfile import (
    DEFAULT_PATH,
    Add,
    Copy,
    Expose,
    Instruction,
    Mount,
    MountType,
    PlatformArgs,
    ScopedInstruction,
    Sharing,
    VariableScope,
    Volume,
    Workdir,
    apply,
    open_scope,
    parse_dockerfile,
    proxy_variables,
)
from shipline.errors import DockerfileError

HIDDEN = "BUILDKIT_SBOM_SCAN_STAGE"
ARM = PlatformArgs("linux/arm/v7", "linux/amd64")


def walk(content: str, build_args: dict[str, str] | None = None) -> list[ScopedInstruction]:
    """The steps of the only stage, on an empty image."""
    dockerfile = parse_dockerfile(content)
    globals_ = open_scope(dockerfile, ARM, build_args=build_args)
    scope = VariableScope.of_image()
    steps = []
    for instruction in dockerfile.stages[0].instructions:
        steps.append(apply(instruction, scope, globals_))
        scope = steps[-1].scope
    return steps


def value(name: str, content: str, build_args: dict[str, str] | None = None) -> str | None:
    return walk(content, build_args)[-1].scope.variables.get(name)


def expanded(text: str) -> Instruction:
    return walk(f"FROM x\nENV a=1 s='x y' e=\n{text}\n")[-1].instruction


@pytest.mark.parametrize(
    ("content", "build_args", "expected"),
    [
        ("FROM x\nARG a=1\n", {}, "1"),
        ("FROM x\nARG a=1\n", {"a": "2"}, "2"),
        ("FROM x\nARG a\n", {}, None),
        ("FROM x\nARG a\n", {"a": ""}, ""),
        ("FROM x\nARG b=1\n", {"a": "2"}, None),
        ("ARG a=g\nFROM x\nENV b=1\n", {}, None),
        ("ARG a=g\nFROM x\nARG a\n", {}, "g"),
        ("ARG a=g\nFROM x\nARG a=l\n", {}, "l"),
        ("ARG a=g\nFROM x\nARG a=l\n", {"a": "o"}, "o"),
        ("ARG b=1\nARG a=$b$b\nFROM x\nARG a\n", {"b": "2"}, "22"),
        ("FROM x\nARG b=1 a=$b\n", {}, "1"),
        ("FROM x\nARG a=1\nENV a=2\n", {"a": "3"}, "2"),
        ("FROM x\nENV a=2\nARG a=1\n", {}, "1"),
        ("FROM x\nENV a=1\nENV a=2 b=$a\nENV a=$b\n", {}, "1"),
        ("FROM x\nARG a='q r'\n", {}, "q r"),
        ("FROM x\nARG a='q r'\n", {"a": "$b 'c'"}, "$b 'c'"),
        (f"FROM x\nARG {HIDDEN}=1\nENV a=${{{HIDDEN}:-n}}\n", {}, "n"),
    ],
)
def test_the_value_of_a_variable(
    content: str, build_args: dict[str, str], expected: str | None
) -> None:
    assert value("a", content, build_args) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("TARGETPLATFORM", "linux/arm/v7"),
        ("TARGETOS", "linux"),
        ("TARGETARCH", "arm"),
        ("TARGETVARIANT", "v7"),
        ("BUILDPLATFORM", "linux/amd64"),
        ("BUILDVARIANT", ""),
        ("TARGETSTAGE", "default"),
    ],
)
def test_platform_args_must_be_declared_in_a_stage(name: str, expected: str) -> None:
    assert value("a", f"FROM x\nENV a=${{{name}:-none}}\n") == "none"
    assert value(name, f"FROM x\nARG {name}\n") == expected
    dockerfile = parse_dockerfile(f"FROM x-${name}\n")
    assert open_scope(dockerfile, ARM).base_of(dockerfile.stages[0]).name == f"x-{expected}"


def test_a_build_arg_replaces_a_platform_arg() -> None:
    assert value("TARGETARCH", "FROM x\nARG TARGETARCH\n", {"TARGETARCH": "mine"}) == "mine"


def test_only_env_reaches_the_image() -> None:
    scope = walk("FROM x\nARG a=1\nENV b=$a PATH=/p\n")[-1].scope
    assert scope.env == (("PATH", "/p"), ("b", "1"))
    assert scope.args == (("a", "1"),)


def test_an_image_keeps_its_environment_and_gets_a_path() -> None:
    assert VariableScope.of_image(["a=1=2", "b"]).env == (
        ("a", "1=2"),
        ("b", ""),
        ("PATH", DEFAULT_PATH),
    )
    assert VariableScope.of_image(["PATH=/x"]).env == (("PATH", "/x"),)
    assert VariableScope.of_image(os="windows").env == ()


def test_bases_are_expanded_in_the_global_scope() -> None:
    content = "ARG V=1\nFROM --platform=$BUILDPLATFORM a:$V-$N\nFROM $N\nFROM --platform=$N x\n"
    dockerfile = parse_dockerfile(content)
    scope = open_scope(dockerfile, ARM)
    base = scope.base_of(dockerfile.stages[0])
    assert (base.name, base.platform) == ("a:1-", "linux/amd64")
    assert base.used == {"V", "BUILDPLATFORM"}
    assert scope.undefined_in(dockerfile.stages[0]) == {"N"}
    for stage, message in ((1, "base name ($N) should not be blank"), (2, "empty platform value")):
        with pytest.raises(DockerfileError) as caught:
            scope.base_of(dockerfile.stages[stage])
        assert message in caught.value.message
        assert caught.value.span == dockerfile.stages[stage].span
        assert caught.value.hint


def test_words_are_expanded_where_the_reference_says() -> None:
    workdir = expanded("WORKDIR /$a/'$a'")
    assert isinstance(workdir, Workdir)
    assert workdir.path == "/1/$a"
    copy = expanded("COPY --from=x --chown=$a:$a --chmod=$a --exclude=$a* $s '$s' /$a/")
    assert isinstance(copy, Copy)
    assert (copy.sources, copy.destination) == (("x y", "$s"), "/1/")
    assert (copy.chown, copy.chmod, copy.excludes) == ("1:1", "1", ("1*",))
    add = expanded("ADD --checksum=sha256:$a https://$a /")
    assert isinstance(add, Add)
    assert (add.checksum, add.sources) == ("sha256:1", ("https://1",))
    expose = expanded("EXPOSE $a $a$a/udp")
    assert isinstance(expose, Expose)
    assert expose.ports == ("1/tcp", "11/udp")
    signed = expanded("EXPOSE +5 +8-+9/udp")  # strconv.Atoi takes a sign
    assert isinstance(signed, Expose)
    assert signed.ports == ("5/tcp", "8/udp", "9/udp")
    volume = expanded("VOLUME /$a")
    assert isinstance(volume, Volume)
    assert volume.paths == ("/1",)


def test_commands_are_left_to_the_shell() -> None:
    texts = "RUN echo $a", "CMD $a", "ENTRYPOINT $a", "HEALTHCHECK CMD $a", "ONBUILD ENV b=$a"
    for text in texts:
        dockerfile = parse_dockerfile(f"FROM x\nENV a=1 s='x y' e=\n{text}\n")
        assert expanded(text) == dockerfile.stages[0].instructions[1]


def test_documents_are_expanded_unless_their_name_is_quoted() -> None:
    copy = expanded("COPY <<a <<'b' /\n\"$a\" \\$a '$s'\na\n$a\nb")
    assert isinstance(copy, Copy)
    assert [file.content for file in copy.files] == ["\"1\" $a 'x y'\n", "$a\n"]


def test_a_secret_is_named_after_the_last_part_of_a_path() -> None:
    (step,) = walk("FROM x\nRUN --mount=type=secret,target=/a/b/ --mount=type=secret,id=c/d/ e\n")
    assert [(one.id, one.target) for one in step.mounts] == [
        ("b", "/a/b/"),
        ("c/d/", "/run/secrets/d"),
    ]


def test_mounts_are_resolved_with_their_defaults() -> None:
    (step,) = walk(
        "FROM x\nRUN --mount=target=/b --mount=type=cache,dst=/c/../d --mount=type=tmpfs,target=/t,"
        "size=1.5k --mount=type=secret,id=a/s --mount=type=secret,id=e,env=E --mount=type=ssh a\n"
    )
    assert step.mounts == (
        Mount(MountType.BIND, target="/b", read_only=True),
        Mount(MountType.CACHE, target="/c/../d", id="/d", mode=0o755),
        Mount(MountType.TMPFS, target="/t", size=1536),
        Mount(MountType.SECRET, target="/run/secrets/s", id="a/s", read_only=True, mode=0o400),
        Mount(MountType.SECRET, id="e", env="E", read_only=True, mode=0o400),
        Mount(MountType.SSH, id="default", read_only=True, mode=0o600),
    )


def test_mount_options_are_expanded_and_have_aliases() -> None:
    steps = walk(
        "FROM x\nARG T=cache D=/d\nRUN --mount=TYPE=$T,destination=${D},src=s,from=f,ro,"
        "sharing=LOCKED,mode=0700,uid=1,gid=2,id=i-$D true\nRUN --mount=target=/a,rw=1 true\n"
    )
    assert steps[1].mounts == (
        Mount(
            MountType.CACHE,
            target="/d",
            source="s",
            origin="f",
            id="i-/d",
            read_only=True,
            sharing=Sharing.LOCKED,
            mode=0o700,
            uid=1,
            gid=2,
            owned=True,
        ),
    )
    assert not steps[2].mounts[0].read_only


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("type=x", 'unsupported mount type "x"'),
        ("typ=bind", "unexpected key 'typ' in 'typ=bind' (did you mean type?)"),
        ("target", "invalid field 'target' must be a key=value pair"),
        ("type=bind,required", "unexpected key 'required' for mount type 'bind'"),
        ("type=bind,uid=1", 'uid not allowed for "bind" type mounts'),
        ("type=cache,mode=9", "invalid value 9 for mode"),
        ("type=cache,uid=-1", "invalid value -1 for uid"),
        ("type=cache,mode=$NONE", "invalid value  for mode"),
        ("type=cache,sharing=x", 'unsupported sharing value "x"'),
        ("type=cache,ro=x", "invalid value for readonly: x"),
        ("type=tmpfs,size=x", "invalid value for size: x"),
        ("type=secret", "one of source, target required"),
        ("type=secret,id=a,source=b", "both source and id can't be set"),
    ],
)
def test_wrong_mounts_are_refused_with_the_place(options: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        walk(f"FROM x\nRUN --mount={options} true\n")
    assert message in caught.value.message
    assert caught.value.span is not None
    assert caught.value.span.line == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ENV b=${a", "missing '}'"),
        ("ENV b=${no:?need}", "no: need"),
        ("EXPOSE $e/tcp", "no port specified"),
        ("EXPOSE -5", "invalid containerPort: -5"),
        ("EXPOSE 1_0", "invalid containerPort: 1_0"),
        ("VOLUME $e", "VOLUME specified can not be an empty string"),
        ("STOPSIGNAL SIGTREM", "invalid signal: SIGTREM (did you mean SIGTERM?)"),
        ("ARG b=${a", "missing '}'"),
    ],
)
def test_wrong_values_are_refused_with_the_place(text: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        expanded(text)
    assert message in caught.value.message
    assert caught.value.span is not None
    assert caught.value.span.line == 3


def test_undefined_variables_are_reported_but_declared_args_are_not() -> None:
    steps = walk("FROM x\nARG known\nENV a=$known$other ${b:-c}=1\n")
    assert steps[1].undefined == {"other", "b"}


def test_signals_are_names_or_numbers() -> None:
    for text in ("9", "+9", "-1", "70000", "SIGKILL", "kill", "RTMIN+3"):
        assert walk(f"FROM x\nSTOPSIGNAL {text}\n")
    for text in ("0", "-0", "1_0", "0x9", "9" * 20, "9" * 5000):
        with pytest.raises(DockerfileError, match="invalid signal"):
            walk(f"FROM x\nSTOPSIGNAL {text}\n")


def test_proxies_have_both_letter_cases() -> None:
    given = proxy_variables({"http_proxy": "p", "NO_PROXY": "n", "other": "o"})
    assert given == {"HTTP_PROXY": "p", "http_proxy": "p", "NO_PROXY": "n", "no_proxy": "n"}


NAMES = st.sampled_from(["a", "b", "c"])
LINES = st.lists(st.tuples(st.sampled_from(["ARG", "ENV"]), NAMES, st.text("xyz")), max_size=6)


@given(LINES, st.dictionaries(NAMES, st.text("123"), max_size=2))
def test_the_last_writer_wins(lines: list[tuple[str, str, str]], args: dict[str, str]) -> None:
    content = "FROM x\n" + "".join(f"{kind} {name}={text}\n" for kind, name, text in lines)
    expected: dict[str, str] = {}
    for kind, name, text in lines:
        expected[name] = args.get(name, text) if kind == "ARG" else text
    steps = walk(content, args)
    variables = dict(steps[-1].scope.variables) if steps else {"PATH": ""}
    variables.pop("PATH")
    assert variables == expected


def test_malformed_variables_of_a_base_image_are_data() -> None:
    scope = VariableScope.of_image(["", "=x", "A", "B=c=d", "E=$(reboot)\n"])
    assert (scope.variables["A"], scope.variables["B"]) == ("", "c=d")
    assert scope.variables["E"] == "$(reboot)\n"
    globals_ = open_scope(parse_dockerfile("FROM x\n"), ARM)
    (stage,) = parse_dockerfile("FROM x\nENV F=$E$B\n").stages
    done = apply(stage.instructions[0], scope, globals_)
    assert done.scope.variables["F"] == "$(reboot)\nc=d"
