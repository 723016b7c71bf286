"""Telling receivers: in order, at least once, with patience that grows and ends."""

from __future__ import annotations

import hashlib
import hmac
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shipline.errors import Cancelled
from shipline.metadata import Records
from shipline.server.access import Sampler
from shipline.server.hooks.envelope import body_of
from shipline.server.hooks.outbound import Target, Undelivered, post
from shipline.server.hooks.queue import Queue, Waiting
from shipline.server.hooks.section import WebhookSection
from shipline.server.journal import Event
from shipline.tasks import TaskGroup, check, on_cancel

_log = logging.getLogger(__name__)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 600.0


@dataclass(frozen=True, slots=True)
class Receiver:
    """A configured webhook with its key, and the event that wakes its sender."""

    section: WebhookSection
    secret: bytes
    wake: threading.Event

    def deliver(self, waiting: Waiting) -> None:
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
        target = Target.parse(self.section.url, self.section.allow)
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

    def note(self, event: Event) -> None:
        if self._receivers:
            for one in self._sampler.take(event):
                self._put(one)

    def _put(self, event: Event) -> None:
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
        event = Event("ping", message="a test of this webhook")
        for one in self._receivers:
            if one.section.name == receiver:
                one.deliver(Waiting("", str(uuid.uuid4()), event))

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

    def _attempt(self, receiver: Receiver, waiting: Waiting) -> bool:
        """Whether the event is out of the way, delivered or given up."""
        name = receiver.section.name
        try:
            receiver.deliver(waiting)
        except Undelivered as failure:
            check()
            return self._failed(receiver, waiting, failure)
        self.queue.done(name, waiting)
        self._sent(name, "delivered")
        return True

    def _failed(self, receiver: Receiver, waiting: Waiting, failure: Undelivered) -> bool:
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
