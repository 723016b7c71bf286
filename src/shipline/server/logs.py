"""The node's log: text lines or JSON.

Everything goes through `logging` below the logger `shipline`; members of `extra=` become fields.
Headers, queries and bodies of requests are never logged: they may hold secrets.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TextIO

from shipline.server.http import Request, Response
from shipline.units import rfc3339
from shipline.values import doc

_access = logging.getLogger("shipline.server.requests")
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


@dataclass(frozen=True, slots=True)
class LogSection:
    """How the node logs."""

    format: Literal["text", "json"] = field(
        default="text", metadata=doc("plain text, or one JSON object per line")
    )
    level: Literal["debug", "info", "warning", "error"] = field(
        default="info", metadata=doc("minimum severity")
    )
    requests: bool = field(default=False, metadata=doc("log every request"))


@contextmanager
def logging_to(stream: TextIO, section: LogSection) -> Iterator[None]:
    """Log to `stream` inside the block."""
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


def startup_line(text: str, section: LogSection) -> str:
    """A line that is shown at any log level, formatted like the log."""
    if section.format == "text":
        return text
    name, level = "shipline.server", logging.INFO
    return JsonLines().format(logging.LogRecord(name, level, "", 0, text, None, None))


def log_request(request: Request, response: Response, seconds: float) -> None:
    """Write the access log; `seconds` until the response started."""
    fields: dict[str, Any] = {
        "method": request.method,
        "path": request.path,
        "status": response.status,
        "seconds": round(seconds, 6),
        "received": request.received,
        "sent": 0 if request.method == "HEAD" else response.size,
        "actor": request.principal.actor,
        "address": request.address,
        "request_id": request.id,
        "traceparent": request.parent.traceparent if request.parent else "",
        "agent": (request.header("User-Agent") or "")[:200],
    }
    _access.info("request", extra={key: value for key, value in fields.items() if value != ""})


class JsonLines(logging.Formatter):
    """One JSON object per line: at (RFC 3339), level, logger, message, the fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": rfc3339(record.created, "milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, separators=(",", ":"))


class TextLines(logging.Formatter):
    """Time, level, message, fields as key=value, quoted if needed."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {key}={_word(value)}" for key, value in _fields(record).items())
        message = _plain(record.getMessage())
        at = rfc3339(record.created, "milliseconds")
        line = f"{at} {record.levelname:<7} {message}{fields}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _OWN}


def _plain(text: str) -> str:
    """Without control characters, which a name from a path could smuggle to the terminal."""
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape").decode()


def _word(value: object) -> str:
    text = str(value)
    plain = text and text.isprintable() and not set(text) & set(' "=')
    return text if plain else json.dumps(text)
