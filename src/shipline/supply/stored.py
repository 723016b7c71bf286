"""The unsigned statements that builds keep beside images in their index (BuildKit,
docs/attestations/attestation-storage.md).
"""

from __future__ import annotations

from collections.abc import Iterator

from shipline.content import Fetcher, fetch_all
from shipline.errors import ContentError
from shipline.oci import MANIFEST_LIMIT, PREDICATE_TYPE, Descriptor, Index, Manifest, parse_manifest
from shipline.supply.statement import LARGEST


def stored_statements(
    source: Fetcher, index: Index, image: Descriptor
) -> Iterator[tuple[str, bytes]]:
    """The statements about `image`, an entry of `index`: type of the predicate, and the bytes.

    Raises NotFound, ContentError.
    """
    entry = index.attestation_of(image)
    if entry is None:
        return
    manifest = parse_manifest(fetch_all(source, entry, MANIFEST_LIMIT), entry.media_type)
    if not isinstance(manifest, Manifest):
        raise ContentError(f"{entry.digest} is an index inside an index")
    for layer in manifest.layers:
        if kind := layer.annotations.get(PREDICATE_TYPE, ""):
            yield kind, fetch_all(source, layer, LARGEST)
