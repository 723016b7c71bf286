"""A terminal of its own for tests: a pseudo-terminal, and what a person would see on it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
import threading
from typing import Self, TextIO

_SEQUENCE = re.compile(r"\x1b\[(\?25[hl]|\?7[hl]|\d*A|J|C|[\d;]*m)")


class Screen:
    """What is written, laid out; knows only what the live view may use, and fails on the rest."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.rows = [""]
        self.row = self.column = 0
        self.cursor = True

    def feed(self, text: str) -> None:
        position = 0
        while position < len(text):
            if text[position] == "\x1b":
                match = _SEQUENCE.match(text, position)
                assert match is not None, f"unknown sequence in {text[position:][:20]!r}"
                self._obey(match[1])
                position = match.end()
                continue
            self._put(text[position])
            position += 1

    def _obey(self, command: str) -> None:
        if command.startswith("?25"):
            self.cursor = command.endswith("h")
        elif command.endswith("A"):
            top = max(0, len(self.rows) - self.height)
            self.row = max(top, self.row - int(command[:-1] or 1))
        elif command == "C":
            self.column = min(self.column + 1, self.width - 1)
        elif command == "J":
            self.rows[self.row] = self.rows[self.row][: self.column]
            del self.rows[self.row + 1 :]

    def _put(self, character: str) -> None:
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self._down()
        else:
            assert character.isprintable(), f"control character {character!r}"
            if self.column == self.width:
                self.column = 0
                self._down()
            row = self.rows[self.row].ljust(self.column)
            self.rows[self.row] = row[: self.column] + character + row[self.column + 1 :]
            self.column += 1

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.rows):
            self.rows.append("")

    @property
    def lines(self) -> list[str]:
        return [row.rstrip() for row in self.rows]


class Terminal:
    """A pseudo-terminal: write to `stream`, and look at `screen()`."""

    def __init__(self, width: int = 60, height: int = 12) -> None:
        self._master, slave = pty.openpty()
        self.width, self.height = width, height
        self.stream: TextIO = os.fdopen(slave, "w", encoding="utf-8")
        self.resize(width, height)
        self._received = bytearray()
        self._reader = threading.Thread(target=self._read)

    def resize(self, width: int, height: int) -> None:
        size = struct.pack("HHHH", height, width, 0, 0)
        fcntl.ioctl(self.stream.fileno(), termios.TIOCSWINSZ, size)

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(self, *args: object) -> None:
        if not self.stream.closed:
            self.stream.close()
        self._reader.join()
        os.close(self._master)

    @property
    def received(self) -> str:
        return self._received.decode()

    def screen(self) -> Screen:
        """After everything was written: close the stream first."""
        self.stream.close()
        self._reader.join()
        screen = Screen(self.width, self.height)
        screen.feed(self.received)
        return screen

    def _read(self) -> None:
        try:
            while data := os.read(self._master, 1 << 16):
                self._received += data
        except OSError:  # the other side is closed
            return
