"""`shipline tags`: the tags of this commit's image, and why; as text, JSON, or outputs of
docker/metadata-action.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import click

from shipline.cli.commit import CommitQuery, commit_options, expected_decision
from shipline.cli.environment import registry_options
from shipline.cli.template import render
from shipline.errors import InvalidFlag, UsageError
from shipline.tags import Decision, TagPlacement, place, snapshot
from shipline.values import replace

Placements = Mapping[str, Sequence[TagPlacement]]
_PREFIXES = {"github": "", "github-env": "DOCKER_METADATA_OUTPUT_"}
_LEVELS_VARIABLE = "DOCKER_METADATA_ANNOTATIONS_LEVELS"
_LEVELS = ("manifest", "index", "manifest-descriptor", "index-descriptor")


def show(
    decision: Decision,
    images: Sequence[str],
    placements: Placements,
    form: str,
    bake: Path | None,
    target: str,
) -> str:
    """The decision in the format `form`; equal decisions give equal bytes. `images` are the
    repositories that get the tags. Bytes of ref names that are not UTF-8 are shown as U+FFFD.
    Raises UsageError for an unknown format.
    """
    if form in _PREFIXES:
        outputs = _outputs(decision, images, bake, target)
        text = "".join(_output(_PREFIXES[form], *output) for output in outputs.items())
    else:
        text = _shown(decision, images, placements, form)
    return text.encode(errors="surrogateescape").decode(errors="replace")


def _shown(decision: Decision, images: Sequence[str], placements: Placements, form: str) -> str:
    if form == "text":
        return "".join(f"{line}\n" for line in _text(decision, placements))
    if form == "json":
        document = _document(decision, images, placements)
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    if form == "names":
        return "".join(f"{name}\n" for name in references(decision, images))
    if "{{" in form:
        return render(form, _document(decision, images, placements)) + "\n"
    raise InvalidFlag(
        f"--format: unknown format {form!r}",
        hint="text, json, names, github, github-env or a template",
    )


def references(decision: Decision, images: Sequence[str]) -> list[str]:
    """Every tag of every image; only tags if `images` is empty."""
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
        explained = any(tag.reason == decision.version_reason for tag in decision.tags)
        yield f"version {decision.version}{name}" + (
            "" if explained else f": {decision.version_reason}"
        )
    width = max((len(tag.name) for tag in decision.tags), default=0)
    for tag in decision.tags:
        kind = "moves" if tag.mutable else "fixed"
        yield f"  {tag.name:<{width}}  {kind}  {tag.reason}"
    if not decision.tags:
        yield f"  no tag: {decision.version_reason}"
    for skipped in decision.skipped:
        yield f"  without {skipped.entry}: {skipped.reason}"
    for image, entries in placements.items():
        yield f"in {image}:"
        for placement in entries:
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
                    "tag": entry.tag,
                    "action": entry.action,
                    "reason": entry.reason,
                    "digest": str(entry.digest) if entry.digest else None,
                }
                for entry in entries
            ]
            for image, entries in placements.items()
        }
    return document


def _outputs(
    decision: Decision, images: Sequence[str], bake: Path | None, target: str
) -> dict[str, str]:
    """The outputs of docker/metadata-action, whose bake files are written if `bake` is given."""
    names = references(decision, images)
    annotations = _annotations(decision)
    document = {
        "tags": names,
        "tag-names": [*decision.names],
        "labels": dict(decision.labels),
        "annotations": annotations,
    }
    outputs = {
        "version": decision.called,
        "tags": "\n".join(names),
        "tag-names": "\n".join(decision.names),
        "labels": "\n".join(_pairs(decision.labels)),
        "annotations": "\n".join(annotations),
        "json": json.dumps(document, sort_keys=True),
        "push": str(decision.push).lower(),
    }
    if bake is None:
        return outputs
    parts = _bake_parts(decision, images, document)
    return {**outputs, **_write_bake_files(bake, target, parts)}


def _bake_parts(
    decision: Decision, images: Sequence[str], document: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The keys of the target in each bake file, by the end of the file's name."""
    arguments = {"DOCKER_META_IMAGES": ",".join(images), "DOCKER_META_VERSION": decision.called}
    tags = {"tags": document["tags"], "args": arguments}
    labels = {"labels": document["labels"]}
    return {
        "": {**tags, **labels},
        "-tags": tags,
        "-labels": labels,
        "-annotations": {"annotations": document["annotations"]},
    }


