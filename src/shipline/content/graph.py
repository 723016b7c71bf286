"""Content that names other content: `successors` is the whole model.

Copying, collecting, replicating and measuring are walks over it.
"""

from __future__ import annotations

from shipline.content.protocols import Fetcher
from shipline.content.readers import fetch_all
from shipline.oci import MANIFEST_LIMIT, Descriptor, Index, media, parse_manifest


def document(source: Fetcher, node: Descriptor) -> bytes:
    """The bytes of a manifest or index."""
    return fetch_all(source, node, MANIFEST_LIMIT)


def successors(source: Fetcher, node: Descriptor) -> tuple[Descriptor, ...]:
    """What `node` names: manifests of an index, config and layers of a manifest, else nothing."""
    if node.media_type not in media.NAMED:
        return ()
    parsed = parse_manifest(document(source, node), node.media_type)
    if isinstance(parsed, Index):
        return parsed.manifests
    return (parsed.config, *parsed.layers)
