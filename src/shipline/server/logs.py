"""What the node writes about itself: lines for people, or JSON for machines.

Everything goes through `logging`, below the logger `shipline`; members of `extra=` become fields.
What a request carries in its headers, its query or its body is never logged: secrets travel there.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from shipline.server.http import Request, Response

_access = logging.getLogger("shipline.server.requests")
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


@dataclass(frozen=True, slots=True)
class LogSection:
    """How the node logs."""

    format: Literal["text", "json"] = field(
        default="text", metadata={"doc": "lines for people, or one JSON object a line"}
    )
    level: Literal["debug", "info", "warning", "error"] = field(
        default="info", metadata={"doc": "the least important lines that are written"}
    )
    requests: bool = field(default=False, metadata={"doc": "write a line for every request"})


@contextmanager
def logging_to(stream: TextIO, section: LogSection) -> Iterator[None]:
    """Write the program's log to `stream` while the block lasts."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if section.format == "json" else TextLines())
    logger = logging.getLogger("shipline")
    level, propagate = logger.level, logger.propagate
    logger.setLevel(section.level.upper())
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def announcement(text: str, section: LogSection) -> str:
    """What whoever starts the node must see at any level, as a line of its log."""
    if section.format == "text":
        return text
    name, level = "shipline.server", logging.INFO
    return JsonLines().format(logging.LogRecord(name, level, "", 0, text, None, None))


def log_request(request: Request, response: Response, seconds: float) -> None:
    """An observer that writes the access log; `seconds` until the answer began."""
    fields: dict[str, Any] = {
        "method": request.method,
        "path": request.path,
        "status": response.status,
        "seconds": round(seconds, 6),
        "received": request.received,
        "sent": 0 if request.method == "HEAD" else response.size,
        "actor": request.identity.actor,
        "address": request.address,
        "request_id": request.id,
        "traceparent": request.traceparent,
        "agent": (request.header("User-Agent") or "")[:200],
    }
    _access.info("request", extra={key: value for key, value in fields.items() if value != ""})


class JsonLines(logging.Formatter):
    """One object a line: at (RFC 3339, UTC), level, logger, message, the fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, separators=(",", ":"))


class TextLines(logging.Formatter):
    """Time, level, message, then the fields as key=value; values that need it are quoted."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {key}={_word(value)}" for key, value in _fields(record).items())
        message = _plain(record.getMessage())
        line = f"{_time(record)} {record.levelname:<7} {message}{fields}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _time(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _OWN}


def _plain(text: str) -> str:
    """One line that no terminal takes for a command: names in it may come from a path."""
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape").decode()


def _word(value: object) -> str:
    text = str(value)
    plain = text and text.isprintable() and not set(text) & set(' "=')
    return text if plain else json.dumps(text)
