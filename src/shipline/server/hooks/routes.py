"""What operators ask about webhooks: who waits for what, and one more try for what was given up."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from shipline.server.hooks.outbound import Undelivered
from shipline.server.hooks.sender import Webhooks
from shipline.server.http import Request, Response, Route, route
from shipline.server.problems import Problem

_SHOWN = 100  # given up events of one receiver
_JSON = [("Content-Type", "application/json")]


def hook_routes(hooks: Webhooks) -> tuple[Route, ...]:
    """/api/webhooks, and /api/webhooks/NAME/redeliver and /test."""

    def show(request: Request) -> Response:
        found = [_described(hooks, name) for name in hooks.receivers]
        return Response.of(200, _JSON, json.dumps(found).encode())

    def redeliver(request: Request, name: str) -> Response:
        check_known(name)
        return Response.of(200, _JSON, json.dumps({"events": hooks.redeliver(name)}).encode())

    def ping(request: Request, name: str) -> Response:
        check_known(name)
        try:
            hooks.ping(name)
        except Undelivered as failure:
            raise Problem(502, "UNKNOWN", f"{name}: {failure.message}") from None
        return Response.of(200, _JSON, json.dumps({"delivered": True}).encode())

    def check_known(name: str) -> None:
        if name not in hooks.receivers:
            known = ", ".join(hooks.receivers) or "none"
            raise Problem(404, "UNSUPPORTED", f"there is no webhook {name}; there is: {known}")

    return (
        route("/api/webhooks", need="operator", GET=show),
        route("/api/webhooks/(?P<name>[a-z0-9-]+)/redeliver", need="operator", POST=redeliver),
        route("/api/webhooks/(?P<name>[a-z0-9-]+)/test", need="operator", POST=ping),
    )


def _described(hooks: Webhooks, name: str) -> dict[str, Any]:
    dead = hooks.queue.dead(name)
    return {
        "name": name,
        "url": hooks.receivers[name],
        "waiting": hooks.queue.depth(name),
        "given_up": len(dead),
        "events": [
            {"id": waiting.identity, "reason": reason, **asdict(waiting.event)}
            for waiting, reason in dead[:_SHOWN]
        ],
    }
