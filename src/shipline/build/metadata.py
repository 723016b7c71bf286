"""What is said of a result, in the form of buildx: `--metadata-file`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shipline.oci import Digest, media

if TYPE_CHECKING:
    from shipline.build.target import BuildResult


def result_facts(result: BuildResult) -> dict[str, Any]:
    """The metadata in the form of buildx. A remote context adds `shipline.build.context`: its URL
    and commit or digest.
    """
    facts: dict[str, Any] = {}
    for platform, predicate in result.provenance.items():
        several = f"/{platform}" if len(result.provenance) > 1 else ""
        facts[f"buildx.build.provenance{several}"] = predicate
    facts["buildx.build.ref"] = f"native/native0/{result.invocation}"
    if result.root.media_type not in media.INDEXES:
        facts["containerimage.config.digest"] = str(result.images[0].config_descriptor.digest)
    facts["containerimage.descriptor"] = result.root.to_json()
    facts["containerimage.digest"] = str(result.root.digest)
    if result.names:
        facts["image.name"] = ",".join(map(str, result.names))
    if context := result.context:
        facts["shipline.build.context"] = {"uri": context.uri, "digest": dict(context.digests)}
    return facts


def image_id(result: BuildResult) -> Digest:
    """The digest of the configuration, which docker calls the ID; the digest of an index, and of
    the manifest where that is the ID in the engine that has the image.
    """
    if result.root.media_type not in media.INDEXES and not result.by_manifest:
        return result.images[0].config_descriptor.digest
    return result.root.digest
