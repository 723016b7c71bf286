"""The pull request APIs of GitHub and GitLab, as far as shipline calls them, for tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from serving import ReceivedRequest, Reply, json_reply, serving


@dataclass
class Forge:
    """A server at `url`; `requests` are the open pull or merge requests, as its API shows them."""

    token: str
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    def answer(self, method: str, target: str, token: str, body: Any) -> tuple[int, Any]:
        parts = urlsplit(target)
        self.calls.append(f"{method} {unquote(parts.path)}")
        if token != f"Bearer {self.token}":
            return 401, {"message": "Bad credentials"}
        gitlab = parts.path.startswith("/api/v4/")
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if method == "GET":
            head = query.get("source_branch") or query["head"].partition(":")[2]
            key = "source_branch" if gitlab else "head"
            return 200, [one for one in self.requests if one[key] == head]
        if method == "POST":
            number = len(self.requests) + 1
            address = f"{self.url}/requests/{number}"
            shown = {"iid": number, "web_url": address} if gitlab else {}
            self.requests.append({"number": number, "html_url": address, **shown, **body})
            return 201, self.requests[-1]
        request = self.requests[int(parts.path.rpartition("/")[2]) - 1]
        request.update(body)
        return 200, request


@contextmanager
def forge(token: str) -> Iterator[Forge]:
    """A running server that takes `token`."""
    running = Forge(token)

    def respond(request: ReceivedRequest) -> Reply:
        body, authorization = request.all(), request.headers.get("authorization", "")
        value = json.loads(body) if body else None
        return json_reply(*running.answer(request.method, request.target, authorization, value))

    with serving(respond) as served:
        running.url = served.url
        yield running
