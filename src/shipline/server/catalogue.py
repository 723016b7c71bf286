"""The names in a data directory, written beside the records in case those are lost.

    DIR/catalogue.jsonl     {"repository": NAME, "digest": DIGEST, "mediaType": TYPE, "tags": [TAG]}

One line for each manifest. Written after each collection, so it may be an hour old; only `recover`
reads it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shipline.metadata import Records, walk
from shipline.server.disk import sync_directory

_NAME = "catalogue.jsonl"


@dataclass(frozen=True, slots=True)
class Entry:
    """A manifest of a repository, and what it is called there."""

    repository: str
    digest: str
    media_type: str
    tags: tuple[str, ...]


def write_catalogue(root: Path, records: Records) -> None:
    """Durable on return; a reader sees the old file or the new one."""
    draft = root / f"{_NAME}.new"
    with draft.open("w") as file:
        for (name,), _ in walk(records, ("repository",)):
            for (digest,), value in walk(records, ("manifest", name)):
                tags = [tag for (tag,), _ in walk(records, ("tagged", name, digest))]
                kind = json.loads(value)["mediaType"]
                line = {"repository": name, "digest": digest, "mediaType": kind, "tags": tags}
                file.write(json.dumps(line, separators=(",", ":")) + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(root / _NAME)
    sync_directory(root)


def read_catalogue(root: Path) -> Iterator[Entry]:
    """What was written last; nothing where nothing was, and no line that cannot be read."""
    try:
        file = (root / _NAME).open()
    except FileNotFoundError:
        return
    with file:
        for text in file:
            try:
                line = json.loads(text)
                yield Entry(
                    line["repository"], line["digest"], line["mediaType"], tuple(line["tags"])
                )
            except (ValueError, KeyError, TypeError):
                continue
