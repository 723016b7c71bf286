"""What every instruction takes from its node, and the command that some hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypedDict

from shipline.dockerfile.arguments import json_strings
from shipline.dockerfile.instructions import Command
from shipline.dockerfile.parser import Node
from shipline.errors import DockerfileError, Span


class Common(TypedDict):
    span: Span
    source: str
    keyword: str
    comments: tuple[str, ...]


@contextmanager
def located(span: Span, *, prefix: str = "", hint: str = "") -> Iterator[None]:
    """Gives a DockerfileError from inside the block the place and `hint` it lacks, and `prefix`."""
    try:
        yield
    except DockerfileError as error:
        if error.span is not None:
            raise
        raise DockerfileError(
            prefix + error.message, span=span, hint=error.hint or hint, platform=error.platform
        ) from None


def common(node: Node) -> Common:
    """The fields of the class Instruction."""
    return Common(span=node.span, source=node.text, keyword=node.keyword, comments=node.comments)


def read_command(text: str) -> Command:
    """Exec form where `text` is a JSON array of strings, else shell form."""
    words = json_strings(text)
    if words is not None:
        return Command(words, shell_form=False)
    return Command((text,) if text else (), shell_form=True)
