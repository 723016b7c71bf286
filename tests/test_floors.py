"""Imports go down only: the floors of ARCHITECTURE.md, checked."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "shipline"
FLOORS = (
    {"errors", "events", "files", "units", "globs", "home", "net", "regular_expressions", "values"},
    {"tasks"},
    {"processes"},
    {"oci", "dockerfile", "metadata", "observe", "git", "grpc"},
    {"content"},
    {"layer", "registry", "supply"},
    {"sandbox", "tags", "gates", "cachestores", "sbom", "buildkit", "kubernetes"},
    {"trust", "engines"},
    {"build"},
    {"server", "builders", "bake"},
    {"deliver"},
    {"ship"},
    {"config"},
    {"api"},
    {"cli"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
SAME_FLOOR = {("oci", "errors"), ("events", "errors")}
NEVER = {
    ("build", "registry"): "a build is handed a Repository",
    ("build", "cachestores"): "a build is handed a CacheStore",
    ("server", "registry"): "a node is handed a Repository",
    ("server", "build"): "a registry does not build",
}


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "shipline":
                yield from ((f"shipline.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield node.module, node.lineno


def violations(path: Path) -> Iterator[str]:
    room = room_of(path)
    if room in ("__init__", "__main__"):
        return
    for module, line in imports(path):
        parts = module.split(".")
        if parts[0] != "shipline" or len(parts) == 1 or parts[1] in (room, "__version__"):
            continue
        place = f"{path.relative_to(SOURCE)}:{line}: {room} -> {parts[1]}"
        if (room, parts[1]) in NEVER:
            yield f"{place}: {NEVER[room, parts[1]]}"
        elif FLOOR[parts[1]] >= FLOOR[room] and (room, parts[1]) not in SAME_FLOOR:
            yield f"{place}: not a lower floor"


def test_imports_go_down() -> None:
    found = [one for path in sorted(SOURCE.rglob("*.py")) for one in violations(path)]
    assert not found, "\n".join(found)


def test_every_room_has_a_floor_and_every_floor_its_rooms() -> None:
    rooms = {room_of(path) for path in SOURCE.rglob("*.py")} - {"__init__", "__main__"}
    assert rooms == FLOOR.keys()


def test_no_module_shares_its_name_with_what_it_holds() -> None:
    """A package that passes such a name on hides the module; commands are not passed on."""
    shared = [
        path.relative_to(SOURCE)
        for path in SOURCE.rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == path.stem
    ]
    assert [path for path in shared if path.parts[0] != "cli"] == []


def test_an_upward_import_is_found(tmp_path: Path) -> None:
    offender = SOURCE / "oci" / "offender.py"
    text = "from shipline.build import build\n"
    found = [module for module, _ in _imports_of(text, tmp_path)]
    assert found == ["shipline.build"]
    assert FLOOR["build"] >= FLOOR[room_of(offender)]


def _imports_of(text: str, directory: Path) -> Iterator[tuple[str, int]]:
    path = directory / "module.py"
    path.write_text(text)
    return imports(path)
