"""The live view on a real pseudo-terminal: what a person sees, and what stays."""

from __future__ import annotations

import time
from collections import deque

import pyte
import pytest
from events_for_tests import START, Script
from terminal import Screen, Terminal

from shipline.events import Started
from shipline.observe import RunReport, TtySink
from shipline.observe.board import Board, VertexState
from shipline.observe.text import cells
from shipline.observe.tty import ScreenLine, live_lines, palette, reflowing


def redrawn(terminal: Terminal) -> Screen:
    """What is seen once all that was told so far has been drawn, and drawn over."""
    frames = terminal.received.count("[+] Building") + 3  # one may be on its way
    end = time.monotonic() + 60
    while terminal.received.count("[+] Building") < frames and time.monotonic() < end:
        time.sleep(0.01)
    screen = Screen(terminal.width, terminal.height)
    screen.feed(terminal.received)
    return screen


def words(screen: Screen) -> list[str]:
    return [" ".join(line.split()) for line in screen.lines]


def test_finished_steps_stay_once_each_and_in_order() -> None:
    with Terminal() as terminal:
        sink = TtySink(terminal.stream, clock=lambda: START + 5)
        script = Script(sink)
        build = script.start(0, "build")
        base = script.start(0, "FROM alpine", build, platform="linux/amd64", number="1/2")
        script.finish(0, base, cached=True)
        run = script.start(1, "RUN make", build, platform="linux/amd64", number="2/2")
        script.output(1, run, b"compiling\n")
        during = redrawn(terminal)
        script.warn(2, run, "old compiler", "take a newer one")
        script.finish(3.5, run)
        broken = script.start(4, "COPY x .", build, kind="copy")
        script.finish(5, broken, "no such file")
        sink.close()
        screen = terminal.screen()
    assert words(during) == [
        "=> CACHED [linux/amd64 1/2] FROM alpine 0.0s",
        "[+] Building 0.0s (1/2)",
        "=> [linux/amd64 2/2] RUN make 4.0s",
        "=> => # compiling",
        "",
    ]
    assert screen.cursor
    assert words(screen) == [
        "=> CACHED [linux/amd64 1/2] FROM alpine 0.0s",
        "=> WARN: old compiler",
        "=> => take a newer one",
        "=> [linux/amd64 2/2] RUN make 2.5s",
        "=> ERROR COPY x . 1.0s",
        "[+] Building 0.0s (3/3)",
        "",
    ]


def test_a_running_step_shows_time_bytes_and_its_last_lines() -> None:
    with Terminal() as terminal:
        sink = TtySink(terminal.stream, clock=lambda: START + 4)
        script = Script(sink)
        build = script.start(0, "build")
        run = script.start(2, "RUN make", build, kind="run")
        upload = script.start(2, "layer", run, kind="upload")
        script.progress(3, upload, 1_000_000, 4_000_000)
        script.output(3, run, b"\xffone\x1b[5A\ntwo\n")
        during = redrawn(terminal)
        sink.close()
    assert not during.cursor
    assert words(during)[:5] == [
        "[+] Building 0.0s (0/1)",
        "=> RUN make 2.0s",
        "=> => layer 1.00MB / 4.00MB 25% 500.00kB/s, 6.0s left 2.0s",
        "=> => # \\xffone",
        "=> => # two",
    ]


def test_at_most_ten_frames_a_second_whatever_comes() -> None:
    with Terminal() as terminal:
        sink = TtySink(terminal.stream)
        script = Script(sink)
        build = script.start(0, "build")
        run = script.start(0, "RUN", build, kind="run")
        begun = time.monotonic()
        while terminal.received.count("[+] Building") < 5:
            script.output(1, run, b"line\n")
        sink.close()
        elapsed = time.monotonic() - begun
        terminal.screen()
    frames = terminal.received.count("[+] Building")
    assert frames <= elapsed * 10 + 3


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames are drawn when the test says so, not when time has passed."""
    monkeypatch.setattr(TtySink, "_keep_drawing", lambda sink: None)


def frames(terminal: Terminal, count: int) -> str:
    """What was received once `count` frames have been drawn."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        text = terminal.received
        if text.count("Building") >= count and text.endswith(("\n", "\x1b[?7h")):
            break
        time.sleep(0.005)
    return text


