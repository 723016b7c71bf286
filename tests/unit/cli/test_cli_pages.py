"""Pages that quote the program: every flag of build has its line, every message can be printed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from shipline.cli.build import command
from sources import source_files

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"


def rows(page: str) -> Iterator[str]:
    """The first cell of each row of the tables of a page."""
    yield from re.findall(r"(?m)^\| (.*?) \|", (DOCS / page).read_text())


def test_every_flag_of_build_is_listed_once() -> None:
    text = (DOCS / "build.md").read_text()
    section = text[text.index("## Flags") : text.index("## The Dockerfile language")]
    cells = re.findall(r"(?m)^\| (`-.*?) \|", section)
    listed = [name for cell in cells for name in re.findall(r"`(-[^`]+)`", cell)]
    options = [one for one in command.params if isinstance(one, click.Option)]
    known = {name for one in options for name in one.opts}
    assert sorted(listed) == sorted(known - {"--help", "-h"})


MESSAGES = [
    message for cell in rows("troubleshooting.md") for message in re.findall(r"`([^`]+)`", cell)
]


def test_there_are_messages_to_look_for() -> None:
    assert len(MESSAGES) >= 25


@pytest.mark.parametrize("message", MESSAGES)
def test_every_message_that_is_explained_is_in_the_program(message: str) -> None:
    pattern = re.compile(".*".join(re.escape(part) for part in message.split("..")))
    assert any(pattern.search(text) for file in source_files() for text in file.texts)


@pytest.mark.parametrize("name", ["build-pod.yaml", "build-pod-restricted.yaml"])
def test_the_pods_of_the_page_follow_the_schema_of_kubernetes(name: str) -> None:
    manifest = YAML(typ="safe").load((DOCS / "kubernetes" / name).read_text())
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {one["name"] for one in container["volumeMounts"]} == {
        one["name"] for one in pod["volumes"]
    }
    words = [*container["command"], *container["args"]]
    assert words[:2] == ["shipline", "build"]
    values, _, _ = command.make_parser(click.Context(command)).parse_args(words[2:])
    assert values["push"] and values["context"].endswith("#main")
