"""The entry of the program, which answers `--version` before anything is loaded."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from shipline import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (that of the process where it is None); the exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments == ["--version"]:
        print(f"shipline {__version__}")
        return 0
    from shipline.cli.program import run  # four times as long as the line above

    return run(arguments)
