"""A server with fixed answers in JSON, for APIs that are only read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from serving import ReceivedRequest, Reply, json_reply, serving


@dataclass
class Answers:
    """The documents of a server at `url`, by path; `seen` has the headers of the requests."""

    url: str = ""
    documents: dict[str, Any] = field(default_factory=dict)
    seen: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def answers() -> Iterator[Answers]:
    """A running server, which answers 404 for other paths."""
    made = Answers()

    def respond(request: ReceivedRequest) -> Reply:
        made.seen.append(request.headers)
        found = request.path in made.documents
        return json_reply(200 if found else 404, made.documents.get(request.path, {}))

    with serving(respond) as served:
        made.url = served.url
        yield made
