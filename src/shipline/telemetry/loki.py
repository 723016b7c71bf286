"""Loki's push API: few labels, the rest as structured metadata.

https://grafana.com/docs/loki/latest/reference/loki-http-api/#ingest-logs
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping, Sequence
from typing import Self
from urllib.parse import unquote, urlsplit

import msgspec

from shipline.errors import ConfigError, ShiplineError
from shipline.events import Event
from shipline.registry import NoKeychain, settings_from
from shipline.registry.credentials import Credentials
from shipline.registry.http import HttpClient
from shipline.registry.request import ClientRequest, Url
from shipline.telemetry.conventions import SEVERITIES, LogEntry, RunLog, TracedRun
from shipline.values import Redacted, replace

VARIABLE = "SHIPLINE_LOKI"
_PUSH = "/loki/api/v1/push"
_TIMEOUT_S = 5.0
_REFUSED = (400, 422)
"""Statuses for entries that Loki will never take: too old, too long, no structured metadata."""


class LokiServer(Redacted, frozen=True):
    """Where to push, with headers that hold the credentials."""

    hidden = frozenset({"headers"})

    url: Url
    headers: Mapping[str, str]

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Self:
        """SHIPLINE_LOKI is the URL of the server, or of its push API; the login is in it, or in
        SHIPLINE_LOKI_USER and SHIPLINE_LOKI_PASSWORD; SHIPLINE_LOKI_TENANT is X-Scope-OrgID.
        Raises ConfigError, which does not show the URL.
        """
        try:
            parts = urlsplit(environ[VARIABLE].strip())
            where = parts.netloc.rpartition("@")[2]
            path = parts.path if parts.path.endswith("/push") else parts.path.rstrip("/") + _PUSH
            url = Url.parse(f"{parts.scheme}://{where}{path}")
        except (ValueError, ShiplineError):
            raise ConfigError(
                f"{VARIABLE} is not the URL of a server",
                code="telemetry-loki",
                hint="use http://HOST:3100 or https://USER:PASSWORD@HOST",
            ) from None
        user = unquote(parts.username or "") or environ.get(f"{VARIABLE}_USER", "")
        password = unquote(parts.password or "") or environ.get(f"{VARIABLE}_PASSWORD", "")
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        if user or password:
            headers["Authorization"] = Credentials(user, password).basic
        if tenant := environ.get(f"{VARIABLE}_TENANT", ""):
            headers["X-Scope-OrgID"] = tenant
        return cls(url, headers)


class LokiSource:
    """The log entries of a run."""

    def __init__(self, run: TracedRun, environ: Mapping[str, str]) -> None:
        self._run = run
        self._server = LokiServer.read(environ)
        self._log = RunLog()
        self._common: dict[tuple[int, str], dict[str, str]] = {}
        settings = replace(settings_from(environ), connect_s=_TIMEOUT_S, read_s=_TIMEOUT_S)
        self._http = HttpClient(settings, NoKeychain(), tries=1)

    def take(self, event: Event) -> Iterator[LogEntry]:
        return self._log.entries(event)

    def send(self, records: Sequence[LogEntry]) -> Iterator[int]:
        """Push; what Loki refuses for good is dropped. Raises RegistryError."""
        body = msgspec.json.encode({"streams": list(self._streams(records))})
        packed = gzip.compress(body, 1)
        request = ClientRequest("POST", self._server.url, self._server.headers, packed)
        self._http.call(
            request, expect=(200, 204, *_REFUSED), operation="pushing logs", redirects=0
        ).close()
        yield len(records)

    def close(self) -> None:
        self._http.close()

    def _streams(self, entries: Sequence[LogEntry]) -> Iterator[dict[str, object]]:
        """One for each level: a label with many values would be a stream for each of them."""
        for severity, level in SEVERITIES.items():
            values = [
                [str(one.at), one.text, self._metadata(one)]
                for one in entries
                if one.severity == severity
            ]
            if values:
                labels = {
                    "service_name": "shipline",
                    "kind": self._run.kind,
                    "level": level.lower(),
                }
                yield {"stream": labels, "values": values}

    def _metadata(self, entry: LogEntry) -> dict[str, str]:
        """What all entries of a step have in common that are of the same stream."""
        key = (entry.span, entry.stream)
        if (found := self._common.get(key)) is None:
            span = self._run.span(entry.span)
            facts = {
                "run": self._run.run,
                "pipeline": self._run.pipeline,
                "step": entry.step,
                "stream": entry.stream,
                "trace_id": span.trace_id if span else "",
                "span_id": span.span_id if span else "",
            }
            found = self._common[key] = {name: text for name, text in facts.items() if text}
        return found
