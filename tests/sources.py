"""What the program's sources say, read once for all tests that ask."""

from __future__ import annotations

import ast
import fcntl
import pickle
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import cast

SOURCE = Path(__file__).parent.parent / "src" / "shipline"


@dataclass(frozen=True)
class Hint:
    place: str
    text: str


def text_of(node: ast.AST, filled: str = "WORD") -> str:
    """What a string expression says, with `filled` where something is put in."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(text_of(one, filled) for one in values)
        case ast.FormattedValue():
            return filled
        case ast.BinOp(left=left, right=right):
            return text_of(left) + text_of(right)
        case ast.IfExp(body=body, orelse=orelse):
            return f"{text_of(body)} | {text_of(orelse)}"
        case ast.Tuple(elts=elements):
            return " | ".join(map(text_of, elements))
    return ""


@dataclass(frozen=True)
class SourceFile:
    """A module: what it imports, with lines; the functions and classes that it holds, and the
    public classes of these; the names that it reads as attributes; its strings, with NUL for what
    is filled in; its hints.
    """

    path: Path
    imports: tuple[tuple[str, int], ...]
    holds: frozenset[str]
    classes: frozenset[str]
    attributes: frozenset[str]
    texts: tuple[str, ...]
    hints: tuple[Hint, ...]


@cache
def source_files() -> tuple[SourceFile, ...]:
    """All modules. They are kept beside bytecode for other processes, until a file changes."""
    paths = sorted(SOURCE.rglob("*.py"))
    content = sha256(sys.version.encode())
    for path in (Path(__file__), *paths):
        content.update(b"%s\0%s\0" % (bytes(path), path.read_bytes()))
    store = Path(__file__).with_name("__pycache__") / "sources"
    store.parent.mkdir(exist_ok=True)
    with store.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        kept = file.read()
        if kept.endswith(content.digest()):  # written last
            return cast(tuple[SourceFile, ...], pickle.loads(kept))
        found = tuple(map(read_source, paths))
        file.truncate(0)
        file.write(pickle.dumps(found) + content.digest())
    return found


def read_source(path: Path) -> SourceFile:
    tree = ast.parse(path.read_text())
    imports: list[tuple[str, int]] = []
    attributes: set[str] = set()
    texts: list[str] = []
    hints: list[Hint] = []
    for node in nodes_of(tree):
        match node:
            case ast.Attribute(ctx=ast.Load()):
                attributes.add(node.attr)
            case ast.Import() | ast.ImportFrom():
                imports += _imported(node)
            case ast.Constant(value=str(text)):
                texts.append(text)
            case ast.JoinedStr():
                texts.append(text_of(node, "\0"))
        for advice in _advice(node):
            if text := text_of(advice):
                place = f"{path.relative_to(SOURCE)}:{advice.lineno}"
                hints.append(Hint(place, text))
    classes = frozenset(one.name for one in tree.body if isinstance(one, ast.ClassDef))
    return SourceFile(
        path=path,
        imports=tuple(imports),
        holds=classes | {one.name for one in tree.body if isinstance(one, ast.FunctionDef)},
        classes=frozenset(name for name in classes if not name.startswith("_")),
        attributes=frozenset(attributes),
        texts=tuple(texts),
        hints=tuple(hints),
    )


def nodes_of(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes, as `ast.walk` finds them in twice the time."""
    nodes: list[object] = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, list):
            nodes += node
        elif isinstance(node, ast.AST) and not isinstance(node, ast.expr_context):
            yield node
            nodes += vars(node).values()


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, int]]:
    if isinstance(node, ast.Import):
        yield from ((alias.name, node.lineno) for alias in node.names)
    elif node.module == "shipline":
        yield from ((f"shipline.{alias.name}", node.lineno) for alias in node.names)
    elif node.module:
        yield node.module, node.lineno


def _advice(node: ast.AST) -> list[ast.expr]:
    """Hints, and whatever holds a command in backquotes."""
    match node:
        case ast.keyword(arg="hint", value=value):
            return [value]
        case ast.Assign(targets=targets, value=value) if any(map(_is_hint, targets)):
            return [value]
        case ast.AugAssign(target=target, value=value) if _is_hint(target):
            return [value]
        case ast.Call(args=arguments):
            return [one for one in arguments if "`shipline " in text_of(one)]
    return []


def _is_hint(target: ast.AST) -> bool:
    match target:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return "hint" in name.lower()
        case ast.Tuple(elts=elements):
            return any(map(_is_hint, elements))
    return False
