"""Imports go down only: the floors of ARCHITECTURE.md, checked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from shipline.values import replace
from sources import SOURCE, SourceFile, read_source, source_files

FLOORS = (
    {
        *("errors", "events", "files", "units", "globs", "home", "lazy", "lru", "malloc"),
        *("net", "propagation", "regular_expressions", "values"),
    },
    {"tasks"},
    {"processes"},
    {"oci", "dockerfile", "metadata", "observe", "git", "grpc"},
    {"content", "pages"},
    {"layer", "registry", "supply"},
    {"sandbox", "tags", "gates", "cachestores", "sbom", "buildkit", "kubernetes", "history"},
    {"trust", "engines", "telemetry"},
    {"build", "images"},
    {"server", "builders", "bake"},
    {"deliver", "regions"},
    {"ship"},
    {"config"},
    {"ui", "api", "doctor"},
    {"cli"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
SAME_FLOOR = {
    ("events", "errors"),
    ("events", "propagation"),
    ("events", "units"),
    ("files", "errors"),
    ("net", "errors"),
}
NEVER = {
    ("build", "registry"): "a build is handed a Repository",
    ("build", "cachestores"): "a build is handed a CacheStore",
    ("server", "registry"): "a node is handed a Repository",
    ("server", "build"): "a registry does not build",
}


FOREIGN_NAMES = ("buildkit/messages.py", "grpc/containerd.py", "dockerfile/instructions.py")
"""Modules whose classes have the names of protocol messages and Dockerfile instructions."""


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def violations(file: SourceFile) -> Iterator[str]:
    room = room_of(file.path)
    if room in ("__init__", "__main__"):
        return
    for module, line in file.imports:
        parts = module.split(".")
        if parts[0] != "shipline" or len(parts) == 1 or parts[1] in (room, "__version__"):
            continue
        place = f"{file.path.relative_to(SOURCE)}:{line}: {room} -> {parts[1]}"
        if (room, parts[1]) in NEVER:
            yield f"{place}: {NEVER[room, parts[1]]}"
        elif FLOOR[parts[1]] >= FLOOR[room] and (room, parts[1]) not in SAME_FLOOR:
            yield f"{place}: not a lower floor"


def test_imports_go_down() -> None:
    found = [one for file in source_files() for one in violations(file)]
    assert not found, "\n".join(found)


def test_every_room_has_a_floor_and_every_floor_its_rooms() -> None:
    rooms = {room_of(path) for path in SOURCE.rglob("*.py")} - {"__init__", "__main__"}
    assert rooms == FLOOR.keys()


def test_no_module_shares_its_name_with_what_it_holds() -> None:
    """A package that passes such a name on hides the module; commands are not passed on."""
    shared = [file.path for file in source_files() if file.path.stem in file.holds]
    assert [path for path in shared if room_of(path) != "cli"] == []


def test_a_public_class_name_stands_for_one_class() -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for file in source_files():
        place = str(file.path.relative_to(SOURCE))
        for name in file.classes if place not in FOREIGN_NAMES else ():
            found[name].append(place)
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


def test_an_upward_import_is_found(tmp_path: Path) -> None:
    path = tmp_path / "offender.py"
    path.write_text("from shipline.build import build\n")
    file = replace(read_source(path), path=SOURCE / "oci" / "offender.py")
    assert list(violations(file)) == ["oci/offender.py:1: oci -> build: not a lower floor"]
