"""The entry of the program, which answers `--version` before anything is loaded."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from shipline import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (that of the process where it is None); the exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    program = sys.argv[0] if argv is None else ""
    if arguments[:1] == ["docker-cli-plugin-metadata"]:
        from shipline.cli.plugin import metadata

        print(metadata(__version__))
        return 0
    if arguments[:1] == ["buildx"] or os.path.basename(program).startswith("docker-"):
        from shipline.cli.plugin import cancel_with_docker, own_arguments

        arguments = own_arguments(program, arguments, os.environ)
        cancel_with_docker(os.environ)
    if arguments == ["--version"]:
        print(f"shipline {__version__}")
        return 0
    from shipline.cli.program import run  # four times as long as the line above

    return run(arguments)
