"""How far a server's word may lead: token realms, redirects, upload Locations, Links.

A realm sees credentials, so it must be the registry's own host, be named in the settings, or have
been announced by the registry itself over https, and be on the Internet unless the registry is
not. Other leads never carry credentials; they must not go to link-local addresses, where clouds
keep their secrets.
"""

from __future__ import annotations

import enum

from shipline.errors import AuthError
from shipline.net import is_link_local, is_loopback, is_public, read_address
from shipline.registry.hosts import Endpoint, HostSettings
from shipline.registry.origin import Origin, Url


class Reach(enum.Enum):
    """Which addresses a request may be made to."""

    ANYWHERE = enum.auto()
    NOT_LINK_LOCAL = enum.auto()
    PUBLIC = enum.auto()

    def allows(self, address: str) -> bool:
        if self is Reach.ANYWHERE:
            return True
        found = read_address(address)
        if found is None:
            return False
        return is_public(found) if self is Reach.PUBLIC else not is_link_local(found)


def reach_of_realm(
    settings: HostSettings, endpoint: Endpoint, realm: Url, *, internet: bool
) -> Reach:
    """Where a token may be asked for; `internet` tells whether the registry is on it.

    Raises AuthError if nothing may be asked at `realm` at all.
    """
    registry, host = endpoint.origin, endpoint.host
    if registry.scheme == "https" and realm.origin.scheme != "https":
        raise _distrust(realm, host, "it is not https, and the registry is")
    listed = settings.token_hosts.get(host, ())
    if realm.origin.host == registry.host or realm.origin.authority in listed:
        return Reach.ANYWHERE
    if settings.strict:
        raise _distrust(realm, host, "only the registry's own host and listed ones are")
    if registry.scheme == "http" and not is_loopback(registry.host):
        raise _distrust(realm, host, "anyone on the way could have named it over plain http")
    return Reach.PUBLIC if internet else Reach.NOT_LINK_LOCAL


def reach_of_lead(settings: HostSettings, url: Url, origin: Origin, *, internet: bool) -> Reach:
    """Where a request may go that the registry at `origin` sends us to make."""
    if url.origin.host == origin.host:
        return Reach.ANYWHERE
    return Reach.PUBLIC if settings.strict and internet else Reach.NOT_LINK_LOCAL


def _distrust(realm: Url, host: str, reason: str) -> AuthError:
    return AuthError(
        f"{host} sends its clients to {realm.origin} for a token, which is not trusted: {reason}",
        host=host,
        hint="if it is right, list that host among the token hosts of the registry",
    )
