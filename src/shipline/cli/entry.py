"""The entry point of the program, also as a plugin of docker.

docker runs `docker-NAME`, a link to shipline in `~/.docker/cli-plugins`, with its own options in
front; `shipline buildx build` means the same as `docker buildx build`, and so does `buildx build`
with a link of that name.
"""

from __future__ import annotations

import atexit
import gc
import os
import re
import sys
from collections.abc import Mapping, MutableMapping, Sequence

from shipline import __version__

_SOCKET = "DOCKER_CLI_PLUGIN_SOCKET"
_VARIABLES = {
    "--config": "DOCKER_CONFIG",
    "-c": "DOCKER_CONTEXT",
    "--context": "DOCKER_CONTEXT",
    "-H": "DOCKER_HOST",
    "--host": "DOCKER_HOST",
    "--tlsverify": "DOCKER_TLS_VERIFY",
    "--builder": "BUILDX_BUILDER",
}
_WITH_VALUE = {*_VARIABLES, "-l", "--log-level", "--tlscacert", "--tlscert", "--tlskey"} - {
    "--tlsverify"
}
_DEBUG = ("-D", "--debug")
_WITH_FLAGS = ("--buildkitd-flags",)
"""The options of buildx whose value is a flag, as in `--buildkitd-flags --debug`."""
_BUILDERS = (
    *("create", "use", "ls", "inspect", "rm", "stop", "install", "uninstall"),
    "dial-stdio",
)
"""Commands of buildx that are below `shipline builder`."""
_VERSION_OF_BUILDX = ["--version", "buildx"]
_BUILDX = "v0.29.0"
"""The version of buildx whose flags and output these are: actions and scripts read it from `docker
buildx version`, and leave out what older ones lack; docker compose reads it from the metadata.
"""


def metadata(version: str) -> str:
    """The metadata that docker asks of a plugin, as JSON."""
    return (
        '{"SchemaVersion": "0.1.0", "Vendor": "shipline", "ShortDescription": "From a git commit to'
        f' a signed, multi-architecture image", "Version": "{version}"}}'
    )


def version_line(*, as_buildx: bool) -> str:
    """`shipline 0.1.0`, or the line that buildx prints: its module and version. A revision would
    have to be a commit of buildx.
    """
    if as_buildx:
        own = re.sub("[^0-9A-Za-z.-]", ".", __version__)
        return f"github.com/docker/buildx {_BUILDX}+shipline.{own}"
    return f"shipline {__version__}"


def own_arguments(
    program: str, arguments: list[str], environ: MutableMapping[str, str]
) -> list[str]:
    """`arguments` without the name of the plugin, or `buildx`, and without docker's options, which
    are stored in `environ`.
    """
    called = _called(program)
    if not called and arguments[:1] != ["buildx"]:
        return arguments
    rest, options = _taken(arguments, environ)
    if rest[:1] == [called or "buildx"]:
        rest, more = _taken(rest[1:], environ)
        options += more
    if (called or "buildx") == "buildx":
        return [*options, *_as_buildx(rest, environ)]
    return [*options, *rest]


def _called(program: str) -> str:
    """The name as which this program was called, empty if that is its own."""
    name = os.path.basename(program)
    return name.removeprefix("docker-") if name.startswith(("docker-", "buildx")) else ""


def _as_buildx(arguments: list[str], environ: MutableMapping[str, str]) -> list[str]:
    """The arguments for the command that has another name in buildx; -D may be anywhere there, and
    --builder, which is stored in `environ` where the command has no such option.
    """
    if not arguments:
        return ["--help"]
    end = arguments.index("--") if "--" in arguments else len(arguments)
    debug: list[str] = []
    rest: list[str] = []
    for last, word in zip(["", *arguments], arguments[:end], strict=False):
        if word in _DEBUG and last not in _WITH_FLAGS:
            debug = ["-D"]
        else:
            rest.append(word)
    rest += arguments[end:]
    if rest[:1] and rest[0] in (*_BUILDERS, "history", "version"):
        rest = _without_builder(rest, environ)
    if rest == ["version"]:
        return _VERSION_OF_BUILDX
    return [*debug, *(["builder"] if rest[:1] and rest[0] in _BUILDERS else []), *rest]


