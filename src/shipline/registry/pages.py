"""Lists that come in pages, linked by the server (distribution specification end-8, end-12)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from shipline.errors import NotFound, RegistryError
from shipline.registry.channel import Channel
from shipline.registry.origin import Url

PAGE_LIMIT = 4 << 20  # bytes
_PAGES = 10_000


def pages(
    channel: Channel, first: Url, doing: str, expect: Collection[int] = (200, 404)
) -> Iterator[bytes]:
    """The body of each page. Raises NotFound for a 404.

    A link is followed within the registry's own origin, once each, and not for ever.
    """
    url, seen = first, {first}
    for _ in range(_PAGES):
        answer = channel.call("GET", url, expect=expect, doing=doing)
        try:
            if answer.status == 404:
                raise NotFound(f"{channel.host}/{channel.repository} does not exist")
            content = answer.content(PAGE_LIMIT)
            link = next_link(answer.header("Link"))
        finally:
            answer.close()
        yield content
        if not link:
            return
        url = url.join(link)
        if url.origin != first.origin:
            raise RegistryError(
                f"{channel.host}: {doing}: the next page is on another host, {url.origin}",
                host=channel.host,
            )
        if url in seen:
            raise RegistryError(f"{channel.host}: {doing}: pages go in a circle", host=channel.host)
        seen.add(url)
    raise RegistryError(f"{channel.host}: {doing}: more than {_PAGES} pages", host=channel.host)


def next_link(header: str) -> str:
    """The target of `rel="next"` (RFC 8288), empty where there is none."""
    for target, parameters in re.findall(r"<([^<>]*)>([^<]*)", header[:8192]):
        if re.search(r";\s*rel\s*=\s*\"?next\b", parameters, re.IGNORECASE):
            return str(target)
    return ""
