"""Prints the manual page shipline(1), from the program itself."""

from __future__ import annotations

from collections.abc import Iterator

from shipline import __version__
from shipline.cli.program import COMMANDS, program

ENVIRONMENT = {
    "SHIPLINE_HOME": "the cache; by default /var/lib/shipline for root, else"
    " ~/.local/state/shipline",
    "SHIPLINE_MAX_USED_SPACE": "the limit of the cache after a build",
    "SHIPLINE_INSECURE, SHIPLINE_CA": "registries to use over plain HTTP, and files of certificates"
    " of authorities to trust",
    "DOCKER_CONFIG, REGISTRY_AUTH_FILE": "where credentials are stored",
}


DESCRIPTION = (
    "Builds Dockerfiles without a daemon, pushes layers while later steps run, derives tags from"
    " git, and applies them after the quality gates have passed."
)


def manual() -> Iterator[str]:
    """The lines of the page, in the language of man(7)."""
    summary = (program.help or "").rstrip(".")
    yield f'.TH SHIPLINE 1 "" "shipline {__version__}" "User Commands"'
    yield f".SH NAME\nshipline \\- {_text(summary[0].lower() + summary[1:])}"
    yield ".SH SYNOPSIS\n.B shipline\n.I COMMAND\n[\\fIOPTION\\fR]... [\\fIARGUMENT\\fR]..."
    yield f".SH DESCRIPTION\n{DESCRIPTION}\n.PP\n.B shipline\n.I COMMAND\n.B \\-\\-help"
    yield "explains a command."
    for title, entries in COMMANDS.items():
        yield f".SH {title.upper()}"
        for entry in entries:
            yield f".TP\n.B shipline {_text(entry.name)}\n{_text(entry.help)}"
    yield ".SH ENVIRONMENT"
    for name, text in ENVIRONMENT.items():
        yield f".TP\n.B {name}\n{_text(text)}"
    yield ".SH EXIT STATUS\n.B shipline explain\n.I STATUS"
    yield "explains an exit status, or an error code."
    yield ".SH SEE ALSO\n.BR crun (1),\n.BR docker (1),\n.BR git (1)"


def _text(text: str) -> str:
    shown = text.replace("\\", "\\\\").replace("-", "\\-")
    return f"\\&{shown}" if shown[:1] in (".", "'") else shown


if __name__ == "__main__":
    print("\n".join(manual()))
