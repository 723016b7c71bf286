"""The flags on what a build gives: names, outputs, annotations, attestations and caches.

As in `flags`, all raise UsageError that names the flag.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal, cast

from shipline.build.attributes import (
    Attributes,
    parse_attribute,
    parse_attributes,
    parse_boolean,
    split_csv,
    unique,
)
from shipline.build.request import (
    Annotation,
    CacheBackend,
    CacheTarget,
    Level,
    Output,
    OutputFormat,
    OutputType,
    ProvenanceOptions,
    SbomOptions,
)
from shipline.errors import FlagConflict, InvalidFlag, MissingFlag, UsageError
from shipline.oci import Platform, Reference
from shipline.values import replace


def parse_tags(texts: Iterable[str], flag: str = "--tag") -> tuple[Reference, ...]:
    """Names to give; the default tag is `latest`."""
    names = [Reference.parse(text) for text in texts]
    for name in names:
        if name.digest is not None:
            raise FlagConflict(f"{flag}: {name} has a digest; a build cannot choose its digest")
    return unique(*(name.or_latest for name in names))


_ANNOTATION_PLACE = r"([a-z-]+)(?:\[([A-Za-z0-9_/.-]+)\])?\Z"
_ANNOTATION_ATTRIBUTE = r"annotation(?:-([a-z-]+))?(?:\[([a-z0-9_/.-]+)\])?\.(\S+)\Z"


def parse_annotation(text: str) -> tuple[Annotation, ...]:
    """`[type[platform],type...:]key=value`; the default type is `manifest`."""
    name, equals, value = text.partition("=")
    levels, colon, key = name.partition(":")
    if not colon:
        levels, key = "manifest", name
    if not equals or not key:
        raise InvalidFlag(f'--annotation: invalid annotation "{text}", expected key=value')
    found = []
    for place in levels.split(","):
        match = re.match(_ANNOTATION_PLACE, place)
        level, platform = (match[1], match[2]) if match else (place, None)
        found.append(_annotation("--annotation", level, platform, key, value))
    return tuple(found)


def _annotation(flag: str, level: str, platform: str | None, key: str, value: str) -> Annotation:
    if level not in list(Level):
        raise InvalidFlag(
            f'{flag}: unknown annotation type "{level}"', hint=f"use one of {', '.join(Level)}"
        )
    if platform and Level(level).of_index:
        raise FlagConflict(f"{flag}: an index is for all platforms, not for {platform}")
    return Annotation(Level(level), key, value, Platform.parse(platform) if platform else None)


_CACHES = ("registry", "local", "inline", "gha", "s3", "azblob")
_IMAGES = ("registry", "local")
"""The types of caches that are images, with a media type of their own."""
_OF_WRITING = ("mode", "ignore-error", "compression", "compression-level", "force-compression")
"""Accepted everywhere, as by buildx: one text may stand for the cache to read and to write."""
_OF_MANIFESTS = ("oci-mediatypes", "image-manifest")


def parse_cache_source(text: str) -> tuple[CacheBackend, ...]:
    """`type=...,key=value`, or comma-separated image names, each a registry cache."""
    backends = tuple(_cache_backend(fields) for fields in _cache_fields(text, "--cache-from"))
    if any(one.type == "inline" for one in backends):
        raise InvalidFlag(
            "--cache-from: an inline cache is read from its image",
            hint="write type=registry,ref=IMAGE",
        )
    return backends


def parse_cache_targets(
    texts: Iterable[str], build_args: Mapping[str, str]
) -> tuple[CacheTarget, ...]:
    """The caches of --cache-to, and the inline one of BUILDKIT_INLINE_CACHE=1."""
    found = [
        _cache_target(fields) for text in texts for fields in _cache_fields(text, "--cache-to")
    ]
    wanted = build_args.get("BUILDKIT_INLINE_CACHE", "")
    if wanted and parse_boolean(wanted, "BUILDKIT_INLINE_CACHE"):
        found.append(CacheTarget(CacheBackend("inline")))
    targets = unique(*found)
    places = {(one.backend.type, *one.backend.attributes.values()) for one in targets}
    if len(places) < len(targets):
        raise FlagConflict("--cache-to: the same cache is given twice")
    return targets


def _cache_fields(text: str, flag: str) -> list[dict[str, str]]:
    parts = split_csv(text)
    if all("=" not in part for part in parts):
        return [{"type": "registry", "ref": part} for part in parts]
    fields = parse_attributes(text, flag)
    kind = fields.get("type", "")
    if kind not in _CACHES:
        raise MissingFlag(
            f"{flag}: {kind!r} is not a type of cache"
            if kind
            else f"{flag}: type= is missing beside {', '.join(fields)}",
            hint=f"use one of {', '.join(_CACHES)}",
        )
    return [fields]


def _cache_backend(given: Mapping[str, str]) -> CacheBackend:
    fields = Attributes("--cache-from", given)
    kind = fields.text("type")
    for name in _OF_WRITING if kind in _IMAGES else (*_OF_WRITING, *_OF_MANIFESTS):
        fields.text(name)
    mounts = fields.switch("mounts", False)
    return CacheBackend(kind, fields.rest, mounts)


def _cache_target(given: Mapping[str, str]) -> CacheTarget:
    fields = Attributes("--cache-to", given)
    kind, mode = fields.text("type"), fields.text("mode") or "min"
    if mode not in ("min", "max"):
        raise InvalidFlag(f"--cache-to: mode={mode} is neither min nor max")
    format_ = _layer_format(fields) if kind != "inline" else OutputFormat()
    if kind in _IMAGES:
        if fields.switch("image-manifest", False) and not fields.switch("oci-mediatypes", True):
            raise FlagConflict("--cache-to: image-manifest=true needs oci-mediatypes=true")
        if format_.docker and format_.compression == "estargz":
            raise FlagConflict("--cache-to: compression=estargz needs oci-mediatypes=true")
    else:
        format_ = replace(format_, docker=False)
    return CacheTarget(
        _cache_backend(given),
        cast(Literal["min", "max"], mode),
        format_,
        required=not fields.switch("ignore-error", True),
    )


def parse_attestations(
    attest: Iterable[str], *, provenance: str | None = None, sbom: str | None = None
) -> tuple[ProvenanceOptions | None, SbomOptions | None]:
    """--attest, with the short forms --provenance and --sbom: a boolean, or attributes.

    As in buildx, the first attestation of a type counts, those of --attest before the short forms;
    an empty short form is as good as none.
    """
    texts = [_attributes(text, "--attest") for text in attest]
    for kind, text in (("provenance", provenance), ("sbom", sbom)):
        if text:
            texts.append({"type": kind, **_short_attestation(kind, text)})
    found: dict[str, dict[str, str]] = {}
    for fields in texts:
        kind = fields.pop("type", "")
        if kind not in ("provenance", "sbom"):
            what = (
                f"unknown attestation type {kind!r}" if kind else "attestation type not specified"
            )
            raise InvalidFlag(f"--attest: {what}", hint="write type=provenance or type=sbom")
        if parse_boolean(fields.pop("disabled", "false"), f"--attest type={kind} disabled"):
            fields = {"disabled": "true"}
        found.setdefault(kind, fields)
    wanted = {kind: fields for kind, fields in found.items() if "disabled" not in fields}
    return (
        _provenance(wanted["provenance"]) if "provenance" in wanted else None,
        _sbom(wanted["sbom"]) if "sbom" in wanted else None,
    )


def _short_attestation(kind: str, text: str) -> dict[str, str]:
    if "=" in text:
        return _attributes(text, f"--{kind}")
    if text in ("min", "max"):
        raise InvalidFlag(
            f"--{kind}: {text!r} is neither true nor false", hint=f"write mode={text}"
        )
    return {} if parse_boolean(text, f"--{kind}") else {"disabled": "true"}


def _attributes(text: str, flag: str) -> dict[str, str]:
    """Attributes of which the last one of a name counts, with names as they are written, since
    scanners get them; but for those that decide what it is.
    """
    found: dict[str, str] = {}
    for part in split_csv(text):
        lower, value = parse_attribute(part, flag)
        name = part.partition("=")[0].strip()
        found[lower if lower in ("type", "disabled", "generator") else name] = value
    return found


def _provenance(given: Mapping[str, str]) -> ProvenanceOptions:
    fields = Attributes("--provenance", {name.lower(): value for name, value in given.items()})
    mode, version = fields.text("mode", "max").lower(), fields.text("version", "v1")
    mode = "max" if mode == "full" else mode
    for name, value, known in (
        ("mode", mode, ("min", "max")),
        ("version", version, ("v1", "v0.2")),
    ):
        if value not in known:
            raise InvalidFlag(f"--provenance: {name} {value!r} is not one of {', '.join(known)}")
    options = ProvenanceOptions(
        mode=cast(Literal["min", "max"], mode),
        version=cast(Literal["v1", "v0.2"], version),
        builder_id=fields.text("builder-id"),
        reproducible=fields.switch("reproducible", False),
        inline_only=fields.switch("inline-only", False),
        filename=fields.text("filename") or "provenance.json",
    )
    if "/" in options.filename or options.filename in (".", ".."):
        raise InvalidFlag(
            f"--provenance: filename {options.filename!r} is a path", hint="write a name"
        )
    fields.close()
    return options


def _sbom(given: Mapping[str, str]) -> SbomOptions:
    generator = given.get("generator", "")
    if SbomOptions(generator).is_image:
        Reference.parse(generator)
        parameters = {**given, "type": "sbom"}  # BuildKit gives it to scanners, too
        del parameters["generator"]
        return SbomOptions(generator, parameters=tuple(sorted(parameters.items())))
    fields = Attributes("--sbom", {name.lower(): value for name, value in given.items()})
    options = SbomOptions(fields.text("generator"), fields.switch("cyclonedx", False))
    fields.close()
    return options


_IMAGE = frozenset(
    {"name", "oci-mediatypes", "oci-artifact", "compression", "compression-level"}
    | {"force-compression", "rewrite-timestamp", "unpack", "store", "dangling-name-prefix"}
    | {"name-canonical", "attestation-inline", "prefer-nondist-layers", "compatibility-version"}
    | {"source-date-epoch"}
)
_TREE = frozenset({"dest", "platform-split", "attestation-prefix", "source-date-epoch"})
_ATTRIBUTES: dict[OutputType, frozenset[str]] = {
    "image": _IMAGE | {"push", "push-by-digest", "registry.insecure"},
    "oci": _IMAGE | {"dest", "tar"},
    "docker": _IMAGE | {"dest", "tar", "context"},
    "local": _TREE | {"mode"},
    "tar": _TREE,
    "cacheonly": frozenset(),
}


def parse_outputs(
    texts: Iterable[str], *, push: bool, load: bool, artifact: bool = True
) -> tuple[Output, ...]:
    """All outputs of a build. --push makes image outputs push, or adds one; --load adds the engine
    of this machine unless it is there. `artifact` is the default of oci-artifact.
    """
    outputs = [parse_output(text, artifact=artifact) for text in texts]
    if push:
        outputs = [replace(one, push=True) if one.type == "image" else one for one in outputs]
        if not any(output.push for output in outputs):
            outputs.append(Output("image", push=True, format=OutputFormat(artifact=artifact)))
    if load and not any(output.loads for output in outputs):
        outputs.append(Output("docker"))
    if sum(output.destination == "-" for output in outputs) > 1:
        raise FlagConflict("--output: only one output can go to standard output")
    return tuple(outputs)


def parse_output(text: str, *, artifact: bool = True) -> Output:
    """`type=T,key=value,...`; a path alone is type=local, `-` is type=tar to standard output, and
    type=registry is type=image,push=true. `artifact` is the default of oci-artifact.
    """
    if split_csv(text) == (text,) and not text.startswith("type="):
        return Output("tar" if text == "-" else "local", text)
    given = parse_attributes(text, "--output")
    kind = given.pop("type", "")
    if kind == "registry":
        kind, given = "image", {"push": "true", **given}
    if kind not in _ATTRIBUTES:
        raise InvalidFlag(
            f'--output: exporter "{kind}" could not be found, in {text!r}',
            hint=f"use one of {', '.join(sorted([*_ATTRIBUTES, 'registry']))}",
        )
    _check_attributes(kind, given)
    fields = Attributes("--output", given)
    _refuse_impossible(fields)
    prefix, unpack = fields.text("attestation-prefix"), fields.switch("unpack", False)
    if "/" in prefix:
        raise InvalidFlag("--output attestation-prefix: a prefix of file names cannot contain '/'")
    destination = fields.text("dest") or ("-" if kind in ("tar", "oci") else "")
    if kind == "local" and destination in ("", "-"):
        raise MissingFlag(
            "--output: dest is required for local exporter", hint="write type=local,dest=DIRECTORY"
        )
    archive = fields.switch("tar", True)
    if destination in ("", "-") and not archive:
        raise MissingFlag("--output: tar=false writes a directory, which needs dest=DIRECTORY")
    return Output(
        kind,
        destination,
        names=parse_tags(filter(None, split_csv(fields.text("name"))), "--output name"),
        format=replace(
            _layer_format(fields),
            annotations=_attribute_annotations(given),
            artifact=fields.switch("oci-artifact", artifact),
            inline=fields.switch("attestation-inline", kind == "image"),
        ),
        push=fields.switch("push", False),
        push_by_digest=fields.switch("push-by-digest", False),
        insecure=fields.switch("registry.insecure", False),
        archive=archive,
        split=fields.switch("platform-split", None),
        rewrite_timestamp=fields.switch("rewrite-timestamp", False),
        epoch=_epoch(given.get("source-date-epoch")),
        store=kind == "image" and fields.switch("store", unpack),
        unpack=unpack,
        canonical=fields.switch("name-canonical", False),
        dangling_prefix=fields.text("dangling-name-prefix"),
        context=fields.text("context"),
        delete=_deletes(fields.text("mode", "copy")),
        attestation_prefix=prefix,
    )


def _epoch(text: str | None) -> str | None:
    if text and not re.fullmatch("-?[0-9]+", text):
        raise InvalidFlag(
            f"--output: invalid source-date-epoch: {text}",
            hint="give seconds since 1970, or nothing",
        )
    return text


def _deletes(mode: str) -> bool:
    if mode not in ("copy", "delete"):
        raise InvalidFlag(
            f'--output: mode={mode}: invalid local exporter mode "{mode}"',
            hint="write copy or delete",
        )
    return mode == "delete"


def _check_attributes(kind: OutputType, keys: Iterable[str]) -> None:
    known = _ATTRIBUTES[kind]
    annotated = "compression" in known
    for key in keys:
        if key not in known and not (annotated and key.startswith("annotation")):
            raise InvalidFlag(
                f"--output: type={kind} has no attribute {key!r}",
                hint=f"it has {', '.join(sorted(known)) or 'none'}"
                + (", annotation.KEY" if annotated else ""),
            )


def _refuse_impossible(fields: Attributes) -> None:
    """Raise UsageError for attributes that exclude each other, or mean nothing here."""
    unpack = fields.switch("unpack", False)
    if unpack and fields.switch("rewrite-timestamp", False):
        raise FlagConflict("--output: rewrite-timestamp and unpack exclude each other")
    if unpack and not fields.switch("store", True):
        raise InvalidFlag(
            "--output: unpack is for images in containerd, and store=false keeps this one out",
            hint="leave store=false out",
        )
    if fields.switch("prefer-nondist-layers", False):
        raise UsageError(
            "--output prefer-nondist-layers: only images of Windows have such layers, and those"
            " are not built here",
            code="flag-not-supported",
            hint="leave it out",
        )
    version = fields.text("compatibility-version", "30")
    if version != "30":
        raise UsageError(
            f"--output compatibility-version={version}: images are those of version 30, whose"
            " default are the media types of OCI",
            code="flag-not-supported",
            hint="write oci-mediatypes=false for those of older versions",
        )


def _layer_format(fields: Attributes) -> OutputFormat:
    """What the layers of an image or of a cache are: as they are, or compressed so."""
    level = fields.integer("compression-level", None)
    force = fields.switch("force-compression", False)
    name = fields.text("compression") or ("gzip" if force or level is not None else "")
    docker = not fields.switch("oci-mediatypes", True)
    if name:
        from shipline.layer import codec  # slow to import

        codec(name, level)  # raises UsageError for others
    return OutputFormat(name, level, force, docker=docker)  # type: ignore[arg-type]


def _attribute_annotations(attributes: Mapping[str, str]) -> tuple[Annotation, ...]:
    """`annotation[-type][[platform]].key=value`"""
    found = []
    for name, value in attributes.items():
        if name.startswith("annotation"):
            match = re.match(_ANNOTATION_ATTRIBUTE, name)
            if match is None:
                raise InvalidFlag(f"--output: {name!r} is not annotation[-TYPE][[PLATFORM]].KEY")
            level, platform, key = match.groups()
            found.append(_annotation("--output", level or "manifest", platform, key, value))
    return tuple(found)