def _write_bake_files(
    path: Path, target: str, parts: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    from shipline.cli.results import write_whole  # brings the build with it

    outputs = {}
    for end, keys in parts.items():
        file = path.with_stem(f"{path.stem}{end}")
        write_whole(file, json.dumps({"target": {target: keys}}, indent=2) + "\n")
        outputs[f"bake-file{end}"] = str(file)
    return outputs


def _annotations(decision: Decision) -> list[str]:
    """The annotations as `LEVEL:KEY=VALUE`, for each level that docker/metadata-action's variable
    names. Raises UsageError.
    """
    levels = [level.strip() for level in os.environ.get(_LEVELS_VARIABLE, "").split(",")]
    for level in filter(None, levels):
        if level not in _LEVELS:
            raise UsageError(
                f"{_LEVELS_VARIABLE}: {level!r} is not a level",
                code="variable-value",
                hint=f"one of {', '.join(_LEVELS)}",
            )
    pairs = _pairs(decision.annotations)
    return [
        f"{level}:{pair}" for level in [*filter(None, levels)] or ["manifest"] for pair in pairs
    ]


def _pairs(values: Mapping[str, str]) -> list[str]:
    return [f"{key}={' '.join(value.splitlines())}" for key, value in values.items()]


def _output(prefix: str, name: str, value: str) -> str:
    """One output in the syntax of the files GITHUB_OUTPUT and GITHUB_ENV. The end marker is derived
    from the value, so that the value cannot contain it.
    """
    if prefix:
        name = prefix + name.replace("-", "_").upper()
    if "\n" not in value:
        return f"{name}={value}\n"
    mark = f"end_{hashlib.sha256(value.encode()).hexdigest()[:16]}"
    return f"{name}<<{mark}\n{value}\n{mark}\n"


@click.command("tags")
@commit_options
@click.option(
    "-i",
    "--image",
    "images",
    multiple=True,
    metavar="NAME",
    help="Tag this image; also name=NAME,enable=true|false, and several lines (repeatable).",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option(
    "--format",
    "form",
    default="text",
    metavar="FORMAT",
    help="text, json, names, github, github-env, or a template such as {{.version}}.",
)
@click.option(
    "--bake-file",
    "bake",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="With --format github: write the definition for bake there, and beside it its parts.",
)
@click.option(
    "--bake-target",
    "target",
    default="docker-metadata-action",
    metavar="NAME",
    help="The target in these definitions.",
)
@click.option("--registry", is_flag=True, help="Compare with the tags in the registry.")
@registry_options
def command(
    query: CommitQuery,
    images: Sequence[str],
    as_json: bool,
    form: str,
    bake: Path | None,
    target: str,
    registry: bool,
) -> None:
    """Print the tags of this commit's image, with the reason for each."""
    from shipline.oci import Reference

    form = "json" if as_json else form
    decision = expected_decision(query)
    wanted = enabled_images(images) if images else filter(None, [query.image])
    named = [Reference.parse(name) for name in wanted]
    names = tuple(reference.name for reference in named)
    if form in _PREFIXES:  # as docker/metadata-action has them: name/app, without docker.io
        names = tuple(replace(reference, tag="", digest=None).familiar for reference in named)
    placements = {name: compare(query, decision, name) for name in names} if registry else {}
    if form == "text":
        decision = replace(decision, notes=(*decision.notes, *_uncommitted(query, decision)))
    click.echo(show(decision, names, placements, form, bake, target), nl=False)


def _uncommitted(query: CommitQuery, decision: Decision) -> Iterator[str]:
    """A note for a checked-out commit whose files are not those of the work tree."""
    from shipline.git import GitError, read_work_tree
    from shipline.ship.preparation import DirtyWorkTree

    reports = query.config.pipeline.report_paths if query.config else ()
    with suppress(GitError):  # a bare repository
        work_tree = read_work_tree(query.git, ignore=reports)
        if work_tree.dirty and work_tree.commit == decision.commit:
            yield f"{DirtyWorkTree(work_tree).message}: `shipline ship` refuses them"


def enabled_images(texts: Sequence[str]) -> list[str]:
    """The names in texts like the input `images` of docker/metadata-action, in lower case: one per
    line, or separated by commas, or `name=NAME,enable=true`. Raises UsageError.
    """
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return [name for line in lines if line[:1] not in {"", "#"} for name in _names_of(line)]


def _names_of(line: str) -> list[str]:
    fields = [field.strip() for field in next(csv.reader([line]))]
    if not any("=" in field for field in fields):
        return [field.lower() for field in fields if field]
    attributes = {}
    for field in fields:
        key, equals, value = (part.strip() for part in field.partition("="))
        attributes[key.lower() if equals else "name"] = value if equals else key
    name, enable = attributes.pop("name", ""), attributes.pop("enable", "true")
    if not name or attributes or enable not in {"true", "false"}:
        raise InvalidFlag(
            f"--image {line}: not name=NAME,enable=true|false",
            hint="NAME alone, or name=NAME with enable=true or enable=false",
        )
    return [name.lower()] if enable == "true" else []


def compare(query: CommitQuery, decision: Decision, image: str) -> tuple[TagPlacement, ...]:
    """The action for each tag in the registry of `image`."""
    from shipline.cli.imagetools import OpenRepositories
    from shipline.git import is_ancestor
    from shipline.oci import Reference

    with ExitStack() as stack:
        repository = OpenRepositories(stack)(Reference.parse(image)).unmirrored
        current = snapshot(repository, decision.names)
    return place(decision, current, lambda old, new: is_ancestor(query.git, old, new))
