"""Plots as SVG without a library: build times over tree sizes, and bars."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_WIDTH, _HEIGHT = 720, 360  # pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 90, 40, 44
_LINES = (("buildkit", "BuildKit", "#b4540a"), ("shipline", "shipline", "#0b62a8"))


def plot(rows: Sequence[Mapping[str, Any]]) -> str:
    """Seconds over files, both axes logarithmic, with a line for each builder.

    A row has `files`, and for each builder its `wall_s`.
    """
    files = [row["files"] for row in rows]
    times = [row[name]["wall_s"] for row in rows for name, _, _ in _LINES]
    low, high = 10 ** math.floor(math.log10(min(times))), 10 ** math.ceil(math.log10(max(times)))
    x = _scale(min(files), max(files), _LEFT, _WIDTH - _RIGHT)
    y = _scale(low, high, _HEIGHT - _BOTTOM, _TOP)
    parts = [_text(_LEFT, 20, "Cold build and push, two platforms: seconds over files", "start")]
    step = low
    while step <= high:
        at = y(step)
        parts.append(f'<path d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}" stroke="#8884"/>')
        parts.append(_text(_LEFT - 8, at + 4, f"{step:g} s", "end"))
        step *= 10
    parts += [_text(x(count), _HEIGHT - _BOTTOM + 20, f"{count:,}", "middle") for count in files]
    for name, label, colour in _LINES:
        points = [(x(row["files"]), y(row[name]["wall_s"])) for row in rows]
        line = " ".join(f"{left:.1f},{top:.1f}" for left, top in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{left:.1f}" cy="{top:.1f}" r="3.5" fill="{colour}"/>'
            for left, top in points
        ]
        parts += [
            _text(left, top - 8, f"{row[name]['wall_s']:.1f}", "middle", colour)
            for row, (left, top) in zip(rows, points, strict=True)
        ]
        left, top = points[-1]
        parts.append(_text(left + 16, top + 4, label, "start", colour))
    return _document(parts, _HEIGHT)


def bars(title: str, rows: Sequence[tuple[str, float]]) -> str:
    """A horizontal bar for each label and number of seconds."""
    left, step = 220, 26
    most = max(seconds for _, seconds in rows)
    parts = [_text(16, 20, title, "start")]
    for number, (label, seconds) in enumerate(rows):
        top = _TOP + number * step
        width = max(1.0, (_WIDTH - left - _RIGHT) * seconds / most)
        colour = "#0b62a8" if label.startswith("shipline") else "#b4540a"
        parts.append(
            f'<rect x="{left}" y="{top}" width="{width:.1f}" height="{step - 8}" fill="{colour}"/>'
        )
        parts.append(_text(left - 8, top + 14, label, "end"))
        parts.append(_text(left + width + 6, top + 14, f"{seconds:.1f}", "start", colour))
    return _document(parts, _TOP + len(rows) * step + 12)


def _document(parts: Sequence[str], height: int) -> str:
    size = f'width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}"'
    style = 'font-family="sans-serif" font-size="13"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>'
    return (
        "\n".join([head, '<rect width="100%" height="100%" fill="#fff"/>', *parts, "</svg>"]) + "\n"
    )


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """From a value between `low` and `high` to a place between `start` and `end`."""
    width = math.log(high / low) or 1

    def place(value: float) -> float:
        return start + (end - start) * math.log(value / low) / width

    return place


def _text(left: float, top: float, text: str, anchor: str, colour: str = "#333") -> str:
    return (
        f'<text x="{left:.1f}" y="{top:.1f}" text-anchor="{anchor}" fill="{colour}">{text}</text>'
    )
