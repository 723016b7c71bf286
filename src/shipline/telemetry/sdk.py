"""OpenTelemetry's SDK: its exporters and its resource, as its variables say. Loaded only when they
ask for something; nothing else imports the packages at its start.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from shipline import __version__
from shipline.errors import ConfigError
from shipline.telemetry.variables import Signal, exporters, protocol

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

_PROTOCOLS = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}
_ANSWER_LIMIT = 1 << 16  # bytes
_CREDENTIALS = "_CREDENTIAL_PROVIDER"


def check_installed() -> None:
    """Raises ConfigError without the SDK."""
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.sdk") is None:
        raise ConfigError(
            "the environment asks for OpenTelemetry, whose SDK is not installed",
            code="telemetry-missing",
            hint="pip install 'shipline[otel]', or unset OTEL_EXPORTER_OTLP_ENDPOINT and"
            " OTEL_*_EXPORTER",
        )


def load_exporters(signal: Signal, environ: Mapping[str, str]) -> list[Any]:
    """The exporters of a signal that `environ` asks for; they read their own variables from the
    environment of the process. What the SDK logs, such as each attempt, is not shown.

    Raises ConfigError for one that is not installed.
    """
    logger = logging.getLogger("opentelemetry")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return [_load(signal, name, environ) for name in exporters(signal, environ)]


def _load(signal: Signal, asked: str, environ: Mapping[str, str]) -> Any:
    name = asked
    if asked == "otlp":
        spoken = protocol(signal, environ)
        if spoken not in _PROTOCOLS:
            raise ConfigError(
                f"OTEL_EXPORTER_OTLP_PROTOCOL: {spoken} is not supported",
                code="telemetry-exporter",
                hint=f"use {' or '.join(_PROTOCOLS)}",
            )
        name = _PROTOCOLS[spoken]
    found = [*entry_points(group=f"opentelemetry_{signal}_exporter", name=name)]
    if not found:
        raise ConfigError(
            f"OTEL_{signal.upper()}_EXPORTER: the exporter {asked} is not installed",
            code="telemetry-missing",
            hint="pip install 'shipline[otel]'",
        )
    try:
        return found[0].load()(**_options(name, environ))
    except Exception as error:  # of its configuration; a plugin may raise anything
        raise ConfigError(
            f"the exporter {asked} cannot be used: {error}", code="telemetry-exporter"
        ) from error


def _options(name: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """A session of ours for HTTP, unless the environment names one with credentials: the SDK takes
    a redirect, which it does not follow, for a success, and reads answers of any size. Its older
    versions send headers with secrets to where a redirect leads.
    """
    if name != _PROTOCOLS["http/protobuf"] or any(one.endswith(_CREDENTIALS) for one in environ):
        return {}
    import requests

    class Session(requests.Session):
        def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
            options |= {"stream": True, "allow_redirects": False}
            response = super().send(request, **options)
            if len(response.raw.read(_ANSWER_LIMIT)) == _ANSWER_LIMIT:  # of which nothing is used
                response.close()
            if 300 <= response.status_code < 400:
                raise requests.TooManyRedirects("a receiver must answer itself")
            return response

    return {"session": Session()}


def resource(environ: Mapping[str, str]) -> Resource:
    """What exports: OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME, the service shipline if they
    name none.
    """
    from opentelemetry.sdk.resources import Resource

    own = {"service.name": "shipline", "service.version": __version__}
    said = environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    names = {pair.partition("=")[0].strip() for pair in said.split(",")}
    if environ.get("OTEL_SERVICE_NAME"):
        names.add("service.name")
    return Resource.create({name: text for name, text in own.items() if name not in names})
