"""Webhook delivery: payload formats, ordered at-least-once delivery with back-off, and the API for
operators.

docker: `application/vnd.docker.distribution.events.v1+json`, as sent by docker-registry.
cloudevents: CloudEvents 1.0 in structured JSON mode. harbor: Harbor's default payload.
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
from typing import Any

from shipline.errors import Cancelled
from shipline.metadata import Records
from shipline.server.access import Sampler
from shipline.server.events import NodeEvent
from shipline.server.hooks.outbound import DeliveryFailed, DeliveryTarget, post
from shipline.server.hooks.queue import PendingDelivery, Queue
from shipline.server.hooks.section import WebhookSection
from shipline.server.http import Request, Response, Route, route
from shipline.server.problems import Problem
from shipline.tasks import TaskGroup, check, on_cancel
from shipline.units import rfc3339

_HARBOR = {
    "push": "PUSH_ARTIFACT",
    "pull": "PULL_ARTIFACT",
    "quota": "QUOTA_EXCEED",
    "ping": "PING",
}


def body_of(style: str, delivery_id: str, event: NodeEvent) -> tuple[str, bytes]:
    """Media type and body of a request; deterministic."""
    media_type, make = _STYLES[style]
    return media_type, json.dumps(make(delivery_id, event), separators=(",", ":")).encode()


def _docker(delivery_id: str, event: NodeEvent) -> dict[str, Any]:
    """One entry per tag, since the format allows only one each."""
    tags = event.tags or ("",)
    return {"events": [_docker_entry(delivery_id, event, tag) for tag in tags]}


def _docker_entry(delivery_id: str, event: NodeEvent, tag: str) -> dict[str, Any]:
    target: dict[str, Any] = {
        "mediaType": event.media_type,
        "size": event.size,
        "length": event.size,
        "digest": event.digest,
        "repository": event.repository,
        "tag": tag,
    }
    return {
        "id": f"{delivery_id}-{tag}" if tag else delivery_id,
        "timestamp": rfc3339(event.at, "microseconds"),
        "action": "delete" if event.kind == "untag" else event.kind,
        "target": {key: value for key, value in target.items() if value},
        "request": {"id": delivery_id, "addr": event.address},
        "actor": {"name": event.actor},
        "source": {},
    }


def _cloudevent(delivery_id: str, event: NodeEvent) -> dict[str, Any]:
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
        "id": delivery_id,
        "source": "/shipline/registry",
        "type": f"shipline.registry.{event.kind}",
        "subject": event.repository,
        "time": rfc3339(event.at, "microseconds"),
        "datacontenttype": "application/json",
        "data": {key: value for key, value in data.items() if value},
    }


def _harbor(delivery_id: str, event: NodeEvent) -> dict[str, Any]:
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


_STYLES: Mapping[str, tuple[str, Callable[[str, NodeEvent], dict[str, Any]]]] = {
    "docker": ("application/vnd.docker.distribution.events.v1+json", _docker),
    "cloudevents": ("application/cloudevents+json", _cloudevent),
    "harbor": ("application/json", _harbor),
}


_log = logging.getLogger(__name__)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 600.0


@dataclass(frozen=True, slots=True)
class WebhookReceiver:
    """A configured webhook, its key, and the event that wakes its sender thread."""

    section: WebhookSection
    secret: bytes
    wake: threading.Event

    def deliver(self, delivery: PendingDelivery) -> None:
        """One attempt. Raises DeliveryFailed."""
        media_type, body = body_of(self.section.format, delivery.delivery_id, delivery.event)
        headers = {
            "Content-Type": media_type,
            "User-Agent": "shipline-registry",
            "X-Shipline-Delivery": delivery.delivery_id,
            "X-Shipline-Event": delivery.event.kind,
        }
        if self.secret:
            headers["X-Hub-Signature-256"] = f"sha256={_signature(self.secret, body)}"
        target = DeliveryTarget.parse(self.section.url, self.section.allow)
        post(target, body, headers, self.section.timeout.seconds)


class Webhooks:
    """A Listener that queues events, and the threads that deliver them."""

    def __init__(
        self,
        records: Records,
        sections: tuple[WebhookSection, ...],
        *,
        environ: Mapping[str, str],
        on_attempt: Callable[[str, str], None] = lambda receiver, result: None,
        first_pause_s: float = _FIRST_PAUSE_S,
    ) -> None:
        """`on_attempt` gets a receiver's name and the result: delivered, failed or dead. Raises
        ConfigError for a missing secret.
        """
        self.queue = Queue(records)
        self._sampler = Sampler()
        self._on_attempt = on_attempt
        self._pause_s = first_pause_s
        self._receivers = tuple(
            WebhookReceiver(section, section.secret(environ), threading.Event())
            for section in sections
        )

    def on_event(self, event: NodeEvent) -> None:
        if self._receivers:
            for sampled in self._sampler.sample(event):
                self._put(sampled)

    def _put(self, event: NodeEvent) -> None:
        receivers = [receiver for receiver in self._receivers if receiver.section.matches(event)]
        if not receivers:
            return
        self.queue.put([receiver.section.name for receiver in receivers], event)
        for receiver in receivers:
            receiver.wake.set()

    def start(self, group: TaskGroup) -> None:
        """Start delivering; ends with the group's scope."""
        for receiver in self._receivers:
            group.start(self._send_all, receiver)

    @property
    def receivers(self) -> dict[str, str]:
        """Receivers' URLs by name."""
        return {receiver.section.name: receiver.section.url for receiver in self._receivers}

    def redeliver(self, receiver: str) -> int:
        """Retry given-up events; returns their number."""
        number = self.queue.redeliver(receiver)
        for known in self._receivers:
            known.wake.set()
        return number

    def ping(self, receiver: str) -> None:
        """Send a test event once, past the queue. Raises DeliveryFailed."""
        event = NodeEvent("ping", message="a test of this webhook")
        for known in self._receivers:
            if known.section.name == receiver:
                known.deliver(PendingDelivery("", str(uuid.uuid4()), event))

    def depths(self) -> dict[tuple[str, ...], float]:
        """The number of waiting events per receiver."""
        return {
            (receiver.section.name,): float(self.queue.depth(receiver.section.name))
            for receiver in self._receivers
        }

    def _send_all(self, receiver: WebhookReceiver) -> None:
        failures = 0
        try:
            while True:
                receiver.wake.clear()
                done = self._deliver_next(receiver)
                if done is None:
                    _wait(receiver.wake, None)
                    continue
                failures = 0 if done else min(failures + 1, 20)
                if failures:
                    pause = min(self._pause_s * 2 ** (failures - 1), _LONGEST_PAUSE_S)
                    _wait(threading.Event(), pause)
        except Cancelled:
            return

    def _deliver_next(self, receiver: WebhookReceiver) -> bool | None:
        """Try the next event: True if delivered or given up, None if there is none."""
        try:
            delivery = self.queue.first(receiver.section.name)
            return None if delivery is None else self._attempt(receiver, delivery)
        except OSError as failure:
            _log.error("webhook queue unavailable: %s", failure)
            return False

    def _attempt(self, receiver: WebhookReceiver, delivery: PendingDelivery) -> bool:
        """Whether the event was delivered or given up."""
        name = receiver.section.name
        try:
            receiver.deliver(delivery)
        except DeliveryFailed as failure:
            check()
            return self._failed(receiver, delivery, failure)
        self.queue.done(name, delivery)
        self._on_attempt(name, "delivered")
        return True

    def _failed(
        self, receiver: WebhookReceiver, delivery: PendingDelivery, failure: DeliveryFailed
    ) -> bool:
        name = receiver.section.name
        fields = {"webhook": name, "delivery": delivery.delivery_id}
        if time.time() - delivery.event.at < receiver.section.keep.seconds:
            self._on_attempt(name, "failed")
            _log.warning("webhook delivery failed: %s", failure.message, extra=fields)
            return False
        self.queue.give_up(name, delivery, failure.message)
        self._on_attempt(name, "dead")
        _log.error("webhook delivery given up: %s", failure.message, extra=fields)
        return True


