"""Lines of columns, as docker and its frontends print them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from shipline.cli.template import render
from shipline.cli.template_functions import Value


def columns(rows: Iterable[Sequence[str]], padding: int, least: int = 0) -> str:
    """Lines of columns, of which all but the last have the width of their widest cell, or `least`,
    and `padding` more.
    """
    from shipline.observe import clean

    cleaned = [[clean(cell) for cell in row] for row in rows]
    widths = [max(least, *map(len, column)) for column in zip(*cleaned, strict=True)]
    return "".join(
        "".join(cell.ljust(width + padding) for cell, width in zip(row[:-1], widths, strict=False))
        + f"{row[-1]}\n"
        for row in cleaned
    )


def line(template: str, values: Mapping[str, Value]) -> str:
    r"""What docker shows for a template, in which `\t` and `\n` stand for their characters."""
    return render(_unescaped(template), values, indent=None)


def table(template: str, heads: Mapping[str, str], rows: Iterable[Mapping[str, Value]]) -> str:
    """What docker shows for `table TEMPLATE`, a column up to each tab, with heads."""
    text = _unescaped(template)
    return columns(
        [render(text, values, indent=None).split("\t") for values in (heads, *rows)], 3, least=7
    )


def _unescaped(template: str) -> str:
    return template.replace(r"\t", "\t").replace(r"\n", "\n")
