"""A decision for people, for programs, and as the outputs of docker/metadata-action."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from shipline.cli.template import render
from shipline.errors import UsageError
from shipline.policy.tags import Decision, Placement

Placements = Mapping[str, Sequence[Placement]]
_TARGET = "docker-metadata-action"


def show(
    decision: Decision,
    images: Sequence[str],
    placements: Placements,
    form: str,
    bake: Path | None,
) -> str:
    """The decision in the form that --format names; equal decisions give equal bytes.

    `images` are the repositories that get the tags. Bytes of ref names that are no UTF-8 are shown
    as U+FFFD. Raises UsageError for a form that is not known.
    """
    text = _shown(decision, images, placements, form, bake)
    return text.encode(errors="surrogateescape").decode(errors="replace")


def _shown(
    decision: Decision,
    images: Sequence[str],
    placements: Placements,
    form: str,
    bake: Path | None,
) -> str:
    if form == "text":
        return "".join(f"{line}\n" for line in _text(decision, placements))
    if form == "json":
        document = _document(decision, images, placements)
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    if form == "names":
        return "".join(f"{name}\n" for name in references(decision, images))
    if form == "github":
        return "".join(_outputs(decision, images, bake))
    if "{{" in form:
        return render(form, _document(decision, images, placements)) + "\n"
    raise UsageError(
        f"--format: there is no format {form!r}", hint="text, json, names, github or a template"
    )


def references(decision: Decision, images: Sequence[str]) -> list[str]:
    """Every tag of every image; tags alone where no image is named."""
    if not images:
        return [*decision.names]
    return [f"{image}:{tag}" for image in images for tag in decision.names]


def _text(decision: Decision, placements: Placements) -> Iterator[str]:
    event, git_tag = decision.event, decision.git_tag
    where = event.ref.removeprefix("refs/heads/") or event.kind
    yield f"{decision.commit[:12]} on {where} ({event.source}), rule {decision.rule}"
    if decision.version:
        made = "to be made as" if git_tag and git_tag.new else "of"
        name = f", {made} git tag {git_tag.name}" if git_tag else ""
        told = any(tag.reason == decision.version_reason for tag in decision.tags)
        yield f"version {decision.version}{name}" + ("" if told else f": {decision.version_reason}")
    width = max((len(tag.name) for tag in decision.tags), default=0)
    for tag in decision.tags:
        kind = "moves" if tag.mutable else "fixed"
        yield f"  {tag.name:<{width}}  {kind}  {tag.reason}"
    if not decision.tags:
        yield f"  no tag: {decision.version_reason}"
    for one in decision.skipped:
        yield f"  without {one.entry}: {one.reason}"
    for image, found in placements.items():
        yield f"in {image}:"
        for placement in found:
            yield f"  {placement.tag:<{width}}  {placement.action}  {placement.reason}"
    if not decision.push:
        yield "not pushed" + ("" if decision.tags else ": there is no tag")
    for note in decision.notes:
        yield f"note: {note}"


def _document(decision: Decision, images: Sequence[str], placements: Placements) -> dict[str, Any]:
    document = {**decision.to_json(), "references": references(decision, images)}
    if placements:
        document["registry"] = {
            image: [
                {
                    "tag": one.tag,
                    "action": one.action,
                    "reason": one.reason,
                    "digest": str(one.digest) if one.digest else None,
                }
                for one in found
            ]
            for image, found in placements.items()
        }
    return document


def _outputs(decision: Decision, images: Sequence[str], bake: Path | None) -> Iterator[str]:
    """In the syntax of the file GITHUB_OUTPUT."""
    names = references(decision, images)
    labels = _pairs(decision.labels)
    annotations = [f"manifest:{pair}" for pair in _pairs(decision.annotations)]
    document = {
        "tags": names,
        "tag-names": [*decision.names],
        "labels": dict(decision.labels),
        "annotations": annotations,
    }
    yield _output("version", decision.called)
    yield _output("tags", "\n".join(names))
    yield _output("tag-names", "\n".join(decision.names))
    yield _output("labels", "\n".join(labels))
    yield _output("annotations", "\n".join(annotations))
    yield _output("json", json.dumps(document, sort_keys=True))
    yield _output("push", str(decision.push).lower())
    if bake is not None:
        from shipline.cli.results import write_whole  # brings the build with it

        write_whole(bake, json.dumps(_bake(decision, images, names), indent=2) + "\n")
        yield _output("bake-file", str(bake))


def _bake(decision: Decision, images: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    arguments = {
        "DOCKER_META_IMAGES": ",".join(images),
        "DOCKER_META_VERSION": decision.called,
    }
    target = {
        "tags": [*names],
        "labels": dict(decision.labels),
        "annotations": [f"manifest:{pair}" for pair in _pairs(decision.annotations)],
        "args": arguments,
    }
    return {"target": {_TARGET: target}}


def _pairs(values: Mapping[str, str]) -> list[str]:
    return [f"{key}={' '.join(value.splitlines())}" for key, value in values.items()]


def _output(name: str, value: str) -> str:
    """One value. Its end mark is made of the value, so nothing in it can pretend to be the end."""
    if "\n" not in value:
        return f"{name}={value}\n"
    mark = f"end_{hashlib.sha256(value.encode()).hexdigest()[:16]}"
    return f"{name}<<{mark}\n{value}\n{mark}\n"
