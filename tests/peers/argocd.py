"""A small API server of Argo CD: what it answers about Applications, on loopback."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from serving import ReceivedRequest, Reply, json_reply, serving

Object = dict[str, Any]

AT = "2026-11-29T20:00:00Z"


def application(
    name: str,
    *,
    revision: str,
    images: Sequence[str],
    sync: str = "Synced",
    health: str = "Healthy",
    phase: str = "Succeeded",
    message: str = "successfully synced (all tasks run)",
    conditions: Sequence[Object] = (),
    resource: str = "",
) -> Object:
    """An Application as the API shows it. `phase` and `message` are those of the last operation;
    `resource` is the message of the one object, whose health is that of the Application.
    """
    source = {"repoURL": "https://git.example/deploy.git", "path": "envs/staging"}
    destination = {"server": "https://kubernetes.default.svc", "namespace": name}
    shown: Object = {"status": health, **({"message": resource} if resource else {})}
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Application",
        "metadata": {"name": name, "namespace": "argocd"},
        "spec": {"project": "default", "source": source, "destination": destination},
        "status": {
            "sync": {
                "status": sync,
                "revision": revision,
                "comparedTo": {"source": source, "destination": destination},
            },
            "health": {"status": health, "lastTransitionTime": AT},
            "summary": {"images": [*images]},
            "conditions": [*conditions],
            "resources": [
                {
                    "group": "apps",
                    "kind": "Deployment",
                    "name": name,
                    "version": "v1",
                    "status": sync,
                    "health": shown,
                }
            ],
            "operationState": {
                "operation": {"sync": {"revision": revision}},
                "phase": phase,
                "message": message,
                "startedAt": AT,
                **({} if phase == "Running" else {"finishedAt": AT}),
                "syncResult": {"revision": revision, "source": source},
            },
        },
    }


@dataclass
class ArgoCd:
    """The server. Whoever has a token may get Applications; `on_get` is called before one is
    shown, with its name and the kind of refresh that is asked for.
    """

    token: str
    url: str = ""
    applications: dict[str, Object] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    busy: int = 0
    on_get: Callable[[str, str], None] = lambda name, refresh: None

    def answer(self, target: str, authorization: str) -> tuple[int, Object]:
        parts = urlsplit(target)
        self.calls.append(target)
        if authorization != f"Bearer {self.token}":
            return 401, _problem(16, "no session information")
        if self.busy > 0:
            self.busy -= 1
            return 503, _problem(14, "the server is starting")
        name = unquote(parts.path.removeprefix("/api/v1/applications/"))
        self.on_get(name, parse_qs(parts.query).get("refresh", [""])[0])
        if name not in self.applications:
            return 403, _problem(7, "permission denied")
        return 200, self.applications[name]


def _problem(code: int, message: str) -> Object:
    return {"error": message, "code": code, "message": message}


@contextmanager
def argocd(token: str, tls: tuple[Path, Path] | None = None) -> Iterator[ArgoCd]:
    """A running server; `tls` is its certificate and key."""
    running = ArgoCd(token)

    def respond(request: ReceivedRequest) -> Reply:
        authorization = request.headers.get("authorization", "")
        return json_reply(*running.answer(request.target, authorization))

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if tls else None
    if context and tls:
        context.load_cert_chain(*tls)
    with serving(respond, context) as served:
        running.url = served.url
        yield running
