"""What a registry has under some tags: digests, and the commits they were made of."""

from __future__ import annotations

import json
from collections.abc import Iterable

from shipline.content import Repository, fetch_all
from shipline.errors import NotFound
from shipline.oci import MANIFEST_LIMIT, Descriptor, Index, Manifest, parse_manifest
from shipline.policy.tags.labels import built_from
from shipline.policy.tags.published import Existing

_CONFIG_LIMIT = 8 << 20  # bytes


def snapshot(repository: Repository, tags: Iterable[str]) -> dict[str, Existing]:
    """What is there under each of the tags; tags that are free are left out.

    Raises RegistryError, AuthError, ContentError.
    """
    found = {}
    for tag in tags:
        try:
            target = repository.resolve(tag)
            found[tag] = Existing(target.digest, revision(repository, target))
        except NotFound:
            continue
    return found


def revision(repository: Repository, target: Descriptor) -> str:
    """The commit that an image says it was made of, in its annotations or else its labels.

    Of an index without the annotation the first image tells. Empty where nothing tells.
    """
    raw = fetch_all(repository, target, MANIFEST_LIMIT)
    document = parse_manifest(raw, target.media_type)
    if told := built_from(document.annotations):
        return told
    if isinstance(document, Index):
        images = [one for one in document.manifests if one.platform is not None]
        return revision(repository, images[0]) if images else ""
    return _label(repository, document)


def _label(repository: Repository, manifest: Manifest) -> str:
    try:
        config = json.loads(fetch_all(repository, manifest.config, _CONFIG_LIMIT))
        return built_from((config.get("config") or {}).get("Labels", {}))
    except (ValueError, AttributeError):
        return ""  # an artifact, or an image whose configuration has other things to complain of
