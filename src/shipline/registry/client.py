"""The registry client: what lives as long as a command does."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from types import TracebackType
from typing import Self

from shipline.oci import Reference
from shipline.registry.channel import Channel
from shipline.registry.credentials import Keychain, NoKeychain
from shipline.registry.hosts import HostSettings
from shipline.registry.http import TRIES, Caller, HttpClient
from shipline.registry.origin import Url
from shipline.registry.repository import RemoteRepository
from shipline.registry.request import Request

_DOCUMENT = 256 << 20  # bytes of what `ask` is told


class Client:
    """Connections, tokens and credentials for many registries at once.

    Safe to use from any thread; leaving the block closes what is kept open. `at_once` bounds the
    blobs read, the blobs written and the other requests, each, per host. A thread that keeps more
    readers open than that at one host waits for itself.
    """

    def __init__(
        self,
        settings: HostSettings | None = None,
        keychain: Keychain | None = None,
        *,
        at_once: int = 8,
        tries: int = TRIES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings or HostSettings()
        self._gate = HttpClient(
            self.settings, keychain or NoKeychain(), at_once=at_once, tries=tries, clock=clock
        )

    def repository(self, reference: Reference) -> RemoteRepository:
        """The repository of `reference`, whose tag and digest do not matter. No request is made."""
        endpoints = self.settings.endpoints(reference.host)
        channels = tuple(Channel(self._gate, one, reference.repository) for one in endpoints)
        return RemoteRepository(reference.host, reference.repository, channels)

    def check(self, host: str) -> None:
        """Knock at a registry's door with the credentials for it. Raises AuthError if they are
        refused; a registry that lets everyone in accepts any.
        """
        endpoint = self.settings.endpoint(host)
        request = Request("GET", Url(endpoint.origin, "/v2/"))
        caller = Caller(endpoint, "", ())
        self._gate.call(request, expect={200}, doing="logging in", caller=caller).close()

    def ask(self, host: str, method: str, path: str, body: bytes = b"") -> bytes:
        """What a registry says below its own API, outside of the distribution specification; the
        body is JSON. Raises AuthError, RegistryError.
        """
        endpoint = self.settings.endpoint(host)
        headers = {"Content-Type": "application/json"} if body else {}
        request = Request(method, Url(endpoint.origin, path), headers, body)
        caller = Caller(endpoint, "", ())
        doing = f"{method} {path}"
        answer = self._gate.call(request, expect={200, 202}, doing=doing, caller=caller)
        with closing(answer):
            return answer.content(_DOCUMENT)

    def close(self) -> None:
        self._gate.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
