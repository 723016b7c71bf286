"""Whether a step's `when` holds, and if not, which part of it."""

from __future__ import annotations

from collections.abc import Mapping

from shipline.globs import glob
from shipline.ship.section import When, listed
from shipline.tags import Event


def unmet(when: When, event: Event, environ: Mapping[str, str]) -> str:
    """The reason why the step does not run here; empty where it does."""
    for name, value, patterns in (
        ("branch", event.branch, listed(when.branch)),
        ("tag", event.tag, listed(when.tag)),
        ("event", event.kind, listed(when.event)),
    ):
        if patterns and not any(glob(pattern).fullmatch(value) for pattern in patterns):
            return f"when: the {name} is {value or 'not known'}, not {' or '.join(patterns)}"
    for variable, pattern in when.env.items():
        if not glob(pattern).fullmatch(environ.get(variable, "")):
            return f"when: {variable} does not fit {pattern!r}"
    return ""
