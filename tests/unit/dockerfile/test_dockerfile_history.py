"""Laws of what is executed and of the image history, as BuildKit 0.3x writes it."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.dockerfile import (
    Cmd,
    PlatformArgs,
    Run,
    VariableScope,
    Workdir,
    apply,
    command_line,
    history_text,
    makes_layer,
    open_scope,
    parse_dockerfile,
    script_of,
)
from shipline.dockerfile.text import quote


def history(content: str, *, workdir: str = "/") -> list[str | None]:
    """The history of the only stage, on an empty image."""
    dockerfile = parse_dockerfile(content)
    scope = open_scope(dockerfile, PlatformArgs("linux/amd64", "linux/amd64"))
    current = VariableScope.of_image()
    texts = []
    for instruction in dockerfile.stages[0].instructions:
        step = apply(instruction, current, scope)
        texts.append(history_text(step.instruction, current, workdir=workdir))
        current = step.scope
    return texts


def run(text: str) -> Run:
    instruction = parse_dockerfile(f"FROM x\n{text}\n").stages[0].instructions[0]
    assert isinstance(instruction, Run)
    return instruction


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("RUN apk add curl", "RUN /bin/sh -c apk add curl # buildkit"),
        ('RUN ["a", "b c"]', "RUN a b c # buildkit"),
        ("RUN <<E\na\nb\nE", "RUN /bin/sh -c a\nb\n # buildkit"),
        ("COPY a b* /x", "COPY a b* /x # buildkit"),
        (
            "COPY --link --from=q --chown=1 --chmod=2 a /x",
            "COPY --chown=1 --chmod=2 a /x # buildkit",
        ),
        ("COPY --parents a /x", "COPY --parents a /x # buildkit"),
        ("COPY <<f a /x\nf", "COPY a <<f /x # buildkit"),
        ("ADD --checksum=x https://h/a /x", "ADD https://h/a /x # buildkit"),
        ("ENV A=b C='d e'", "ENV A=b C=d e"),
        ("LABEL a.b=c", "LABEL a.b=c"),
        ("ARG A B=1 C=", "ARG A B=1 C="),
        ("WORKDIR /a/../b/", "WORKDIR /a/../b/"),
        ("WORKDIR c", "WORKDIR /w/c"),
        ("USER me", "USER me"),
        ("EXPOSE 81-82 80/udp", "EXPOSE [80/udp 81/tcp 82/tcp]"),
        ("VOLUME /a /b", "VOLUME [/a /b]"),
        ("STOPSIGNAL SIGTERM", "STOPSIGNAL SIGTERM"),
        ('SHELL ["/bin/bash", "-c"]', "SHELL [/bin/bash -c]"),
        ('CMD ["sh", "-c", "a \\"b\\"\\n"]', 'CMD ["sh" "-c" "a \\"b\\"\\n"]'),
        ("CMD a b", 'CMD ["/bin/sh" "-c" "a b"]'),
        ("ENTRYPOINT []", "ENTRYPOINT []"),
        ("MAINTAINER me <a@b>", "MAINTAINER me <a@b>"),
        (
            "HEALTHCHECK --interval=90s --retries=2 CMD a b",
            'HEALTHCHECK &{["CMD-SHELL" "a b"] "1m30s" "0s" "0s" "0s" \'\\x02\'}',
        ),
        (
            'HEALTHCHECK --retries=65 CMD ["a"]',
            """HEALTHCHECK &{["CMD" "a"] "0s" "0s" "0s" "0s" 'A'}""",
        ),
        (
            'HEALTHCHECK --retries=39 CMD ["a"]',
            """HEALTHCHECK &{["CMD" "a"] "0s" "0s" "0s" "0s" '\\''}""",
        ),
        ("HEALTHCHECK NONE", r"""HEALTHCHECK &{["NONE"] "0s" "0s" "0s" "0s" '\x00'}"""),
        ("ONBUILD RUN x", None),
    ],
)
def test_the_history_of_each_instruction(text: str, expected: str | None) -> None:
    assert history(f"FROM x\n{text}\n", workdir="/w") == [expected]


def test_declared_args_stand_in_front_of_a_command() -> None:
    content = "FROM x\nARG A=1 B\nRUN x\nENV A=2\nARG B=3\nRUN y\n"
    texts = history(content)
    assert texts[1] == "RUN |2 A=1 B= /bin/sh -c x # buildkit"
    assert texts[4] == "RUN |2 A=2 B=3 /bin/sh -c y # buildkit"


def test_here_documents_reach_the_shell() -> None:
    assert command_line(run("RUN <<-E\n\ta\n\tE"))[-1] == "a\n"
    assert command_line(run("RUN <<-E\n\t#!/bin/a\n\tE"))[-1] == "#!/bin/a\n"
    assert command_line(run("RUN cat <<A <<-B\n1\nA\n\t2\n\tB"))[-1] == (
        "cat <<A <<-B\n1\nA\n\t2\nB"
    )
    assert command_line(run("RUN <<E\n$x\nE"), ("bash", "-c")) == ("bash", "-c", "$x\n")


def test_a_document_with_an_interpreter_is_a_program() -> None:
    python = run("RUN <<-E\n#!/usr/bin/python3\n\tprint()\n\tE")
    script = script_of(python)
    assert script is not None
    assert (script.name, script.content) == ("E", "#!/usr/bin/python3\nprint()\n")
    assert command_line(python) == ("/bin/sh", "-c", "/dev/pipes/E")
    assert script_of(run("RUN cat <<E\n#!/bin/sh\nE")) is None
    assert script_of(run("RUN <<E\necho\nE")) is None
    assert script_of(run("RUN true")) is None


def test_the_exec_form_has_no_shell() -> None:
    cmd = parse_dockerfile('FROM x\nCMD ["a", "b"]\n').stages[0].instructions[0]
    assert isinstance(cmd, Cmd)
    assert command_line(cmd, ("bash", "-c")) == ("a", "b")


def test_layers_come_from_files() -> None:
    content = "FROM x\nRUN a\nCOPY a b\nADD a b\nWORKDIR /a\nWORKDIR ..\nENV a=b\nCMD a\n"
    instructions = parse_dockerfile(content).stages[0].instructions
    layers = [makes_layer(instruction, workdir="/a") for instruction in instructions]
    assert layers == [True, True, True, True, False, False, False]
    assert isinstance(instructions[4], Workdir)


@given(st.text(alphabet='ab "\\\n\x01é\u200b\U000e0001', max_size=6))
def test_quoted_words_can_be_read_back(word: str) -> None:
    quoted = quote(word)
    assert ast.literal_eval(quoted) == word
