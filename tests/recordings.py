"""Makes docs/recordings from real runs of the tutorial: `make screenshots`. What terminals showed,
as SVG that plays itself. It is not part of `make test`, since the times in it differ each time.
"""

from __future__ import annotations

import fcntl
import os
import pty
import shlex
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from xml.sax.saxutils import escape

import pyte
import pytest

from documents import blocks
from peers import Registry

PLACE = Path(__file__).parent.parent / "docs" / "recordings"
COLUMNS, ROWS = 100, 40
_STEP_S = 0.2  # between two frames, at least
_WAIT_S = 1.0  # between two frames, at most: longer waits are shortened
_REST_S = 5.0  # that the last one is shown
_WIDTH, _HEIGHT = 8.43, 18  # pixels of a cell, at a font size of 14
_MARGIN = 12  # pixels
_COLOURS = {  # by pyte's name: in dark and in light mode
    "default": ("#c9d1d9", "#24292f"),
    "black": ("#8b949e", "#57606a"),
    "red": ("#ff7b72", "#cf222e"),
    "green": ("#7ee787", "#116329"),
    "brown": ("#e3b341", "#7d4e00"),
    "blue": ("#79c0ff", "#0969da"),
    "magenta": ("#d2a8ff", "#8250df"),
    "cyan": ("#76e3ea", "#1b7c83"),
    "white": ("#c9d1d9", "#57606a"),
}
_BACKGROUND = ("#0d1117", "#f6f8fa")

Frame = tuple[float, list[str]]
"""When it begins, in seconds, and its rows as SVG."""


def record(commands: Sequence[str], cwd: Path, environ: Mapping[str, str]) -> list[Frame]:
    """What a terminal shows while a shell runs the commands, one after the other."""
    shown = [f"printf '\\033[1;32m$\\033[0m %s\\n' {shlex.quote(one)}\n{one}" for one in commands]
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        os.chdir(cwd)
        os.execvpe("bash", ["bash", "-c", "\necho\n".join(shown)], environ)
    frames: list[Frame] = []
    now, last = 0.0, time.monotonic()
    for data in _chunks(terminal):
        stream.feed(data)
        now, last = now + min(time.monotonic() - last, _WAIT_S), time.monotonic()
        begin = now
        if frames and now - frames[-1][0] < _STEP_S:
            begin, _ = frames.pop()
        rows = [_row(screen, number) for number in range(ROWS)]
        if not frames or rows != frames[-1][1]:
            frames.append((begin, rows))
    os.waitpid(pid, 0)
    os.close(terminal)
    return frames


