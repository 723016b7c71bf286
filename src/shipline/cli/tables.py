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


def table(template: str, heads: Mapping[str, str], rows: Iterable[Mapping[str, Value]]) -> str:
    """What docker shows for `table TEMPLATE`, a column up to each tab, with heads."""
    text = template.replace(r"\t", "\t")
    return columns([render(text, values).split("\t") for values in (heads, *rows)], 3, least=7)