def _signature(secret: bytes, body: bytes) -> str:
    return hmac.new(secret, body, hashlib.sha256).hexdigest()


def _wait(event: threading.Event, seconds: float | None) -> None:
    """Wait for the event. Raises Cancelled once the scope is cancelled."""
    with on_cancel(event.set):
        event.wait(seconds)
    check()


_SHOWN = 100  # given-up events of one receiver
_JSON = [("Content-Type", "application/json")]


def hook_routes(hooks: Webhooks) -> tuple[Route, ...]:
    """/api/webhooks, and /api/webhooks/NAME/redeliver and /test."""

    def show(request: Request) -> Response:
        described = [_described(hooks, name) for name in hooks.receivers]
        return Response.of(200, _JSON, json.dumps(described).encode())

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
            raise Problem(404, "UNSUPPORTED", f"no webhook receiver {name}; configured: {known}")

    return (
        route("/api/webhooks", requires="operator", GET=show),
        route("/api/webhooks/(?P<name>[^/]+)/redeliver", requires="operator", POST=redeliver),
        route("/api/webhooks/(?P<name>[^/]+)/test", requires="operator", POST=ping),
    )


def _described(hooks: Webhooks, name: str) -> dict[str, Any]:
    dead = hooks.queue.dead(name)
    return {
        "name": name,
        "url": hooks.receivers[name],
        "waiting": hooks.queue.depth(name),
        "given_up": len(dead),
        "events": [
            {"id": delivery.delivery_id, "reason": reason, **asdict(delivery.event)}
            for delivery, reason in dead[:_SHOWN]
        ],
    }
