"""Webhooks delivered: bodies as receivers expect them, in order, at least once, with back-off; and
what operators ask about them.

docker: `application/vnd.docker.distribution.events.v1+json`, as docker-registry sends it.
cloudevents: CloudEvents 1.0 in structured JSON mode. harbor: the default payload of Harbor.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from shipline.errors import Cancelled
from shipline.metadata import Records
from shipline.server.access import Sampler
from shipline.server.hooks.outbound import DeliveryFailed, DeliveryTarget, post
from shipline.server.hooks.queue import PendingDelivery, Queue
from shipline.server.hooks.section import WebhookSection
from shipline.server.http import Request, Response, Route, route
from shipline.server.journal import NodeEvent
from shipline.server.problems import Problem
from shipline.tasks import TaskGroup, check, on_cancel

_HARBOR = {
    "push": "PUSH_ARTIFACT",
    "pull": "PULL_ARTIFACT",
    "quota": "QUOTA_EXCEED",
    "ping": "PING",
}


def body_of(style: str, identity: str, event: NodeEvent) -> tuple[str, bytes]:
    """Media type and content. The same event always gives the same bytes."""
    media_type, make = _STYLES[style]
    return media_type, json.dumps(make(identity, event), separators=(",", ":")).encode()


def _docker(identity: str, event: NodeEvent) -> dict[str, Any]:
    """One entry for each tag: the format has room for one."""
    tags = event.tags or ("",)
    return {"events": [_docker_entry(identity, event, tag) for tag in tags]}


def _docker_entry(identity: str, event: NodeEvent, tag: str) -> dict[str, Any]:
    target: dict[str, Any] = {
        "mediaType": event.media_type,
        "size": event.size,
        "length": event.size,
        "digest": event.digest,
        "repository": event.repository,
        "tag": tag,
    }
    return {
        "id": f"{identity}-{tag}" if tag else identity,
        "timestamp": _time(event),
        "action": "delete" if event.kind == "untag" else event.kind,
        "target": {key: value for key, value in target.items() if value},
        "request": {"id": identity, "addr": event.address},
        "actor": {"name": event.actor},
        "source": {},
    }


def _cloudevent(identity: str, event: NodeEvent) -> dict[str, Any]:
    data = {
        "repository": event.repository,
        "digest": event.digest,
        "tags": list(event.tags),
        "mediaType": event.media_type,
        "size": event.size,
        "actor": event.actor,
        "address": event.address,
        "message": event.message,
    }
    return {
        "specversion": "1.0",
        "id": identity,
        "source": "/shipline/registry",
        "type": f"shipline.registry.{event.kind}",
        "subject": event.repository,
        "time": _time(event),
        "datacontenttype": "application/json",
        "data": {key: value for key, value in data.items() if value},
    }


def _harbor(identity: str, event: NodeEvent) -> dict[str, Any]:
    namespace, _, name = event.repository.partition("/")
    resources = [{"digest": event.digest, "tag": tag} for tag in event.tags or ("",)]
    return {
        "type": _HARBOR.get(event.kind, "DELETE_ARTIFACT"),
        "occur_at": int(event.at),
        "operator": event.actor,
        "event_data": {
            "resources": [{k: v for k, v in each.items() if v} for each in resources],
            "repository": {
                "namespace": namespace,
                "name": name or namespace,
                "repo_full_name": event.repository,
            },
        },
    }


def _time(event: NodeEvent) -> str:
    at = datetime.fromtimestamp(event.at, UTC)
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


_STYLES: Mapping[str, tuple[str, Callable[[str, NodeEvent], dict[str, Any]]]] = {
    "docker": ("application/vnd.docker.distribution.events.v1+json", _docker),
    "cloudevents": ("application/cloudevents+json", _cloudevent),
    "harbor": ("application/json", _harbor),
}


_log = logging.getLogger(__name__)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 600.0


@dataclass(frozen=True, slots=True)
class Receiver:
    """A configured webhook with its key, and the event that wakes its sender."""

    section: WebhookSection
    secret: bytes
    wake: threading.Event

    def deliver(self, waiting: PendingDelivery) -> None:
        """One attempt. Raises Undelivered."""
        media_type, body = body_of(self.section.format, waiting.identity, waiting.event)
        headers = {
            "Content-Type": media_type,
            "User-Agent": "shipline-registry",
            "X-Shipline-Delivery": waiting.identity,
            "X-Shipline-Event": waiting.event.kind,
        }
        if self.secret:
            headers["X-Hub-Signature-256"] = f"sha256={_signature(self.secret, body)}"
        target = DeliveryTarget.parse(self.section.url, self.section.allow)
        post(target, body, headers, self.section.timeout.seconds)


class Webhooks:
    """A Listener that lets events wait, and the threads that send them."""

    def __init__(
        self,
        records: Records,
        sections: tuple[WebhookSection, ...],
        *,
        environ: Mapping[str, str],
        sent: Callable[[str, str], None] = lambda receiver, result: None,
        first_pause_s: float = _FIRST_PAUSE_S,
    ) -> None:
        """`sent` is told the result of each attempt: delivered, failed or dead. Raises ConfigError
        for a secret that cannot be had.
        """
        self.queue = Queue(records)
        self._sampler = Sampler()
        self._sent = sent
        self._pause_s = first_pause_s
        self._receivers = tuple(
            Receiver(section, section.secret(environ), threading.Event()) for section in sections
        )

    def note(self, event: NodeEvent) -> None:
        if self._receivers:
            for one in self._sampler.take(event):
                self._put(one)

    def _put(self, event: NodeEvent) -> None:
        wanting = [one for one in self._receivers if one.section.wants(event)]
        if not wanting:
            return
        self.queue.put([one.section.name for one in wanting], event)
        for one in wanting:
            one.wake.set()

    def start(self, group: TaskGroup) -> None:
        """Begin to send, until the group's scope is cancelled."""
        for receiver in self._receivers:
            group.start(self._send_all, receiver)

    @property
    def receivers(self) -> dict[str, str]:
        """The URL of each receiver, by its name."""
        return {one.section.name: one.section.url for one in self._receivers}

    def redeliver(self, receiver: str) -> int:
        """Send what was given up once more; returns the number of events."""
        number = self.queue.redeliver(receiver)
        for one in self._receivers:
            one.wake.set()
        return number

    def ping(self, receiver: str) -> None:
        """Send an event that means nothing, once, past the queue. Raises Undelivered."""
        event = NodeEvent("ping", message="a test of this webhook")
        for one in self._receivers:
            if one.section.name == receiver:
                one.deliver(PendingDelivery("", str(uuid.uuid4()), event))

    def depths(self) -> dict[tuple[str, ...], float]:
        """How many events wait for each receiver."""
        return {
            (one.section.name,): float(self.queue.depth(one.section.name))
            for one in self._receivers
        }

    def _send_all(self, receiver: Receiver) -> None:
        failures = 0
        try:
            while True:
                receiver.wake.clear()
                done = self._step(receiver)
                if done is None:
                    _wait(receiver.wake, None)
                    continue
                failures = 0 if done else min(failures + 1, 20)
                if failures:
                    pause = min(self._pause_s * 2 ** (failures - 1), _LONGEST_PAUSE_S)
                    _wait(threading.Event(), pause)
        except Cancelled:
            return

    def _step(self, receiver: Receiver) -> bool | None:
        """Whether the next event is out of the way; None where there is none."""
        try:
            waiting = self.queue.first(receiver.section.name)
            return None if waiting is None else self._attempt(receiver, waiting)
        except OSError as failure:
            _log.error("webhooks cannot use the metadata: %s", failure)
            return False

    def _attempt(self, receiver: Receiver, waiting: PendingDelivery) -> bool:
        """Whether the event is out of the way, delivered or given up."""
        name = receiver.section.name
        try:
            receiver.deliver(waiting)
        except DeliveryFailed as failure:
            check()
            return self._failed(receiver, waiting, failure)
        self.queue.done(name, waiting)
        self._sent(name, "delivered")
        return True

    def _failed(
        self, receiver: Receiver, waiting: PendingDelivery, failure: DeliveryFailed
    ) -> bool:
        name = receiver.section.name
        fields = {"webhook": name, "delivery": waiting.identity}
        if time.time() - waiting.event.at < receiver.section.keep.seconds:
            self._sent(name, "failed")
            _log.warning("webhook failed: %s", failure.message, extra=fields)
            return False
        self.queue.give_up(name, waiting, failure.message)
        self._sent(name, "dead")
        _log.error("webhook given up: %s", failure.message, extra=fields)
        return True


def _signature(secret: bytes, body: bytes) -> str:
    return hmac.new(secret, body, hashlib.sha256).hexdigest()


def _wait(event: threading.Event, seconds: float | None) -> None:
    """Raises Cancelled as soon as the thread's scope is cancelled."""
    with on_cancel(event.set):
        event.wait(seconds)
    check()


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
        except DeliveryFailed as failure:
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
