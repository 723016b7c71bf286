"""Nothing that an example or a generated file installs floats: it is what it was, tomorrow."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LOCKS = sorted(ROOT.glob("examples/**/package-lock.json"))
_RANGES = ("dependencies", "devDependencies", "optionalDependencies")
_VERSION = re.compile(r"[~^<>=v ]*\d|npm:.+@[~^]?\d|\*\Z")  # `*` still takes the locked one


def floating(lock: dict[str, object]) -> Iterator[str]:
    """Packages of a lock file that ask for a name that moves, or whose content is not fixed."""
    packages = lock["packages"]
    assert isinstance(packages, dict)
    for place, package in packages.items():
        for kind in _RANGES:
            for name, wanted in package.get(kind, {}).items():
                if not _VERSION.match(wanted):
                    yield f"{place or 'the project'} asks for {name}: {wanted}"
        if place and not package.get("integrity"):
            yield f"{place} has no digest"


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.parent.name)
def test_no_lock_file_asks_for_a_name_that_moves(path: Path) -> None:
    assert list(floating(json.loads(path.read_text()))) == []


def test_a_name_that_moves_is_found() -> None:
    packages = {
        "node_modules/a": {"dependencies": {"b": "latest", "c": "^1.0.0"}, "integrity": "x"}
    }
    assert list(floating({"packages": packages})) == ["node_modules/a asks for b: latest"]
    assert list(floating({"packages": {"node_modules/a": {}}})) == ["node_modules/a has no digest"]


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/**/Dockerfile")), ids=str)
def test_bases_of_examples_have_a_version(path: Path) -> None:
    bases = re.findall(r"(?m)^FROM (?:--\S+ )*(\S+)", path.read_text())
    assert [one for one in bases if not re.search(r":\d", one)] == []
