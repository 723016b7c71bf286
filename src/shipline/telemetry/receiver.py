"""Receivers of OTLP, over HTTP or gRPC, as OpenTelemetry's variables name them.

https://opentelemetry.io/docs/specs/otel/protocol/exporter/; a redirect is a failure: headers may
hold credentials.
"""

from __future__ import annotations

import gzip
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from shipline.errors import BuilderError, ConfigError, ShiplineError
from shipline.registry import NoKeychain, settings_from
from shipline.registry.errors import clean
from shipline.registry.http import HttpClient
from shipline.registry.request import ClientRequest, Url
from shipline.tasks import time_limit
from shipline.telemetry.otlp_messages import requests, resource_attributes
from shipline.telemetry.variables import Signal, positive, protocol, read_headers
from shipline.values import Redacted, replace

_log = logging.getLogger(__name__)
_TIMEOUT_MS = 10_000
_TRIES = 3
_REFUSED = (400, 413)
"""Statuses for what a receiver will never take."""
_INVALID_ARGUMENT = 3  # the same in gRPC
_ENDPOINTS = {"http/protobuf": "http://localhost:4318", "grpc": "http://localhost:4317"}
_METHODS: Mapping[Signal, str] = {
    "traces": "trace.v1.TraceService/Export",
    "logs": "logs.v1.LogsService/Export",
    "metrics": "metrics.v1.MetricsService/Export",
}


class ExportFailed(ShiplineError):
    """Telemetry was not delivered."""

    code = "telemetry"


class ReceiverSettings(Redacted, frozen=True):
    """Where a signal goes, with headers that may hold credentials."""

    hidden = frozenset({"headers"})

    protocol: str
    endpoint: str
    headers: Mapping[str, str]
    timeout_s: float
    compressed: bool = False
    ca: str = ""
    certificate: str = ""
    key: str = ""

    @classmethod
    def read(cls, signal: Signal, environ: Mapping[str, str]) -> Self:
        def value(name: str) -> str:
            own = environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}", "").strip()
            return own or environ.get(f"OTEL_EXPORTER_OTLP_{name}", "").strip()

        spoken = protocol(signal, environ)
        endpoint = environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", "").strip()
        if not endpoint:
            endpoint = value("ENDPOINT") or _ENDPOINTS[spoken]
            if spoken != "grpc":
                endpoint = f"{endpoint.rstrip('/')}/v1/{signal}"
        if spoken == "grpc" and "://" not in endpoint:
            plain = value("INSECURE").lower() == "true"
            endpoint = f"{'http' if plain else 'https'}://{endpoint}"
        timeout_ms = positive("", {"": value("TIMEOUT")}, _TIMEOUT_MS)
        return cls(
            spoken,
            endpoint,
            read_headers(value("HEADERS"))[0],
            timeout_ms / 1000,
            value("COMPRESSION").lower() == "gzip",
            value("CERTIFICATE"),
            value("CLIENT_CERTIFICATE"),
            value("CLIENT_KEY"),
        )


class OtlpReceiver:
    """The receiver of a signal. Safe to use from any thread."""

    def __init__(
        self,
        signal: Signal,
        environ: Mapping[str, str],
        instance: str = "",
        service: str = "shipline",
    ) -> None:
        """What is sent is of `instance` of `service`. Raises ConfigError if `environ` names no
        server.
        """
        self._signal = signal
        self._resource = resource_attributes(environ, instance, service)
        self._settings = own = ReceiverSettings.read(signal, environ)
        try:
            self._url = Url.parse(own.endpoint)
        except ShiplineError:
            raise ConfigError(
                f"OTEL_EXPORTER_OTLP_ENDPOINT: the address for {signal} is not a URL of a server",
                code="telemetry-exporter",
                hint="use http://HOST:4318; credentials belong into OTEL_EXPORTER_OTLP_HEADERS",
            ) from None
        settings = settings_from(environ, ca=[Path(own.ca)] if own.ca else [])
        settings = replace(
            settings,
            connect_s=own.timeout_s,
            read_s=own.timeout_s,
            client_certificate=Path(own.certificate) if own.certificate else None,
            client_key=Path(own.key or own.certificate) if own.certificate else None,
        )
        self._http = HttpClient(settings, NoKeychain(), tries=_TRIES)
        self._refused = False  # the last request

    def send(self, records: Sequence[bytes]) -> Iterator[int]:
        """Export encoded records in several requests; yields the number of records after each one
        that is done, as it was taken or refused for good. Raises ShiplineError.
        """
        for request, size in requests(records, self._resource):
            refusal = (
                self._call(request) if self._settings.protocol == "grpc" else self._post(request)
            )
            if refusal and not self._refused:
                _log.warning("%s were refused, and are dropped: %s", self._signal, refusal)
            self._refused = bool(refusal)
            yield size

    def close(self) -> None:
        self._http.close()

    def _post(self, body: bytes) -> str:
        """Why the receiver will never take it, or "". Raises ShiplineError."""
        headers = {**self._settings.headers, "Content-Type": "application/x-protobuf"}
        if self._settings.compressed:
            body = gzip.compress(body, 1)
            headers["Content-Encoding"] = "gzip"
        response = self._http.call(
            ClientRequest("POST", self._url, headers, body),
            expect=(200, 202, 204, *_REFUSED),
            operation="sending telemetry",
            redirects=0,
        )
        response.close()
        status = response.status
        return f"{self._url.origin.authority}: status {status}" if status in _REFUSED else ""

    def _call(self, request: bytes) -> str:
        """The same on a connection of its own: there is a call every few seconds."""
        from shipline.buildkit.connecting import TlsFiles, open_socket
        from shipline.grpc.connection import RpcError, connected

        own, origin = self._settings, self._url.origin
        path = f"/opentelemetry.proto.collector.{_METHODS[self._signal]}"
        tls = TlsFiles(own.ca, own.certificate, own.key) if origin.scheme == "https" else None
        metadata = {name: [value] for name, value in own.headers.items()}
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        where = urlsplit(f"tcp://{host}:{origin.port}")
        try:
            with (
                time_limit(own.timeout_s),
                open_socket(where, tls, own.timeout_s) as pipe,
                connected(pipe, authority=origin.authority) as connection,
            ):
                call = connection.call(path, metadata)
                call.send(request)
                call.end()
                for _ in call:
                    pass
            return ""
        except BuilderError:
            raise ExportFailed(
                f"{origin.authority}: the certificates cannot be used",
                hint="check the files of OTEL_EXPORTER_OTLP_CERTIFICATE, _CLIENT_KEY and"
                " _CLIENT_CERTIFICATE",
            ) from None
        except (OSError, RpcError) as error:
            message = f"{origin.authority}: {clean(str(error))}"
            if isinstance(error, RpcError) and error.code == _INVALID_ARGUMENT:
                return message
            raise ExportFailed(message) from None