def narrowed(*, reflows: bool) -> tuple[str, str]:
    """What is written to a window of 60 columns, and after it has shrunk to 20."""
    with Terminal(width=60) as terminal:
        sink = TtySink(terminal.stream, color=False, reflows=reflows)
        script = Script(sink)
        build = script.start(0, "build")
        for number in range(3):
            done = script.start(0, f"COPY {number} " + "y" * 60, build, kind="copy")
            script.finish(0, done)
        run = script.start(0, "RUN " + "x" * 100, build, kind="run")
        for _ in range(2):
            sink._draw()
        before = frames(terminal, 2)
        for width in (50, 40, 30, 20):
            terminal.resize(width, 12)
            sink._draw()
        for _ in range(6):
            sink._draw()
        script.finish(1, run)
        sink.close()
        terminal.screen()
    return before, terminal.received[len(before) :]


@pytest.mark.usefixtures("by_hand")
def test_a_narrower_window_leaves_no_rests_where_lines_are_broken_anew() -> None:
    before, after = narrowed(reflows=True)
    reflowed = Screen(20, 40)
    for row in _rows(before, 60):
        reflowed.feed(row + "\r\n")
    reflowed.feed(after)
    assert sum("RUN" in line for line in reflowed.lines) == 1
    assert sum("Building" in line for line in reflowed.lines) == 1
    assert sum("COPY" in line for line in reflowed.lines) == 3


@pytest.mark.usefixtures("by_hand")
def test_a_narrower_window_erases_no_finished_step_where_lines_are_cut_off() -> None:
    before, after = narrowed(reflows=False)
    screen = pyte.Screen(60, 12)
    stream = pyte.Stream(screen)
    stream.feed(before.replace("\n", "\r\n").replace("\r\r", "\r"))
    screen.resize(columns=20)
    stream.feed(after.replace("\n", "\r\n").replace("\r\r", "\r"))
    shown = [line.rstrip() for line in screen.display if line.strip()]
    assert [line[:9] for line in shown] == [*[" => COPY "] * 3, " => RUN x", "[+] Build"]


def seen(received: str, width: int) -> list[str]:
    """The rows that a person sees in a window of 24 rows."""
    screen = pyte.Screen(width, 24)
    pyte.Stream(screen).feed(received)
    return [line.rstrip() for line in screen.display if line.strip()]


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("width", [80, 40])
def test_progress_and_report_are_whole_in_an_ordinary_and_in_a_narrow_window(width: int) -> None:
    platforms = ("linux/amd64", "linux/arm64", "linux/s390x")
    with Terminal(width=width, height=24) as terminal:
        report = RunReport()
        sink = TtySink(terminal.stream, color=False, clock=lambda: START + 9)
        script = Script(sink, report)
        build = script.start(0, "build")
        spans = []
        for platform in platforms:
            base = script.start(0, "FROM alpine", build, platform=platform, number="1/2")
            script.finish(1, base, cached=True)
            name = "RUN make " + "世界 " * 20
            spans.append(script.start(1, name, build, platform=platform, number="2/2", kind="run"))
            script.output(2, spans[-1], b"compiling " + b"x" * 100 + b"\n")
        sink._draw()
        sink._draw()
        during = seen(frames(terminal, 2), width)
        for at, span in enumerate(spans, 5):
            script.finish(at, span)
        report.facts["sizes"] = "linux/amd64=5000000 linux/arm64=4000000 linux/s390x=4000000"
        script.finish(9, build)
        sink.close()
        terminal.stream.write("\n".join(report.lines()) + "\n")
        terminal.screen()
    rows = seen(terminal.received, width)
    for shown in (during, rows):
        for platform in platforms:
            assert sum(f"[{platform} 1/2] FROM" in row for row in shown) == 1
            assert sum(f"=> [{platform} 2/2] RUN" in row for row in shown) == 1
    assert sum("Building" in row for row in during) == 1
    assert sum("=> => # compiling" in row for row in during) == 3
    assert len(during) == 10  # no line takes two rows
    start = next(number for number, row in enumerate(rows) if row.startswith("time "))
    assert rows[start - 1].startswith("[+] Building")
    told = "".join("".join(line.split()) for line in report.lines())
    assert "".join("".join(row.split()) for row in rows[start:]) == told


