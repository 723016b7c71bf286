"""`${NAME}` in a text: the variable of the environment; `$$` is a dollar.

Forms: `${NAME}`, `${NAME:-default}` (also where it is empty), `${NAME:?message}`. Only fields that
say so are read this way, and never commands: those have the environment themselves. Variables that
are named like secrets are refused, because these fields are shown in plans, records and logs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_FORM = re.compile(
    r"\$(?:(?P<dollar>\$)"
    r"|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?:(?P<how>:[-?])(?P<word>[^}]*))?\}"
    r"|(?P<wrong>\{))"
)
_SECRET = re.compile(r"(?:^|_)(?:TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIALS?|KEY)(?:_|$)", re.I)


def interpolate(text: str, environ: Mapping[str, str]) -> str:
    """`text` with its variables replaced. Raises ValueError for one that is not set, or a secret.

    A `$` before anything else stays as it is.
    """

    def replace(found: re.Match[str]) -> str:
        if found["dollar"]:
            return "$"
        if found["wrong"]:
            raise ValueError("${ begins a variable: write ${NAME}, or $${ for the text itself")
        return _value(found["name"], found["how"] or "", found["word"] or "", environ)

    return _FORM.sub(replace, text)


def _value(name: str, how: str, word: str, environ: Mapping[str, str]) -> str:
    if _SECRET.search(name):
        raise ValueError(
            f"${{{name}}} looks like a secret, and this value is shown in logs: "
            "let the step that needs it read the environment"
        )
    value = environ.get(name)
    if value or (value is not None and not how):
        return value
    if how == ":-":
        return word
    state = "empty" if value == "" else "not set"
    raise ValueError(f"${{{name}}}: " + (word or f"the variable is {state}"))
