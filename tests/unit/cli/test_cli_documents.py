"""What the documents show works: commands are parsed, configurations read, workflows checked."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import click
import pytest
from ruamel.yaml import YAML

from documents import Block, blocks
from shipline import api
from shipline.cli.build_options import SwitchCommand, plain_switches
from shipline.cli.entry import own_arguments
from shipline.cli.program import program
from shipline.config import Config, loads
from shipline.config.decoding import decode
from shipline.config.document import read_document
from shipline.deliver.ci import INPUTS
from shipline.regions import MirrorPlan

ROOT = Path(__file__).parents[3]
GENERATED = ("commands.md", "errors.md")
"""From the program itself."""
PAGES = (
    *("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"),
    "SECURITY.md",
    *sorted(
        str(one.relative_to(ROOT)) for one in ROOT.glob("docs/*.md") if one.name not in GENERATED
    ),
    *sorted(str(one.relative_to(ROOT)) for one in ROOT.glob("examples/*/README.md")),
)
FOREIGN = {"docker": "containers-registries.d(5)", "apiVersion": "objects of Kubernetes"}
"""Files of other programs, by their first key."""


@dataclass(frozen=True)
class Shown:
    """A command of a page; `whole` where it stands in a block and can be run as it is."""

    page: str
    words: tuple[str, ...]
    whole: bool

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


def commands(page: str) -> Iterator[Shown]:
    """Every command of shipline in blocks, indented lines and inline code."""
    text = (ROOT / page).read_text()
    lines = [line for one in blocks(page) for line in one.text.splitlines()]
    lines += re.findall(r"(?m)^    (?! )(\$ shipline .*|shipline .*)$", text)
    for line in lines:
        yield from (Shown(page, words, True) for words in _called(line))
    for inline in re.findall(r"`(shipline [^`\n]+)`", text):
        plain = re.sub(r"\\\|\S+", "", inline).translate(str.maketrans("", "", "[]"))
        yield from (Shown(page, words, False) for words in _called(plain))


def _called(line: str) -> Iterator[tuple[str, ...]]:
    """The commands of shipline in a line of a shell, without variables in front of them."""
    if line.lstrip().startswith("#") or "shipline " not in line:
        return
    lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words: list[str] = []
    try:
        parts = [*lexer, ";"]
    except ValueError:  # prose, or a line that goes on
        return
    for word in parts:
        if not re.fullmatch(r"[|&;<>]+", word):
            words.append(word)
            continue
        while words and (re.match(r"\w+=", words[0]) or words[0] in {"-", "run:"}):
            words = words[1:]
        if words[:1] == ["shipline"]:
            yield tuple(words)
        words = []


SHOWN = sorted({shown for page in PAGES for shown in commands(page)}, key=str)
BLOCKS = [block for page in PAGES for block in blocks(page)]


def test_there_is_something_to_look_at() -> None:
    assert len([one for one in SHOWN if one.whole]) > 40 and len(SHOWN) > 90
    assert len([one for one in BLOCKS if one.language == "yaml"]) > 10


@pytest.mark.parametrize("shown", SHOWN, ids=str)
def test_every_command_that_is_shown_can_be_called(shown: Shown) -> None:
    """Groups, options and arguments exist; choices are among those that there are."""
    command: click.Command = program
    context = click.Context(command, info_name="shipline")
    words = own_arguments("shipline", [*shown.words[1:]], {})
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        assert found is not None, f"{shown}: there is no command {words[0]}"
        command, words = found, words[1:]
        context = click.Context(command, parent=context, info_name=command.name)
    _parse(command, context, words, shown)


def _parse(command: click.Command, context: click.Context, words: list[str], shown: Shown) -> None:
    options = [one for one in command.get_params(context) if isinstance(one, click.Option)]
    if isinstance(command, SwitchCommand):
        words = plain_switches(words, {name for one in options if one.is_flag for name in one.opts})
    if (
        not shown.whole
        and words
        and any(words[-1] in one.opts and not one.is_flag for one in options)
    ):
        words = [*words, "VALUE"]  # prose names an option without one
    values, rest, _ = command.make_parser(context).parse_args([*words])
    assert not rest or isinstance(command, click.Group), f"{shown}: {rest} is left over"
    for one in command.get_params(context):
        value = values.get(one.name or "")
        if shown.whole and isinstance(one, click.Argument) and one.required:
            assert value, f"{shown}: {one.name} is missing"
        if isinstance(one.type, click.Choice) and isinstance(value, str) and value.islower():
            one.type.convert(value, one, context)


@pytest.mark.parametrize("block", [one for one in BLOCKS if one.language == "yaml"], ids=str)
def test_every_yaml_block_is_valid(block: Block) -> None:
    document = YAML(typ="safe", pure=True).load(block.text)
    if isinstance(document, list):
        _check_steps(document)
    elif "mirrors" in document:
        decode(MirrorPlan, read_document(block.text.encode(), str(block)), {})
    elif next(iter(document)) not in FOREIGN:
        loads(block.text.encode(), str(block), {})


def test_foreign_files_are_no_sections_of_ours() -> None:
    assert not {one.name for one in fields(Config)} & set(FOREIGN)


def _check_steps(steps: list[dict[str, object]]) -> None:
    """The inputs of the action of this repository are those that it has."""
    for step in steps:
        if str(step.get("uses")).startswith("OWNER/shipline@"):
            assert isinstance(options := step["with"], dict)
            assert set(options) <= INPUTS


@pytest.mark.parametrize("block", [one for one in BLOCKS if one.language == "json"], ids=str)
def test_every_json_block_is_json(block: Block) -> None:
    text = re.sub(r"^\$ .*\n", "", block.text)
    json.loads(text)


@pytest.mark.parametrize("block", [one for one in BLOCKS if one.language == "python"], ids=str)
def test_every_python_block_names_what_there_is(block: Block) -> None:
    named = [node for node in ast.walk(ast.parse(block.text)) if isinstance(node, ast.Attribute)]
    used = [one.attr for one in named if ast.unparse(one.value) == "api"]
    assert used and all(hasattr(api, name) for name in used)


def test_the_index_of_the_documents_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = {one.name for one in ROOT.glob("docs/*.md")} - {"README.md"}
    assert pages == set(re.findall(r"^\| \[[^]]+\]\(([^)/]+\.md)\)", index, re.MULTILINE))


def test_the_site_has_every_page() -> None:
    listed = re.findall(r'"(docs/[^"]+)"', (ROOT / "zensical.toml").read_text())
    pages = {f"docs/{one.name}" for one in ROOT.glob("docs/*.md")} - {"docs/README.md"}
    assert pages == set(listed)


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_links_to_exists(page: str) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", (ROOT / page).read_text())
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []
