"""Images of random bytes, for tests that move them."""

from __future__ import annotations

import os

from shipline.content import LocalStore
from shipline.oci import Descriptor, Manifest, media


def make_image(store: LocalStore, *sizes: int, subject: Descriptor | None = None) -> Descriptor:
    """A manifest with a layer of each size in bytes."""
    config = store.add(b'{"architecture":"amd64","os":"linux"}', media.OCI_CONFIG)
    layers = [store.add(os.urandom(size), media.OCI_LAYER) for size in sizes]
    manifest = Manifest.make(config, layers, subject=subject)
    return store.add(manifest.raw, manifest.media_type)


def make_layer(store: LocalStore, size: int) -> Descriptor:
    return store.add(os.urandom(size), media.OCI_LAYER)
