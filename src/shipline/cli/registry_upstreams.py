"""The upstreams of a registry node, over the registry client."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing

from shipline.content import Reader
from shipline.oci import Descriptor, Digest, Reference, media
from shipline.registry import (
    Client,
    Credentials,
    Keychain,
    RemoteRepository,
    StaticKeychain,
    keychain_from,
    settings_from,
)
from shipline.server.upstreams.section import UpstreamSection
from shipline.server.upstreams.upstream import Connect
from shipline.values import replace

_BLOBS_AT_ONCE = 32


def connect_upstreams(environ: Mapping[str, str], stack: ExitStack) -> Connect:
    """Opens repositories of upstreams; the connections are closed with `stack`."""

    def connect(section: UpstreamSection) -> Callable[[str], UpstreamRepository]:
        scheme, _, rest = section.url.partition("://")
        host, _, path = rest.strip("/").partition("/")
        plain, secure = ((host,), ()) if scheme == "http" else ((), (host,))
        settings = settings_from(environ, insecure=plain, secure=secure)
        settings = replace(settings, read_s=section.timeout.seconds, for_others=True)
        keychain: Keychain = keychain_from(environ)
        if section.username:
            password = section.password(environ)
            keychain = StaticKeychain({host: Credentials(section.username, password)})
        documents = Client(settings, keychain, at_once=_BLOBS_AT_ONCE, tries=1)
        blobs = Client(settings, keychain, at_once=_BLOBS_AT_ONCE)
        for client in (documents, blobs):
            stack.enter_context(closing(client))
        prefix = f"{path.removeprefix('v2/')}/" if path and path != "v2" else ""

        def open_repository(name: str) -> UpstreamRepository:
            reference = Reference(host, prefix + name)
            return UpstreamRepository(documents.repository(reference), blobs.repository(reference))

        return open_repository

    return connect


class UpstreamRepository:
    """An `Origin`: documents are asked for once, so that the node decides what an outage means;
    blobs are resumed.
    """

    def __init__(self, documents: RemoteRepository, blobs: RemoteRepository) -> None:
        self._documents, self._blobs = documents, blobs

    def resolve(self, reference: str) -> Descriptor:
        return self._documents.resolve(reference)

    def fetch(self, target: Descriptor) -> AbstractContextManager[Reader]:
        named = target.media_type in media.NAMED
        return (self._documents if named else self._blobs).fetch(target)

    def digest_of(self, tag: str) -> Digest | None:
        return self._documents.digest_of(tag)

    def blob_size(self, digest: Digest) -> int:
        return self._documents.blob_size(digest)

    def tags(self) -> Iterator[str]:
        return self._documents.tags()

    def referrers(self, target: Descriptor) -> tuple[Descriptor, ...]:
        return self._documents.referrers(target)
