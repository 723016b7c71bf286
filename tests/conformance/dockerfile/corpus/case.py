"""A case: one text file that holds a Dockerfile, its build context and its flags.

    # what the case shows
    flags: --build-arg A=1 --platform linux/amd64,linux/arm64
    expect: success
    === Dockerfile
    FROM busybox
    COPY d /d
    === d/file mode=0600
    content
    === d/link -> file

Keys of the head: `flags` for both builders, `context`, `expect`, and `skip` (`layers`, `history`,
`links`: not compared, with the reason in a comment). What is expected:

    success   both builders make the same image (the default)
    failure   both refuse
    refusal   we refuse what the peer, an old BuildKit, lets pass; the peer is not asked
    tree      we make the image that the case spells out; the peer is too old to be asked

`context` is what the builders get in place of the directory: `-` is its tar on standard input. In
it, in `flags` and in the Dockerfile GIT_URL is a repository with the files of the directory, on its
branch `main` and with the tag `v1`; FILES_URL is a web server with them; TAR_URL is their tar.

Sections are entries as in `corpus.entry`, put into the context, apart from these:

    === image:NAME      a Dockerfile; BuildKit builds it before, with the same context, and pushes
                        it so that both builders find it as FROM NAME
    === secret:ID       a file outside of the context, given as --secret id=ID
    === a.tar tar=none  an archive, its entries one a line (none, gz, bz2, xz)
    === expected        with `expect: tree`: the files of the image, entries one a line
    === expected-config with `expect: tree`: a part of the image's configuration, as JSON
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus.entry import Entry, parse

CASES = Path(__file__).parents[1] / "cases"


@dataclass(frozen=True, slots=True)
class Case:
    """What a case file says; `digest` changes with its bytes."""

    name: str
    digest: str
    flags: tuple[str, ...]
    expect: str
    skip: tuple[str, ...]
    entries: tuple[Entry, ...]
    images: Mapping[str, str]
    secrets: Mapping[str, str]
    expected: tuple[Entry, ...]
    expected_config: Mapping[str, Any]
    context: str = ""

    @property
    def served(self) -> bool:
        """True when a builder fetches files from a server."""
        texts = [self.context, *self.flags, *(os.fsdecode(one.data) for one in self.entries)]
        return any(word in text for text in texts for word in ("GIT_URL", "FILES_URL", "TAR_URL"))

    @property
    def fails(self) -> bool:
        """True when a builder has to refuse the case."""
        return self.expect in ("failure", "refusal")

    @property
    def for_peer(self) -> bool:
        """True when the peer can be asked."""
        return self.expect in ("success", "failure")

    @property
    def platforms(self) -> tuple[str, ...]:
        given = [b for a, b in zip(self.flags, self.flags[1:], strict=False) if a == "--platform"]
        return tuple(",".join(given).split(",")) if given else ("linux/amd64",)


def load(path: Path) -> Case:
    """Read one case; raises ValueError where the file is not one."""
    text = path.read_text()
    head, *sections = re.split("^=== ", text, flags=re.M)
    keys = dict(
        re.split(r":\s*", line, maxsplit=1)
        for line in head.splitlines()
        if line and not line.startswith("#")
    )
    if keys.get("expect", "success") not in ("success", "failure", "refusal", "tree"):
        raise ValueError(f"{path.name}: expects {keys['expect']}")
    if unknown := keys.keys() - {"flags", "expect", "skip", "context"}:
        raise ValueError(f"{path.name}: unknown keys {unknown}")
    entries, special = [], dict[str, dict[str, str]]()
    for section in sections:
        title, _, body = section.partition("\n")
        if special_title := re.fullmatch(r"(image|secret):(\S+)|(expected(-config)?)", title):
            kind, name = special_title[1] or title, special_title[2] or ""
            special.setdefault(kind, {})[name] = body
        else:
            entries.append(parse(title, body))
    expected = special.get("expected", {}).get("", "")
    return Case(
        name=path.stem,
        digest=hashlib.sha256(text.encode()).hexdigest(),
        flags=tuple(shlex.split(keys.get("flags", ""))),
        expect=keys.get("expect", "success"),
        skip=tuple(keys.get("skip", "").split()),
        entries=tuple(entries),
        images=special.get("image", {}),
        secrets=special.get("secret", {}),
        expected=tuple(parse(line) for line in expected.splitlines() if line),
        context=keys.get("context", ""),
        expected_config=json.loads(special.get("expected-config", {}).get("", "{}")),
    )


def load_all() -> dict[str, Case]:
    """Every case of the corpus, by name."""
    return {path.stem: load(path) for path in sorted(CASES.glob("*.case"))}
