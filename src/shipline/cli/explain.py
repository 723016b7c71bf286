"""`shipline explain`: what an error code or exit code means, and what to do about it.

The texts are in explanations.txt: blocks of four lines, apart by empty lines. The first has the
code and the exit codes it comes with; then cause and cure; then an example, which is a command
after `$` or a message after `>`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import click

from shipline.cli.completing import codes
from shipline.errors import UsageError

EXIT_CODES = {
    1: "a bug, or an error without a kind of its own",
    2: "usage: the command line asks for something impossible",
    3: "configuration: a configuration file is wrong",
    4: "Dockerfile: a Dockerfile is wrong",
    5: "step: a command of the build or the pipeline failed",
    6: "registry: a registry refused, or could not be reached",
    7: "authentication: credentials are missing, wrong or insufficient",
    8: "content: bytes are missing or do not match their digest",
    9: "refused: a quality gate or a policy failed",
    10: "sandbox: this machine cannot run a step",
    11: "undecided: a quality gate could not decide",
    12: "git: git is missing or failed, or the repository is unusable",
    13: "engine: the container engine of --load is missing or refuses",
    14: "builder: a builder cannot be reached, or refuses",
    15: "different: regions, mirrors or environments are not as they should be",
    16: "waiting: an environment waits for an approval, or for its time",
    17: "not verified: an environment is not healthy, or a check of it failed",
    130: "interrupted",
}


@dataclass(frozen=True, slots=True)
class Explanation:
    """What an error code means; `example` is a command or a message."""

    code: str
    exit_codes: tuple[int, ...]
    cause: str
    cure: str
    example: str
    is_command: bool

    def text(self) -> str:
        """The explanation for a person."""
        codes = " or ".join(map(str, self.exit_codes))
        head = "For example" if self.is_command else "Seen as"
        return (
            f"{self.code} (exit code {codes})\n\n{self.cause}\n\n{self.cure}\n\n"
            f"{head}:\n\n    {self.example}\n"
        )

    def to_json(self) -> dict[str, object]:
        return {
            "code": self.code,
            "exitCodes": list(self.exit_codes),
            "cause": self.cause,
            "cure": self.cure,
            "example": self.example,
        }


def explanations() -> dict[str, Explanation]:
    """All explanations by code, in alphabetical order."""
    text = Path(__file__).with_name("explanations.txt").read_text(encoding="utf-8")
    blocks = (block.split("\n") for block in sorted(text.strip().split("\n\n")))
    return {one.code: one for one in map(_parsed, blocks)}


def _parsed(lines: list[str]) -> Explanation:
    head, cause, cure, example = lines
    code, *numbers = head.split()
    return Explanation(
        code, tuple(map(int, numbers)), cause, cure, example[2:], example.startswith("$ ")
    )


@click.command("explain")
@click.argument("code", required=False, shell_complete=codes)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", is_flag=True, hidden=True, help="Print docs/errors.md.")
def command(code: str | None, as_json: bool, markdown: bool) -> None:
    """Explain an error code, or an exit code; without CODE list them.

    An error prints its code in the last line of its box.
    """
    known = explanations()
    if markdown:
        click.echo("\n".join(_page(known)))
    elif code is None:
        _list(known.values(), as_json=as_json)
    elif code.isdecimal() and int(code) in EXIT_CODES:
        number = int(code)
        found = [one for one in known.values() if number in one.exit_codes]
        if not as_json:
            click.echo(f"exit code {number}: {EXIT_CODES[number]}\n")
        _list(found, as_json=as_json)
    elif code in known:
        one = known[code]
        click.echo(json.dumps(one.to_json(), indent=2) if as_json else one.text(), nl=as_json)
    else:
        raise UsageError(
            f"there is no error code {code!r}", code="code-unknown", hint=_nearest(code, known)
        )


def _list(found: Iterable[Explanation], *, as_json: bool) -> None:
    from shipline.cli.tables import columns

    if as_json:
        click.echo(json.dumps([one.to_json() for one in found], indent=2))
        return
    rows = [(one.code, one.cause) for one in found]
    click.echo(columns(rows, 2), nl=False)


def _nearest(code: str, known: Mapping[str, Explanation]) -> str:
    from difflib import get_close_matches

    words = {word for word in code.lower().split("-") if len(word) > 2}
    close = get_close_matches(code.lower(), known, n=3, cutoff=0.6)
    close += [one for one in known if words & {*one.split("-")} and one not in close]
    if not close:
        return "`shipline explain` lists them"
    return f"did you mean {', '.join(close[:3])}? `shipline explain` lists them"


def _page(known: Mapping[str, Explanation]) -> Iterator[str]:
    """docs/errors.md."""
    yield from (
        "# Errors",
        "",
        "Every error has a code that names its cause. It is in the last line of the box, in the"
        " JSON of `--progress=rawjson`, and in records",
        "of runs. `shipline explain CODE` prints what stands here; `shipline explain 9` lists the"
        " codes of an exit code, and `--json` is for programs.",
        "Codes and exit codes are stable; messages are not. This page is written by `shipline"
        " explain --markdown`.",
        "",
        "| exit code | |",
        "|---|---|",
        *(f"| {number} | {text} |" for number, text in EXIT_CODES.items()),
    )
    for letter, several in groupby(known.values(), key=lambda one: one.code[0].upper()):
        yield from ("", f"## {letter}", "", "| code | cause | what to do |", "|---|---|---|")
        for one in several:
            codes = ", ".join(map(str, one.exit_codes))
            verb = "" if one.is_command else "Seen as: "
            example = f"<br>{verb}`{_cell(one.example)}`"
            yield f"| `{one.code}`<br>{codes} | {_cell(one.cause)} | {_cell(one.cure)}{example} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
