"""Every error has a code that `shipline explain` explains, and no explanation is of nothing."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
from test_cli_hints import check_command

from commands import run_shipline
from shipline.cli.explain import EXIT_CODES, explanations
from shipline.errors import ShiplineError
from sources import SOURCE, Hint, nodes_of

PAGE = Path(__file__).parents[3] / "docs" / "errors.md"
KEBAB = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
NO_ERRORS = {"bug", "cancelled"}
"""The codes of failures that are no ShiplineError."""
FAMILIES = {
    *("ShiplineError", "UsageError", "StepFailed", "RegistryError", "RequestRefused", "AuthError"),
    *("ContentError", "NotFound", "GateRefused", "GateUndecided", "BuilderError", "Waiting"),
    *("SandboxError", "EngineError", "GitError"),
}
"""Classes with many causes. The message of a ConfigError or DockerfileError has the position."""


@dataclass(frozen=True)
class Use:
    """A code at a place of the program; `made` is the class whose constructor gets it, if it is
    known; an empty code stands for a constructor without one.
    """

    place: str
    made: str
    code: str


@cache
def uses() -> tuple[Use, ...]:
    """All codes that the program gives to errors, and constructors of errors without one."""
    classes = error_classes()
    found: list[Use] = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in nodes_of(ast.parse(path.read_text())):
            for made, code in _codes(node, classes):
                place = f"{path.relative_to(SOURCE)}:{getattr(node, 'lineno', 0)}"
                found.append(Use(place, made, code))
    return tuple(found)


def _codes(node: ast.AST, classes: dict[str, type[ShiplineError]]) -> Iterator[tuple[str, str]]:
    match node:
        case ast.Call(func=ast.Name(id=name), keywords=keywords):
            made = name if name in classes else ""
            given = [one.value for one in keywords if one.arg == "code"]
            yield from ((made, code) for value in given for code in literals(value))
            if made and not given and not any(one.arg is None for one in keywords):
                yield made, ""
        case ast.Assign(targets=[ast.Name(id="code")], value=value):
            yield from (("", code) for code in literals(value))
        case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
            for target, value in zip(names, values, strict=False):
                if isinstance(target, ast.Name) and target.id == "code":
                    yield from (("", code) for code in literals(value))


def literals(node: ast.expr) -> list[str]:
    """The texts that an expression may be: itself, or those of its cases."""
    match node:
        case ast.Constant(value=str(text)) if KEBAB.fullmatch(text):
            return [text]
        case ast.IfExp(body=body, orelse=orelse):
            return [*literals(body), *literals(orelse)]
    return []


@cache
def error_classes() -> dict[str, type[ShiplineError]]:
    """The classes of errors by name; all modules that define one are imported."""
    for path in SOURCE.rglob("*.py"):
        if re.search(r"^class \w+\(\w*[a-z]\w*\):", path.read_text(), re.MULTILINE):
            import_module(".".join(("shipline", *path.relative_to(SOURCE).with_suffix("").parts)))
    found: dict[str, type[ShiplineError]] = {}
    rest: list[type[ShiplineError]] = [ShiplineError]
    while rest:
        one = rest.pop()
        found[one.__name__] = one
        rest += one.__subclasses__()
    return found


def test_every_error_of_a_family_with_many_causes_names_its_cause() -> None:
    bare = [
        f"{use.place}: {use.made} without code=; `shipline explain` lists the codes"
        for use in uses()
        if use.made in FAMILIES and not use.code
    ]
    assert bare == []


def test_every_code_is_explained_and_every_explanation_is_of_a_code() -> None:
    used = {use.code for use in uses() if use.code} | NO_ERRORS
    used |= {one.code for one in error_classes().values()}
    assert sorted(used - explanations().keys()) == []
    assert sorted(explanations().keys() - used) == []


def test_an_explanation_has_the_exit_codes_of_its_errors() -> None:
    known, classes = explanations(), error_classes()
    exits: dict[str, set[int]] = defaultdict(set)
    for cls in classes.values():
        exits[cls.code].add(cls.exit_code)
    for use in uses():
        if use.made:
            cls = classes[use.made]
            exits[use.code or cls.code].add(cls.exit_code)
    wrong = {
        code: sorted(numbers)
        for code, numbers in exits.items()
        if not numbers <= {*known[code].exit_codes}
    }
    assert wrong == {}
    assert {number for one in known.values() for number in one.exit_codes} == EXIT_CODES.keys()


def test_explanations_are_in_order_and_are_sentences() -> None:
    text = (SOURCE / "cli" / "explanations.txt").read_text()
    heads = [block.split()[0] for block in text.split("\n\n")]
    assert heads == sorted(heads)
    for one in explanations().values():
        assert KEBAB.fullmatch(one.code), one
        assert one.cause.endswith("."), one
        assert one.cure.endswith((".", ")")), one
        assert one.example, one


def test_the_commands_of_examples_exist() -> None:
    for one in explanations().values():
        for part in re.split(r"&&|[;|<>]", one.example) if one.is_command else ():
            words = shlex.split(part)
            while words and re.match(r"[A-Z_]+=", words[0]):
                words = words[1:]
            if words[:1] == ["shipline"] and "COMMAND" not in words:
                check_command([word for word in words[1:] if word != "-D"], Hint(one.code, part))


def test_the_page_is_that_of_the_program() -> None:
    done = run_shipline("explain", "--markdown")
    assert PAGE.read_text() == done.stdout, "run: shipline explain --markdown > docs/errors.md"


def test_a_code_is_explained_in_four_parts() -> None:
    done = run_shipline("explain", "git-missing")
    assert done.stdout == (
        "git-missing (exit code 12)\n\ngit is not installed, or not on the PATH.\n\nInstall it.\n\n"
        "For example:\n\n    apt-get install git\n"
    )


def test_an_exit_code_is_explained_with_its_codes() -> None:
    done = run_shipline("explain", "16")
    assert done.stdout.startswith("exit code 16: waiting: an environment waits")
    assert re.search(r"^canary-runs +A canary", done.stdout, re.MULTILINE)


def test_explanations_are_there_for_programs() -> None:
    one = json.loads(run_shipline("explain", "git-missing", "--json").stdout)
    assert (one["code"], one["exitCodes"]) == ("git-missing", [12])
    every = json.loads(run_shipline("explain", "--json").stdout)
    assert one in every
    assert len(every) > 300


@pytest.mark.parametrize(
    ("typed", "meant"), [("gate-refusd", "gate-refused"), ("git-mising", "git-missing")]
)
def test_an_unknown_code_is_answered_with_near_ones(typed: str, meant: str) -> None:
    done = run_shipline("explain", typed)
    assert done.returncode == 2
    assert f"there is no error code '{typed}'" in done.stderr
    assert f"did you mean {meant}" in done.stderr
    assert "code: code-unknown (shipline explain code-unknown)" in done.stderr
