"""urllib3's connections, to checked addresses only, and such that every wait can be interrupted.

Imports urllib3: import it when the first request is made.
"""

from __future__ import annotations

import errno
import http.client
import socket
import types
from collections.abc import Mapping
from contextlib import suppress

import urllib3.connection
import urllib3.exceptions as foreign

from shipline.errors import RegistryError
from shipline.registry.reach import Reach
from shipline.tasks import on_cancel

CONNECT_S = 10.0


class Interruptible(urllib3.connection.HTTPConnection):
    """Connects to checked addresses only, and can be broken off by another thread."""

    reach = Reach.ANYWHERE
    login: Mapping[str, str] = types.MappingProxyType({})  # for a proxy that forwards
    _lifeline: socket.socket | None = None  # the same connection, whatever TLS does to `sock`

    def _new_conn(self) -> socket.socket:
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as error:
            resolution = (
                error if isinstance(error, socket.gaierror) else socket.gaierror(str(error))
            )
            raise foreign.NameResolutionError(self.host, self, resolution) from error
        last: OSError | None = None
        for family, kind, protocol, _, address in found:
            if not self.reach.allows(str(address[0])):
                raise refused(self.host, str(address[0]))
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(CONNECT_S)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with on_cancel(lambda sock=sock: _shut(sock)):  # type: ignore[misc]
                    sock.connect(address)
            except OSError as error:
                sock.close()
                last = error
                continue
            except BaseException:
                sock.close()
                raise
            self._lifeline = sock.dup()
            return sock
        raise last or OSError(errno.EADDRNOTAVAIL, "the name has no address")

    def abort(self) -> None:
        """Wake whoever waits on this connection. Any thread may call it."""
        lifeline = self._lifeline
        if lifeline is not None:
            _shut(lifeline)

    def answer(self) -> http.client.HTTPResponse:
        return http.client.HTTPConnection.getresponse(self)

    def end(self) -> None:
        """Close. `close` alone is also called before a body is read that ends the connection."""
        self.close()
        if self._lifeline is not None:
            self._lifeline.close()
            self._lifeline = None


class Plain(Interruptible):
    """Without TLS."""


class Secure(Interruptible, urllib3.connection.HTTPSConnection):
    """With TLS."""


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def refused(host: str, address: str) -> RegistryError:
    return RegistryError(
        f"refused to follow a registry's word to {host} ({address})",
        host=host,
        hint="the address is internal; if it is meant, name the host in the settings",
    )