def _chunks(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            data = os.read(terminal, 1 << 16)
        except OSError:  # its last program has ended
            return
        yield data


def _row(screen: pyte.Screen, number: int) -> str:
    """The row's runs of one look."""
    line, parts = screen.buffer[number], []
    y = _MARGIN + 14 + number * _HEIGHT
    cells = [(x, line[x].data, line[x].fg, line[x].bold) for x in range(COLUMNS)]
    for (colour, bold), same in groupby(cells, key=lambda cell: cell[2:]):
        run = list(same)
        text = "".join(cell[1] for cell in run).rstrip()
        if not text:
            continue
        name = colour.removeprefix("bright")
        kind = f"{name if name in _COLOURS else 'default'}{' bold' if bold else ''}"
        x = f"{_MARGIN + run[0][0] * _WIDTH:.1f}"
        width = f"{len(text) * _WIDTH:.1f}"
        parts.append(
            f'<text x="{x}" y="{y}" textLength="{width}" class="{kind}">{escape(text)}</text>'
        )
    return "".join(parts)


def picture(frames: Sequence[Frame], title: str) -> str:
    """The frames as an SVG that repeats. Where motion is unwanted, and in programs without
    animation, it shows the last one.
    """
    total = frames[-1][0] + _REST_S
    times = [0.0, *(begin for begin, _ in frames[1:]), total]
    spans: dict[tuple[float, float], list[str]] = {}  # rows by when they are shown
    for number in range(ROWS):
        position = 0
        for row, same in groupby(rows[number] for _, rows in frames):
            first, position = position, position + len(list(same))
            if row:
                spans.setdefault((times[first], times[position]), []).append(row)
    styles, groups = [], []
    for number, ((begin, end), rows) in enumerate(spans.items()):
        steps = {0.0: int(begin == 0), begin: 1, **({end: 0} if end < total else {})}
        keys = "".join(f"{at / total:.3%}{{opacity:{value}}}" for at, value in steps.items())
        last = f"100%{{opacity:{int(end == total)}}}"
        styles.append(f"@keyframes k{number}{{{keys}{last}}}.k{number}{{animation-name:k{number}}}")
        groups.append(f'<g class="k k{number}" opacity="{int(end == total)}">{"".join(rows)}</g>')
    used = max(number for _, rows in frames for number, row in enumerate(rows) if row) + 1
    width, height = round(2 * _MARGIN + COLUMNS * _WIDTH), 2 * _MARGIN + used * _HEIGHT
    dark, light = (_rules(mode) for mode in (0, 1))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
        f' width="{width}" height="{height}"><title>{escape(title)}</title><style>'
        "text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;"
        f"white-space:pre}}text.bold{{font-weight:bold}}{dark}"
        f"@media (prefers-color-scheme:light){{{light}}}"
        f"@media (prefers-reduced-motion:no-preference){{"
        f".k{{animation:{total:.2f}s step-end infinite}}{''.join(styles)}}}</style>"
        f'<rect width="100%" height="100%" rx="8" class="ground"/>{"".join(groups)}</svg>\n'
    )


def _rules(mode: int) -> str:
    colours = "".join(f".{name}{{fill:{one[mode]}}}" for name, one in _COLOURS.items())
    return f"{colours}.ground{{fill:{_BACKGROUND[mode]}}}"


@pytest.fixture
def project(base_images: Registry, tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """The project of the tutorial with its key, and the registry of its images."""
    environ = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "SHIPLINE_HOME": str(tmp_path / "state"),
        "SHIPLINE_MIRRORS": f"docker.io={base_images.url}",
        "SHIPLINE_KEY_PASSWORD": "correct-horse",
    }
    (files,) = (one.text for one in blocks("docs/tutorial.md") if "cat > Dockerfile" in one.text)
    serve = ["shipline", "registry", "serve", "--data", str(tmp_path / "registry")]
    with subprocess.Popen(
        serve, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as node:
        assert node.stdout is not None
        try:
            assert any(line.startswith("serving ") for line in iter(node.stdout.readline, ""))
            made = f"{files}\nshipline key generate --output-key-prefix ../release"
            subprocess.run(["bash", "-ec", made], cwd=tmp_path, env=environ, check=True)
            yield tmp_path / "app", environ
        finally:
            node.terminate()


RECORDED = {
    "build": (
        "A build for two platforms, pushed while it runs",
        [
            "shipline build --platform linux/amd64,linux/arm64 "
            "-t 127.0.0.1:5000/team/app:dev --push ."
        ],
    ),
    "why": (
        "Why a step ran again",
        [
            "echo '<h1>hello, world</h1>' > index.html",
            "shipline build --quiet --output type=cacheonly .",
            "shipline why",
        ],
    ),
    "ship": (
        "From a commit to a signed image",
        ["git commit -qam 'feat: a world'", "shipline ship"],
    ),
    "refused": (
        "A gate refuses a release",
        ["sed -i '/^USER/d' Dockerfile", "git commit -qam 'fix: run as root'", "shipline ship"],
    ),
}


def test_what_terminals_show(project: tuple[Path, dict[str, str]]) -> None:
    PLACE.mkdir(exist_ok=True)
    for name, (title, commands) in RECORDED.items():
        made = picture(record(commands, *project), title)
        assert len(made) < 150_000, name
        (PLACE / f"{name}.svg").write_text(made)
