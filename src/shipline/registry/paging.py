"""Lists that a registry returns in pages, each with a link to the next (RFC 8288)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from shipline.registry.errors import InvalidResponse
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.registry.request import Url
    from shipline.registry.transport import ClientResponse


def pages(
    first: Url, get: Callable[[Url], ClientResponse], *, limit: int, most: int = 10_000
) -> Iterator[bytes]:
    """The body of each page, of up to `limit` bytes.

    All are asked for at the origin of the first, whatever a link says: registries behind a proxy
    often take its address for another one. skopeo does the same. Raises RegistryError for a loop,
    or more than `most` pages.
    """
    url, seen = first, {first}
    for _ in range(most):
        with closing(get(url)) as response:
            content = response.content(limit)
            link = next_link(response.header("Link"))
        yield content
        if not link:
            return
        url = replace(url, target=url.join(link).target)
        if url in seen:
            raise InvalidResponse(url.origin.authority, "the pages of a list form a loop")
        seen.add(url)
    raise InvalidResponse(url.origin.authority, f"a list has more than {most} pages")


def next_link(header: str) -> str:
    """The target of `rel="next"`, empty without one."""
    for target, parameters in re.findall(r"<([^<>]*)>([^<]*)", header[:8192]):
        if re.search(r";\s*rel\s*=\s*\"?next\b", parameters, re.IGNORECASE):
            return str(target)
    return ""
