"""The command blocks of the documents, and scripts that run those of a page in one shell.

    <!-- not run: needs a cluster -->      in front of a block: only parsed, and why
    <!-- exits with 9 -->                  the status of its last command

Of a block of `console` the lines that begin with `$ ` are commands, and the others their output.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMANDS = ("sh", "console")
_FENCE = re.compile(r"(?ms)^(?:<!-- ([^\n]*) -->\n)?```([^\n]*)\n(.*?)^```$")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and the comment in front of it."""

    page: str
    language: str
    text: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.page}: {self.text.splitlines()[0]}"

    @property
    def reason(self) -> str:
        """Why it is not run; empty if it is."""
        return self.note.removeprefix("not run: ") if self.note.startswith("not run: ") else ""

    @property
    def status(self) -> int:
        """The exit status of its last command."""
        return int(self.note.removeprefix("exits with ")) if "exits with " in self.note else 0

    @property
    def commands(self) -> str:
        """What a shell runs."""
        if self.language == "sh":
            return self.text
        lines = re.findall(r"(?m)^\$ (.*)$", self.text)
        return "".join(f"{line}\n" for line in lines)


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page, which is named from the root of the repository."""
    for note, language, text in _FENCE.findall((ROOT / page).read_text()):
        yield Block(page, language, text, note)


def script(page: str, replaced: Mapping[str, str], *, before: str = "") -> str:
    """What runs the blocks of a page after `before`, in bash: it ends with the first command that
    fails. Servers run beside it, and what follows waits for them.
    """
    lines = ["set -eu", _replaced(before, replaced)]
    for block in blocks(page):
        if block.language in COMMANDS and not block.reason:
            text = _replaced(_served(block.commands), replaced)
            if block.status:
                text = f"set +e\n{text}test $? = {block.status} || exit 1\nset -e"
            lines.append(text)
    return "\n".join(lines)


def _replaced(text: str, replaced: Mapping[str, str]) -> str:
    for old, new in replaced.items():
        text = text.replace(old, new)
    return text


def _served(text: str) -> str:
    """The commands, with nodes in the background."""
    lines = []
    for line in text.splitlines():
        command = line.partition(" #")[0].rstrip()
        if command.startswith("shipline registry serve"):
            line = f"start_node {command.removesuffix('&')}"
        lines.append(line)
    return "\n".join([*lines, ""])


START_NODE = """\
start_node() {
    "$@" > node.log 2>&1 &
    until grep -q '^serving ' node.log; do
        kill -0 $! || { cat node.log; exit 1; }
        sleep 0.1
    done
    cat node.log
}
"""
