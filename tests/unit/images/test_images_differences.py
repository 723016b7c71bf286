"""What two images differ in."""

from __future__ import annotations

import json

import pytest

from shipline.content import MemoryStore
from shipline.images import OpenImage
from shipline.images.differences import difference
from shipline.oci import (
    PREDICATE_TYPE,
    REFERENCE_DIGEST,
    REFERENCE_TYPE,
    Index,
    Manifest,
    Platform,
    media,
)
from shipline.values import replace

SPDX = "https://spdx.dev/Document"
AMD64 = Platform.parse("linux/amd64")


class Source(MemoryStore):
    def referrers(self, *_: object) -> tuple[()]:
        return ()


def image(predicate: object) -> OpenImage:
    """An image without layers, whose SBOM is `predicate`."""
    source = Source()
    config = source.add(b'{"os":"linux","architecture":"amd64"}', media.OCI_CONFIG)
    manifest = Manifest.make(config, [])
    target = replace(source.add(manifest.raw, manifest.media_type), platform=AMD64)
    statement = {
        "_type": "https://in-toto.io/Statement/v0.1",
        "predicateType": SPDX,
        "subject": [{"name": "_", "digest": {"sha256": target.digest.hex}}],
        "predicate": predicate,
    }
    layer = source.add(json.dumps(statement).encode(), "application/vnd.in-toto+json")
    about = Manifest.make(config, [replace(layer, annotations={PREDICATE_TYPE: SPDX})])
    notes = {REFERENCE_TYPE: "attestation-manifest", REFERENCE_DIGEST: str(target.digest)}
    entry = replace(source.add(about.raw, about.media_type), annotations=notes)
    index = Index.make([target, entry])
    return OpenImage(source, source.add(index.raw, index.media_type))


def test_versions_of_packages_are_compared() -> None:
    one, other = (
        image({"packages": [{"name": "zlib", "versionInfo": version}]}) for version in ("1", "2")
    )
    assert difference(one, other, AMD64).packages == {"zlib": ("1", "2")}


@pytest.mark.parametrize("predicate", [{"packages": ["zlib"]}, {"packages": 5}, {"packages": None}])
def test_an_sbom_of_another_shape_has_no_packages(predicate: object) -> None:
    one = image(predicate)
    assert difference(one, one, AMD64).packages == {}
