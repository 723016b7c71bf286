"""Statements attached to an image: a layer under its tag, or a manifest that refers to it. They are
written, and copied along with the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, runtime_checkable

from shipline.content import (
    Advance,
    MemoryStore,
    attempts,
    copy_graph,
    fetch_document,
    settling,
    successors,
)
from shipline.errors import AuthError, ContentError, NotFound, RegistryError
from shipline.oci import MAX_DEPTH, NO_ANNOTATIONS, Descriptor, Digest, Manifest, media, to_bytes
from shipline.supply.claims import (
    DEFAULT_LIMITS,
    PREDICATE_ANNOTATION,
    Attachable,
    ClaimKind,
    Form,
    StatementSource,
    attachment_tag,
)
from shipline.supply.envelopes import BUNDLE, Bundle, InvalidSignature
from shipline.tasks import TaskGroup
from shipline.units import rfc3339
from shipline.values import replace

FORMS = (Form.TAG, Form.BUNDLE)
"""The forms that are written by default: both, because older programs only read the tag, newer ones
the bundle.
"""

_EMPTY = b"{}"
_NEVER = "0001-01-01T00:00:00Z"  # cosign writes it, so that equal signatures are equal manifests


@dataclass(frozen=True, slots=True)
class AttachmentLayer:
    """A layer to attach under a tag."""

    content: bytes
    media_type: str
    annotations: Mapping[str, str]

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(
            self.media_type,
            Digest.of(self.content),
            len(self.content),
            annotations=self.annotations,
        )


def attach_layers(
    repository: Attachable,
    target: Descriptor,
    kind: ClaimKind,
    pieces: Iterable[AttachmentLayer],
    *,
    drop: Callable[[Descriptor], bool] = lambda layer: False,
) -> Descriptor:
    """Add layers to the manifest under the tag of `target`, and remove those in `drop`; others are
    kept.
    """
    layers = []
    for piece in pieces:
        repository.push(piece.descriptor.plain, MemoryStore(piece.content))
        layers.append(piece.descriptor)
    return _add_layers(repository, attachment_tag(target.digest, kind), layers, drop)


def _add_layers(
    repository: Attachable,
    tag: str,
    layers: Sequence[Descriptor],
    drop: Callable[[Descriptor], bool] = lambda layer: False,
) -> Descriptor:
    """Add layers, whose content is there, to the manifest under `tag`; see `attach_layers`."""
    for _ in attempts():
        known, before = _current(repository, tag)
        manifest = _extended(before, layers, drop)
        store = MemoryStore(_config(manifest.layers), manifest.raw)
        repository.push(manifest.config, store)
        with settling():
            swapped = repository.swap(manifest.descriptor, store, tag, known)
        if not swapped:
            continue
        _, after = _current(repository, tag)
        if after is not None and not _lacking(after, layers):
            return manifest.descriptor
    raise _contended(tag)


def _lacking(manifest: Manifest, layers: Iterable[Descriptor]) -> list[Descriptor]:
    """Those of `layers` that the manifest does not have, with their annotations."""
    there = {(one.digest, *one.annotations.items()) for one in manifest.layers}
    return [one for one in layers if (one.digest, *one.annotations.items()) not in there]


def attach_bundle(
    repository: Attachable, target: Descriptor, bundle: Bundle, predicate_type: str, now: float
) -> Descriptor:
    """Push a manifest with the bundle that refers to `target`; returns its descriptor."""
    content = bundle.to_bytes()
    layer = Descriptor.of(content, BUNDLE)
    manifest = Manifest.make(
        Descriptor.of(_EMPTY, media.OCI_EMPTY),
        [layer],
        subject=target.plain,
        artifact_type=BUNDLE,
        annotations={
            "dev.sigstore.bundle.content": "dsse-envelope",
            PREDICATE_ANNOTATION: predicate_type,
            # with fractions of a second, so that attaching again makes another manifest
            "org.opencontainers.image.created": rfc3339(now, "auto"),
        },
    )
    store = MemoryStore(_EMPTY, content, manifest.raw)
    for part in (manifest.config, layer, manifest.descriptor):
        repository.push(part, store)
    return replace(manifest.descriptor, artifact_type=BUNDLE)


def attach_settled(
    repository: Attachable,
    target: Descriptor,
    kind: ClaimKind,
    attach: Callable[[], Sequence[Descriptor]],
) -> tuple[Descriptor, ...]:
    """Call `attach`, which attaches what is missing, until no other writer has removed any of it;
    returns all that was attached. Raises ContentError if that does not end.
    """
    done: tuple[Descriptor, ...] = ()
    for _ in attempts():
        attached = attach()
        done += tuple(attached)
        if not attached or _is_settled(repository, target, kind, attached):
            return done
    raise _contended(str(target.digest))


def _is_settled(
    repository: Attachable, target: Descriptor, kind: ClaimKind, attached: Sequence[Descriptor]
) -> bool:
    """Whether no other writer has changed what `attached` was written to: the tag, or the list of
    referrers, which is a tag too in registries without the referrers API.
    """
    bundles = {manifest.digest for manifest in attached if manifest.artifact_type}
    tagged = {manifest.digest for manifest in attached} - bundles
    if bundles and not bundles <= {referrer.digest for referrer in repository.referrers(target)}:
        return False
    try:
        tag = attachment_tag(target.digest, kind)
        return not tagged or repository.resolve(tag).digest in tagged
    except NotFound:
        return False


def _contended(what: str) -> ContentError:
    return ContentError(
        f"others keep changing the attachments of {what}",
        code="registry-contended",
        hint="run the command again",
    )


def _current(repository: Attachable, tag: str) -> tuple[Digest | None, Manifest | None]:
    try:
        descriptor = repository.resolve(tag)
    except NotFound:
        return None, None
    manifest = fetch_document(repository, descriptor)
    if isinstance(manifest, Manifest):
        return descriptor.digest, manifest
    raise InvalidSignature(f"{tag} is not a manifest with signatures", hint=f"delete the tag {tag}")


def _extended(
    before: Manifest | None, new: Iterable[Descriptor], drop: Callable[[Descriptor], bool]
) -> Manifest:
    kept = () if before is None else tuple(layer for layer in before.layers if not drop(layer))
    layers = (*kept, *new)
    if len(layers) > DEFAULT_LIMITS.statements:
        raise InvalidSignature(
            f"{len(layers)} statements under one tag are more than verifiers accept",
            hint="delete the tag and sign again, or attest with --replace",
        )
    config = _config(layers)
    return Manifest.make(
        Descriptor.of(config, media.OCI_CONFIG if before is None else before.config.media_type),
        layers,
        media_type=media.OCI_MANIFEST if before is None else before.media_type,
        subject=None if before is None else before.subject,
        annotations=NO_ANNOTATIONS if before is None else before.annotations,
    )


def _config(layers: Iterable[Descriptor]) -> bytes:
    """The configuration that cosign writes: only the layers and their number."""
    digests = [str(layer.digest) for layer in layers]
    document: dict[str, Any] = {
        "architecture": "",
        "created": _NEVER,
        "history": [{"created": _NEVER}] * len(digests),
        "os": "",
        "rootfs": {"type": "layers", "diff_ids": digests},
        "config": {},
    }
    return to_bytes(document)


_ATTACHED = {"sig": "signature", "att": "attestation", "sbom": "SBOM"}
_DEPTH = 4  # of statements about statements
_AT_ONCE = 8  # subjects
_MANY_TAGS = 900  # a page of most registries has 1000


@runtime_checkable
class _Listing(Protocol):
    def tags(self) -> Iterator[str]: ...


@runtime_checkable
class _Remote(Protocol):
    def among(self, tags: frozenset[str]) -> StatementSource:
        """The same repository, of which these are all tags."""


def attached_tags(subject: Descriptor) -> dict[str, str]:
    """The tags under which cosign keeps what is about `subject`, and what each is."""
    digest = subject.digest
    return {f"{digest.algorithm}-{digest.hex}.{end}": what for end, what in _ATTACHED.items()}


def copy_with_evidence(source: StatementSource, destination: Attachable, target: Descriptor) -> int:
    """Copy `target` and everything attached to it or to its images; returns the number of attached
    manifests. Running it again continues an interrupted copy.
    """
    copy_graph(source, destination, target)
    return copy_evidence(source, destination, target)


def copy_evidence(
    source: StatementSource,
    destination: Attachable,
    target: Descriptor,
    advance: Advance | None = None,
    *,
    subject_is_there: bool = True,
    exact: bool = False,
) -> int:
    """Copy what is attached to `target` or to its images; returns the number of attached
    manifests. The destination has the images, and `target` itself if `subject_is_there`: else it is
    pushed before what refers to it. Signatures that the destination alone has stay there, unless
    its tags are to be `exact` copies.
    """
    source, tags = _with_tags(source)

    def copy(subject: Descriptor) -> int:
        count = 0
        for attached, tag in _attached(source, subject, tags, _DEPTH):
            if not tag and subject.digest == target.digest and not (subject_is_there or count):
                destination.push(target, source)
            try:
                copy_graph(source, destination, attached, advance)
            except NotFound:
                if not tag and _is_there(source, attached):
                    raise
                if not tag:
                    _warn(f"{attached.digest} refers to {subject.digest}, and is gone: left out")
                continue
            if tag and exact:
                destination.tag(attached, source, tag)
            elif tag:
                _tag_attached(source, destination, attached, tag)
            count += 1
        return count

    with TaskGroup(_AT_ONCE) as group:
        tasks = [group.start(copy, one) for one in _images(source, target, MAX_DEPTH)]
    return sum(task.result() for task in tasks)


def _tag_attached(
    source: StatementSource, destination: Attachable, attached: Descriptor, tag: str
) -> None:
    """Point `tag` to what is attached; signatures that the destination alone has are kept."""
    known, there = _current(destination, tag) if tag.endswith(".sig") else (None, None)
    if known == attached.digest:
        return
    new = fetch_document(source, attached) if there is not None else None
    if there is None or not isinstance(new, Manifest) or not _lacking(new, there.layers):
        destination.tag(attached, source, tag)
    elif lacking := _lacking(there, new.layers):
        _add_layers(destination, tag, lacking)


def _is_there(source: StatementSource, attached: Descriptor) -> bool:
    with suppress(NotFound), source.fetch(attached):
        return True
    return False


def _warn(text: str) -> None:
    import logging  # slow to import

    logging.getLogger(__name__).warning("warning: %s", text)


def evidence_of(source: StatementSource, target: Descriptor) -> tuple[Descriptor, ...]:
    """What is attached to `target` or to its images, and would be copied along."""
    source, tags = _with_tags(source)

    def look(subject: Descriptor) -> list[Descriptor]:
        return [attached for attached, _ in _attached(source, subject, tags, _DEPTH)]

    with TaskGroup(_AT_ONCE) as group:
        tasks = [group.start(look, one) for one in _images(source, target, MAX_DEPTH)]
    return tuple(one for task in tasks for one in task.result())


def _attached(
    source: StatementSource, subject: Descriptor, tags: frozenset[str] | None, depth: int
) -> Iterator[tuple[Descriptor, str]]:
    """What refers to `subject`, and to that, and what is under one of its tags, with the tag."""
    for referrer in {one.digest: one for one in source.referrers(subject)}.values():
        if referrer.digest == subject.digest:
            continue
        yield referrer.plain, ""
        if depth:
            yield from _attached(source, referrer.plain, tags, depth - 1)
    for tag in attached_tags(subject):
        if tags is None or tag in tags:
            with suppress(NotFound):
                yield source.resolve(tag), tag


def _with_tags(source: StatementSource) -> tuple[StatementSource, frozenset[str] | None]:
    tags = _first_tags(source)
    if tags is not None and isinstance(source, _Remote):
        source = source.among(tags)
    return source, tags


def _first_tags(source: StatementSource) -> frozenset[str] | None:
    """All tags of a repository; None where there are too many for one request, or none are told:
    asking for one costs a request for each.
    """
    if not isinstance(source, _Listing):
        return None
    try:
        found = frozenset(islice(source.tags(), _MANY_TAGS + 1))
    except (RegistryError, AuthError, NotFound):
        return None
    return found if len(found) <= _MANY_TAGS else None


def _images(source: StatementSource, target: Descriptor, depth: int) -> Iterator[Descriptor]:
    """An index and the images in it."""
    yield target
    if target.media_type in media.INDEXES and depth:
        for child in successors(source, target):
            if child.media_type in media.NAMED:
                yield from _images(source, child, depth - 1)
