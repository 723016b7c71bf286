"""The line for a shell that repeats a command, without what looks like a secret.

Build arguments whose values cannot be shown are names alone, which take the value from the
environment; so do variables of bake and attributes of caches, which are left out. `--secret` and
`--ssh` name where secrets are, and are shown.
"""

from __future__ import annotations

import csv
import io
import re
import shlex
from collections.abc import Iterator, Sequence

from shipline.net import without_passwords

_NAME = re.compile(
    r"passw|passphrase|secret|token|credential|api_?key|private|signature|auth(?!or)"
    r"|(?:^|[_.-])(?:pass|pword|key|pat|sig|jwt|dsn)(?:$|[_.-])",
    re.IGNORECASE,
)
_VALUE = re.compile(  # tokens with a form of their own: GitHub, GitLab, npm, AWS, Slack, JWT, PEM
    r"\b(?:gh[pousr]_|github_pat_|glpat-|npm_|AKIA|ASIA|xox[abprs]-|sk-)\w{8}|\beyJ\w+\.eyJ"
    r"|-----BEGIN "
)
_QUERY = re.compile(r"(?<=[?&])([^=&\s]+)=([^&#\s]*)&?")
_LOGIN = re.compile(r"(?P<scheme>[\w+.-]*)://[^/?#\s]*@")
_VALUED = ("--build-arg", "--var", "--set", "--label", "--annotation")
"""Options with NAME=VALUE, and --set with TARGET.KEY[.NAME]=VALUE."""
_HIDDEN = "***"


def repeatable(arguments: Sequence[str]) -> str:
    """The command line `shipline ARGUMENTS` for a shell. Whether text is a secret is judged by its
    name and by its form; a value with an ordinary name and no known form is shown.
    """
    return shlex.join(["shipline", *_shown(arguments)])


def _shown(arguments: Sequence[str]) -> Iterator[str]:
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option not in _VALUED:
            yield f"{option}={_text(value)}" if word[:2] == "--" and equals else _text(word)
        elif shown := _named(option, value if equals else next(words, "")):
            yield from [f"{option}={shown}"] if equals else [option, shown]


def _named(option: str, text: str) -> str:
    """The value of an option of `_VALUED`; empty if the option is to be left out."""
    name, equals, value = text.partition("=")
    _, kind, last = [*name.split(".", 2), "", ""][:3] if option == "--set" else ("", "", name)
    secret = kind in ("", "args", "labels") and _NAME.search(last)
    if not equals or not (secret or _text(value) != value or not value.isprintable()):
        return text
    if option == "--build-arg" or kind == "args":
        return name
    return "" if secret or option == "--var" else f"{name}={_text(value)}"


def _text(text: str) -> str:
    """A text without logins and secret parameters of URLs, and without secret attributes."""
    if "type=" in text:
        text = _attributes(text)
    text = _QUERY.sub(lambda one: "" if _NAME.search(one[1]) else one[0], _LOGIN.sub(_user, text))
    return _HIDDEN if _VALUE.search(text) else text


def _user(login: re.Match[str]) -> str:
    """A login of SSH keeps its user, without whom it is another place."""
    scheme = login["scheme"]
    return without_passwords(login[0]) if scheme.endswith("ssh") else f"{scheme}://"


def _attributes(text: str) -> str:
    try:
        fields = next(csv.reader([text], strict=True))
    except (csv.Error, StopIteration):
        return _HIDDEN
    kept = [one for one in fields if "=" not in one or not _NAME.search(one.partition("=")[0])]
    if kept == fields:
        return text
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(kept)
    return line.getvalue()