@pytest.mark.usefixtures("by_hand")
def test_nothing_is_drawn_while_the_window_changes_its_size() -> None:
    with Terminal(width=60) as terminal:
        sink = TtySink(terminal.stream, color=False)
        script = Script(sink)
        script.start(0, "RUN make", script.start(0, "build"), kind="run")
        sink._draw()
        before = frames(terminal, 1)
        for width in range(59, 39, -1):
            terminal.resize(width, 12)
            sink._draw()
        assert terminal.received == before
        for _ in range(6):
            sink._draw()
        assert frames(terminal, 2).count("Building") > 1
        sink.close()


@pytest.mark.parametrize(
    ("environ", "known"),
    [
        ({"TMUX": "/tmp/x", "TERM": "screen"}, True),
        ({"VTE_VERSION": "7600", "TERM": "xterm-256color"}, True),
        ({"TERM": "xterm-kitty"}, True),
        ({"TERM_PROGRAM": "vscode"}, True),
        ({"TERM": "xterm-256color"}, False),
        ({"TERM": "linux"}, False),
        ({"STY": "1.pts", "VTE_VERSION": "7600"}, False),
    ],
)
def test_terminals_that_break_lines_anew_are_known_by_what_they_set(
    environ: dict[str, str], known: bool
) -> None:
    assert reflowing(environ) is known


def _rows(text: str, width: int) -> list[str]:
    screen = Screen(width, 12)
    screen.feed(text)
    return screen.lines[:-1]


def test_a_terminal_that_went_away_does_not_stop_the_work() -> None:
    with Terminal() as terminal:
        sink = TtySink(terminal.stream)
        script = Script(sink)
        terminal.stream.close()
        script.start(0, "RUN", script.start(0, "build"), kind="run")
        time.sleep(0.15)
        sink.close()


def test_no_color_means_no_color() -> None:
    with Terminal() as terminal:
        sink = TtySink(terminal.stream, color=False)
        script = Script(sink)
        script.finish(1, script.start(0, "RUN", script.start(0, "build"), kind="run"))
        sink.close()
        terminal.screen()
    assert "m" not in terminal.received.replace("[+] Building", "")


def running(count: int) -> list[VertexState]:
    board = Board()
    for span in range(1, count + 1):
        board.start(Started(span, START, f"RUN {span} 世界" * 9, attributes={"kind": "run"}))
        board.start(Started(1000 + span, START, "layer", span, {"kind": "upload"}))
    return list(board.vertexes.values())


def test_the_view_fits_any_window() -> None:
    logs = {span: deque(["out 世界 " * 30] * 6) for span in range(1, 40)}
    for count in (1, 3, 10, 39):
        for width, height in ((200, 50), (79, 24), (30, 5), (7, 2), (1, 1)):
            lines = live_lines(running(count), logs, START + 1, width=width, height=height)
            assert len(lines) <= height
            assert all(cells(line.text) <= width for line in lines)


def test_short_windows_give_up_output_before_steps() -> None:
    logs = {span: deque(["out"] * 6) for span in range(1, 5)}
    lines = live_lines(running(4), logs, START + 1, width=60, height=10)
    assert sum(" => RUN" in line.text for line in lines) == 4
    assert not any("=> => #" in line.text for line in lines)
    assert ".. and 2 more" in live_lines(running(4), logs, START, width=60, height=3)[-1].text


def test_a_transfer_is_shown_after_its_step_has_ended() -> None:
    vertexes = running(1)
    vertexes[0].finished = START + 1
    lines = live_lines(vertexes, {}, START + 2, width=60, height=5)
    assert [" => => layer" in line.text for line in lines] == [False, True]


def test_colors_and_lines_of_output_are_chosen_as_for_buildkit() -> None:
    colors = palette("run=green:error=255,0,1:warning=none:other=red:cancel")
    painted = [ScreenLine("x", one).painted(True, colors) for one in ("\x1b[36m", "\x1b[31m")]
    assert painted == ["\x1b[32mx\x1b[0m", "\x1b[38;2;255;0;1mx\x1b[0m"]
    assert len(colors) == 2 and ScreenLine("x", "\x1b[36m").painted(False, colors) == "x"
    vertexes = running(1)
    logs = {vertexes[0].span: deque(map(str, range(9)))}
    for wanted in (0, 1, 8):
        lines = live_lines(vertexes, logs, START, width=60, height=20, log_lines=wanted)
        assert sum(line.text.startswith(" => => # ") for line in lines) == wanted
