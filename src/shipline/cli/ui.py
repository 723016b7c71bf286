"""`shipline ui`: runs, releases and environments in the browser."""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import socket
import sys
import traceback
from pathlib import Path

import click

from shipline.errors import UsageError
from shipline.net import is_loopback

PORT = 4840


@click.command("ui")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help=f"The port; 0 takes a free one. By default {PORT}, or a free one if that is taken.",
)
@click.option("--no-open", is_flag=True, help="Print the address only, and open no browser.")
def command(host: str, port: int | None, no_open: bool) -> None:
    """Show runs, releases and environments as pages until interrupted.

    The printed address has a token in it: whoever has it sees what you see.
    """
    serve_pages(host, port, no_open=no_open)


def serve_pages(host: str, port: int | None, *, no_open: bool, path: str = "/") -> None:
    """Show the pages, of which the one at `path` is opened, until interrupted."""
    from shipline.config import find
    from shipline.home import state_directory
    from shipline.ui.app import Admittance, Workspace, make_app, serve
    from shipline.ui.routes import PAGES

    found = find(Path.cwd())
    root = Path.cwd() if found is None else found.parent
    workspace = Workspace(state_directory(), root, os.environ)
    opened = _socket(host, port)
    number = opened.getsockname()[1]
    admittance = Admittance([host])
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{number}{path}?token={admittance.token}"

    def ready() -> None:
        click.echo(url)
        if not is_loopback(host):
            click.echo("warning: the pages travel unencrypted; an SSH tunnel is safer", err=True)
        sys.stdout.flush()
        if not no_open and _has_browser():
            _open(url)

    async def run() -> None:
        stop = asyncio.Event()
        for one in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(one, stop.set)
        app = make_app(workspace, PAGES, admittance, report=_report_bug)
        await serve(app, opened, ready, stop)

    asyncio.run(run())


def _socket(host: str, port: int | None) -> socket.socket:
    from shipline.ui.app import open_socket

    if port is not None:
        return open_socket(host, port)
    try:
        return open_socket(host, PORT)
    except UsageError:
        return open_socket(host, 0)


def _has_browser() -> bool:
    """Whether somebody sits before this machine: not over SSH, and no browser in the terminal."""
    seen = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    screen = seen or sys.platform == "darwin"
    return screen and sys.stdout.isatty() and not os.environ.get("SSH_CONNECTION")


def _open(url: str) -> None:
    """Open the browser with a file that only this user may read, and that leads to the address:
    what is in the arguments of a program, as its token would be, all users see.
    """
    import tempfile
    import webbrowser

    with tempfile.NamedTemporaryFile("w", prefix="shipline-ui-", suffix=".html", delete=False) as f:
        f.write(f'<!doctype html><meta http-equiv="refresh" content="0; url={url}">')
    atexit.register(Path(f.name).unlink, missing_ok=True)
    webbrowser.open(Path(f.name).as_uri())


def _report_bug(error: BaseException) -> None:
    """The page says what it was; with -D the terminal says where."""
    context = click.get_current_context(silent=True)
    if context is not None and context.obj.debug:
        click.echo("".join(traceback.format_exception(error)).rstrip(), err=True)
    else:
        hint = "`shipline -D ui` shows where"
        click.echo(f"warning: a page failed: {type(error).__name__}: {error}; {hint}", err=True)
