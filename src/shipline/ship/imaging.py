"""The image of a run: built here, merged from what other machines built, or there already.

Whichever it is, it is in the registry under its digest and has no tag.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shipline.build import (
    Annotation,
    BuildRequest,
    Level,
    Output,
    OutputFormat,
    parse_request,
)
from shipline.content import MemoryStore, Repository, fetch_all
from shipline.errors import ContentError, UsageError
from shipline.oci import (
    MANIFEST_LIMIT,
    Descriptor,
    Digest,
    ImageConfig,
    Index,
    Part,
    Platform,
    Reference,
    combine,
    parse_manifest,
)
from shipline.ship.commands import Pushed
from shipline.ship.section import Build

_VERSION = "org.opencontainers.image.version"
_CONFIG_LIMIT = 8 << 20  # bytes
_METADATA_LIMIT = 1 << 20  # bytes
_ATTESTATION = "vnd.docker.reference.type"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is written into the image about itself."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]


def facts_of(labels: Mapping[str, str], annotations: Mapping[str, str], *, fixed: bool) -> Facts:
    """The labels and annotations to write. The version is left out unless it is `fixed`: until it
    is reserved another run may take it, and the image would carry a name that it does not get.
    """
    left_out = () if fixed else (_VERSION,)
    return Facts(
        {key: value for key, value in labels.items() if key not in left_out},
        {key: value for key, value in annotations.items() if key not in left_out},
    )


def build_request(
    build: Build,
    image: Reference,
    root: Path,
    environ: Mapping[str, str],
    facts: Facts,
    *,
    push: bool,
) -> BuildRequest:
    """What `shipline build` would be asked for. Raises UsageError for values it does not know."""
    request = parse_request(
        _placed(build.context, root),
        environ,
        file=None if build.file is None else str(root / build.file),
        target=build.target,
        build_context=[f"{name}={_placed(at, root)}" for name, at in build.contexts.items()],
        pull=build.pull,
        secret=build.secrets,
        ssh=build.ssh,
        no_cache=build.no_cache,
        cache_from=build.cache_from,
        cache_to=build.cache_to,
    )
    return replace(
        request,
        build_args=build.args,
        labels={**facts.labels, **build.labels},
        annotations=tuple(_annotations(facts.annotations, len(set(build.platforms)) > 1)),
        platforms=build.platforms,
        tags=(image.or_latest,) if push else (),
        outputs=(_output(build, push=push),),
    )


def _placed(where: str, root: Path) -> str:
    return where if "://" in where or where.startswith("git@") else str(root / where)


def _output(build: Build, *, push: bool) -> Output:
    if not push:
        return Output("cacheonly")
    format = OutputFormat(build.compression or "")
    return Output("image", format=format, push=True, push_by_digest=True)


def _annotations(values: Mapping[str, str], several: bool) -> Iterator[Annotation]:
    for level in (Level.INDEX, Level.MANIFEST) if several else (Level.MANIFEST,):
        for key, value in values.items():
            yield Annotation(level, key, value)


def read_built(paths: Iterable[Path], image: Reference) -> tuple[Digest, ...]:
    """The digests in metadata files of builds. Raises UsageError for other files, and for builds
    of another image.
    """
    return tuple(dict.fromkeys(_built(path, image) for path in paths))


def _built(path: Path, image: Reference) -> Digest:
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_METADATA_LIMIT))
        digest = Digest.parse(document["containerimage.digest"])
        names = [Reference.parse(one) for one in document.get("image.name", "").split(",") if one]
    except OSError as error:
        raise UsageError(f"--built: cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, ContentError, UsageError):
        raise UsageError(
            f"--built: {path} does not name an image",
            hint="give what `shipline build --metadata-file` wrote",
        ) from None
    if names and image.name not in {one.name for one in names}:
        raise UsageError(f"--built: {path} is a build of {names[0].name}, not of {image.name}")
    return digest


def merge(
    repository: Repository, digests: Iterable[Digest], annotations: Mapping[str, str]
) -> Descriptor:
    """One index of images that are in the repository by digest; it is pushed by digest too.

    Raises UsageError where two of them are for the same platform, NotFound.
    """
    parts = [_part(repository, digest) for digest in digests]
    index = combine(parts, annotations=annotations)
    seen: set[Platform] = set()
    for one in index.manifests:
        if one.platform is not None and _ATTESTATION not in one.annotations:
            if one.platform in seen:
                raise UsageError(f"--built: two builds are for {one.platform}")
            seen.add(one.platform)
    repository.push(index.descriptor, MemoryStore(index.raw))
    return index.descriptor


def _part(repository: Repository, digest: Digest) -> Part:
    target = repository.resolve(str(digest))
    document = parse_manifest(fetch_all(repository, target, MANIFEST_LIMIT), target.media_type)
    if isinstance(document, Index):
        return Part(document)
    config = fetch_all(repository, document.config, _CONFIG_LIMIT)
    return Part(document, ImageConfig.parse(config).platform)


def pushed(repository: Repository, image: Reference, target: Descriptor) -> Pushed:
    """What steps that look at the image are told: its manifest for each platform."""
    document = parse_manifest(fetch_all(repository, target, MANIFEST_LIMIT), target.media_type)
    if not isinstance(document, Index):
        config = fetch_all(repository, document.config, _CONFIG_LIMIT)
        platform = ImageConfig.parse(config).platform
        return Pushed(image.at(target.digest), ((platform, image.at(target.digest)),))
    children = tuple(
        (one.platform, image.at(one.digest))
        for one in document.manifests
        if one.platform is not None and _ATTESTATION not in one.annotations
    )
    return Pushed(image.at(target.digest), children)


def results_of(target: Descriptor, image: Pushed) -> dict[str, Any]:
    """What the record keeps of an image."""
    return {
        "digest": str(target.digest),
        "descriptor": target.plain.to_json(),
        "platforms": {str(platform): str(one.digest) for platform, one in image.platforms},
    }