def _without_builder(arguments: list[str], environ: MutableMapping[str, str]) -> list[str]:
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option != "--builder":
            kept.append(word)
        elif name := value if equals else next(words, ""):
            environ["BUILDX_BUILDER"] = name
    return kept


def _taken(arguments: list[str], environ: MutableMapping[str, str]) -> tuple[list[str], list[str]]:
    """The arguments after docker's options, and those options that shipline has too."""
    kept: list[str] = []
    while arguments and arguments[0].startswith("-"):
        option, equals, value = arguments[0].partition("=")
        if option in _DEBUG:
            kept.append("-D")
        elif option not in _WITH_VALUE and option not in ("--tls", "--tlsverify"):
            break  # an option of ours
        if option == "--builder" and not equals and not arguments[1:]:
            break  # the command line is wrong
        arguments = arguments[1:]
        if option in _WITH_VALUE and not equals:
            value, arguments = (arguments or [""])[0], arguments[1:]
        if option in _VARIABLES:
            environ[_VARIABLES[option]] = value or "1"
    return arguments, kept


def cancel_with_docker(environ: Mapping[str, str]) -> None:
    """Interrupt this process when docker ends or is interrupted, which closes a socket.

    The kernel sends the signal (fcntl(2), F_SETSIG), since no thread may start before a build
    enters its user namespace.
    """
    address = environ.get(_SOCKET, "")
    if not address:
        return
    import fcntl
    import select
    import signal
    import socket

    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect("\0" + address[1:] if address.startswith("@") else address)
    except OSError:
        connection.close()
        return
    fd = connection.detach()  # open as long as the process lives
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGINT)
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([fd], [], [], 0)[0]:  # it had ended before the line above
        signal.raise_signal(signal.SIGINT)


def is_buildx() -> bool:
    """Whether this program is called as buildx, by docker or by itself."""
    return _called(sys.argv[0]) == "buildx"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, by default that of the process; returns the exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    program = sys.argv[0] if argv is None else ""
    if arguments[:1] == ["docker-cli-plugin-metadata"]:
        print(metadata(_BUILDX if is_buildx() else __version__))
        return 0
    as_buildx = is_buildx() or arguments[:1] == ["buildx"]
    if arguments[:1] == ["buildx"] or _called(program):
        arguments = own_arguments(program, arguments, os.environ)
        cancel_with_docker(os.environ)
    if arguments in (["--version"], _VERSION_OF_BUILDX) and sys.stdout is not None:
        try:
            print(version_line(as_buildx=arguments == _VERSION_OF_BUILDX), flush=True)
            return 0
        except OSError:  # `run` reports it
            pass
    gc.set_threshold(100_000, 20, 20)  # imports and builds make many small, long-lived values
    try:
        from shipline.cli.program import run  # four times as long as the line above
    except BaseException as failure:  # as `report`, which is not there yet
        if not is_interrupt(failure):
            raise
        print("interrupted", file=sys.stderr)
        return 130

    status = run(arguments, as_buildx=as_buildx)
    if argv is None:
        leave(status)
    return status


def is_interrupt(failure: BaseException | None) -> bool:
    """Whether it is an interrupt, or came of one: Python 3.11 makes a RuntimeError of what
    `__set_name__` raises.
    """
    while failure is not None and not isinstance(failure, KeyboardInterrupt):
        failure = failure.__cause__ or failure.__context__
    return failure is not None


def leave(status: int) -> None:
    """End the process without taking the interpreter apart, which is 4 % of a small build. Returns
    where a thread still works: then the interpreter waits for it.
    """
    import threading

    gc.freeze()  # looking for cycles would be a fifth of a small build
    if threading.active_count() > 1:
        return
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            return
    os._exit(status)
