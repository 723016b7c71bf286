"""Connections through a proxy to servers with TLS, by urllib3: the proxy may speak TLS itself.

Imports urllib3, so import it when the first such connection is made.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping
from typing import Any

import urllib3.connection
from urllib3.connection import ProxyConfig
from urllib3.util import parse_url

from shipline.registry.request import Origin
from shipline.registry.response import MalformedResponse, NoResponse
from shipline.registry.transport import InterruptibleConnection


class TunnelConnection(InterruptibleConnection, urllib3.connection.HTTPSConnection):  # type: ignore[misc]
    """With TLS, over a connection that the proxy has made."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        urllib3.connection.HTTPSConnection.__init__(self, *args, **kwargs)

    def connect(self) -> None:
        try:
            urllib3.connection.HTTPSConnection.connect(self)
        except http.client.RemoteDisconnected as error:
            raise NoResponse(str(error)) from error
        except http.client.HTTPException as error:
            raise MalformedResponse(str(error)) from error


def open_tunnel(
    proxy: Origin,
    headers: Mapping[str, str],
    origin: Origin,
    context: ssl.SSLContext,
    proxy_context: ssl.SSLContext,
) -> TunnelConnection:
    """A connection to `origin`, to be connected by its method; `headers` are for the proxy."""
    tunnel = TunnelConnection(
        proxy.host,
        proxy.port,
        ssl_context=context,
        proxy=parse_url(str(proxy)),
        proxy_config=ProxyConfig(proxy_context, False, None, None),
    )
    tunnel.set_tunnel(origin.host, origin.port, headers, scheme=proxy.scheme)
    return tunnel
