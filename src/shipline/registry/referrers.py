"""Who refers to a manifest: the referrers API, or the tag that stands in for it.

Distribution specification, "Listing Referrers" and "Referrers Tag Schema".
"""

from __future__ import annotations

import random
from dataclasses import replace

from shipline.errors import ContentError, NotFound, RegistryError
from shipline.oci import Descriptor, Digest, Index, Manifest, media, parse_manifest
from shipline.registry.channel import WRITE, Channel
from shipline.registry.documents import PAGE_LIMIT, fetch_document, next_link
from shipline.registry.origin import Url
from shipline.tasks import sleep

_PAGES = 100
_TRIES = 6
_PAUSE_S = (0.05, 0.4)  # between tries, where others write to the same list


def referrers(channel: Channel, subject: Digest, artifact_type: str) -> tuple[Descriptor, ...]:
    """Manifests that have `subject` as theirs; only the registry itself is asked, no mirror."""
    found = _from_api(channel, subject, artifact_type) if channel.quirks.referrers else None
    if found is None:
        found = _from_tag(channel, subject)
    kept = (one for one in found if not artifact_type or one.artifact_type == artifact_type)
    return tuple({one.digest: one for one in kept}.values())


def note_referrer(channel: Channel, target: Descriptor, content: bytes) -> None:
    """Enter a pushed manifest in its subject's tag, for a registry without the API.

    Nothing is written where it is entered. The schema knows no "only if nobody else wrote", so the
    list is read again after it was written, and what another client took away is entered again.
    Raises RegistryError where others keep doing that.
    """
    parsed = parse_manifest(content, target.media_type)
    if parsed.subject is None:
        return
    entry = replace(
        target.plain, artifact_type=_artifact_type(parsed), annotations=parsed.annotations
    )
    for attempt in range(_TRIES):
        before = _from_tag(channel, parsed.subject.digest)
        if any(one.digest == target.digest for one in before):
            return
        if attempt:
            sleep(random.uniform(*_PAUSE_S))
            before = _from_tag(channel, parsed.subject.digest)
        _put_list(channel, parsed.subject.digest, Index.make((*before, entry)))
    if all(one.digest != target.digest for one in _from_tag(channel, parsed.subject.digest)):
        raise RegistryError(
            f"{channel.host}: others keep writing to {referrers_tag(parsed.subject.digest)}",
            host=channel.host,
            hint="run the command again",
        )


def repair_referrer(channel: Channel, target: Descriptor, content: bytes) -> None:
    """Enter a manifest that was there already in its subject's tag, if it fell out of it."""
    if b'"subject"' not in content:
        return
    subject = parse_manifest(content, target.media_type).subject
    if subject is None:
        return
    if not channel.quirks.referrers or _from_api(channel, subject.digest, "") is None:
        note_referrer(channel, target, content)


def _put_list(channel: Channel, subject: Digest, index: Index) -> None:
    channel.call(
        "PUT",
        channel.manifest(referrers_tag(subject)),
        expect={200, 201, 202},
        doing="noting a referrer",
        actions=WRITE,
        headers={"Content-Type": index.media_type},
        body=index.raw,
    ).close()


def referrers_tag(subject: Digest) -> str:
    """The tag that lists the referrers of `subject`."""
    return f"{subject.algorithm[:32]}-{subject.hex[:64]}"


def _artifact_type(parsed: Manifest | Index) -> str:
    if parsed.artifact_type or isinstance(parsed, Index):
        return parsed.artifact_type
    return parsed.config.media_type


def _from_api(
    channel: Channel, subject: Digest, artifact_type: str
) -> tuple[Descriptor, ...] | None:
    """None where there is no such API; only an image index counts as an answer."""
    url: Url | None = channel.url("referrers", str(subject))
    if url is not None and artifact_type:
        url = url.adding(("artifactType", artifact_type))
    found: list[Descriptor] = []
    seen: set[Url] = set()
    while url is not None and url not in seen and len(seen) < _PAGES:
        seen.add(url)
        try:
            answer = channel.call(
                "GET", url, expect={200, 404}, doing="listing referrers", redirects=0
            )
        except RegistryError as error:
            if error.retriable or not error.status:
                raise
            return None
        try:
            said = answer.header("Content-Type").partition(";")[0].strip()
            if answer.status != 200 or said != media.OCI_INDEX:
                return None
            found += _entries(answer.content(PAGE_LIMIT), channel)
            link = next_link(answer.header("Link"))
        finally:
            answer.close()
        following = url.join(link) if link else None
        if following is not None and following.origin != url.origin:
            raise RegistryError(
                f"{channel.host}: its list of referrers goes on at another host",
                host=channel.host,
            )
        url = following
    return tuple(found)


def _from_tag(channel: Channel, subject: Digest) -> tuple[Descriptor, ...]:
    try:
        _, content = fetch_document(channel, referrers_tag(subject))
    except NotFound:
        return ()
    return _entries(content, channel)


def _entries(content: bytes, channel: Channel) -> tuple[Descriptor, ...]:
    try:
        parsed = parse_manifest(content)
    except ContentError as error:
        raise ContentError(f"{channel.host}: its list of referrers: {error.message}") from None
    return parsed.manifests if isinstance(parsed, Index) else ()
