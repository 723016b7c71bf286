"""Where an image stands in the files of a GitOps repository, and the edits that set it there.

Five kinds of places: the `images` of a Kustomization, values of a Helm chart, a container in
manifests, an Argo CD Application, and values marked by a comment, ours or that of Flux's image
automation. Each is found exactly once, or it is an error; marked values alone may be several.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from shipline.deliver.gitops.yaml_text import Edit, UnsuitableFile, YamlFile, YamlValue
from shipline.errors import ConfigError, UsageError
from shipline.oci import Reference
from shipline.values import doc

_KUSTOMIZATIONS = ("kustomization.yaml", "kustomization.yml", "Kustomization")
_CONTAINERS = ("containers", "initContainers", "ephemeralContainers")
_MARKERS = ("$shipline", "$imagepolicy")
_MARKER = re.compile(r"#\s*(\{.*\})\s*$", re.MULTILINE)
_NONE = "none"

Tree = Mapping[str, Callable[[], bytes]]
"""The files of a commit by their paths, each with a function that reads it."""


class OnePlace:
    """A section of which exactly one of the fields `KINDS` is given: the kind, with a path."""

    __slots__ = ()
    KINDS: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        if len(self._places) != 1:
            raise ConfigError(f"needs one of {', '.join(self.KINDS)}")

    @property
    def kind(self) -> str:
        return next(iter(self._places))

    @property
    def place(self) -> str:
        """The file or directory; empty for the root of the repository."""
        path = self._places[self.kind]
        return "/".join(part for part in path.split("/") if part not in ("", "."))

    @property
    def _places(self) -> dict[str, str]:
        places = {kind: getattr(self, kind) for kind in self.KINDS}
        return {kind: place for kind, place in places.items() if place is not None}


@dataclass(frozen=True, slots=True)
class Update(OnePlace):
    """Where the image is set: one of five kinds of places."""

    KINDS: ClassVar[tuple[str, ...]] = (
        "kustomization",
        "values",
        "manifests",
        "application",
        "markers",
    )

    kustomization: str | None = field(
        default=None, metadata=doc("A Kustomization or its directory: an entry of `images`.")
    )
    values: str | None = field(
        default=None, metadata=doc("A file of Helm values: the value at `path`.")
    )
    manifests: str | None = field(
        default=None, metadata=doc("A manifest or a directory of them: a container's image.")
    )
    application: str | None = field(
        default=None, metadata=doc("An Argo CD Application: its Kustomize images or Helm values.")
    )
    markers: str | None = field(
        default=None, metadata=doc("A file or directory: values that a comment marks.")
    )
    image: str = field(
        default="", metadata=doc("The name in `images`, if it is not that of the repository.")
    )
    path: str = field(
        default="image",
        metadata=doc("The value of the chart: a name, or a mapping with repository and tag."),
    )
    container: str = field(
        default="",
        metadata=doc("The container; by default the one with an image of the repository."),
    )
    marker: str = field(
        default="",
        metadata=doc("The name in the comments; by default the last part of the repository."),
    )
    target: str = field(default="", metadata=doc("With `targets`: the one whose image is set."))

    def apply(self, tree: Tree, image: Reference) -> dict[str, bytes]:
        """The files that change, with their new contents; none if the image is set already. Raises
        UnsuitableFile if its place cannot be found, or is there twice.
        """
        files, found = self._find(tree, image)
        edits = {
            file.path: [edit for other, part in found if other is file for edit in part]
            for file in files
        }
        edited = {file.path: file.edited(edits[file.path]) for file in files}
        return {
            file.path: edited[file.path]
            for file in files
            if edited[file.path] != file.text.encode()
        }

    def present(self, tree: Tree, image: Reference) -> tuple[str, ...]:
        """The texts that stand where `apply` would set an image of this name: names, tags, digests.
        Raises UnsuitableFile as `apply`.
        """
        _, found = self._find(tree, image)
        return tuple(file.text[edit.start : edit.end] for file, edits in found for edit in edits)

    def require_same(self, tree: Tree, image: Reference, known: Container[str]) -> None:
        """Raises UnsuitableFile if `apply` would replace an image of another repository, but for
        those with `known` names. What is empty or no name is none.
        """
        _, found = self._find(tree, image)
        for file, edits in found:
            present = _name_in(file, edits, image)
            if present and present != image.name and present not in known:
                raise UnsuitableFile(
                    f"{file.path}:{file.line(edits[0].start)} has an image of {present},"
                    f" not of {image.name}",
                    code="gitops-other-image",
                    hint="if it is the right place, deploy it once with --replace-image",
                )

    def _find(
        self, tree: Tree, image: Reference
    ) -> tuple[list[YamlFile], list[tuple[YamlFile, list[Edit]]]]:
        """The files where the image may stand, and the edits that set it."""
        files = [YamlFile.parse(path, content) for path, content in self._read(tree, image)]
        find = _FINDERS[self.kind]
        found = [(file, edits) for file in files for edits in find(file, self, image)]
        if not found:
            raise self._missing(files, image)
        if len(found) > 1 and self.kind != "markers":
            raise self._ambiguous(found, image)
        return files, found

    def marker_name(self, image: Reference) -> str:
        """The name that comments have for the image."""
        return self.marker or image.repository.rpartition("/")[2]

    def image_names(self, image: Reference) -> tuple[str, ...]:
        """The names that Kustomize's `images` may have for the image."""
        return (self.image,) if self.image else (image.name, image.at(None).familiar)

    def _read(self, tree: Tree, image: Reference) -> Iterator[tuple[str, bytes]]:
        """The files where the image may stand. Raises UnsuitableFile if there are none."""
        place, words = self.place, tuple[str, ...]()
        prefix = f"{place}/" if place else ""
        names: Sequence[str] = (place,)
        if self.kind == "kustomization":
            names = (place, *(prefix + name for name in _KUSTOMIZATIONS))
        elif self.kind in ("manifests", "markers"):
            words = _MARKERS if self.kind == "markers" else (self.container or image.repository,)
            below = [path for path in tree if path.startswith(prefix)]
            names = (place, *(path for path in below if path.endswith((".yaml", ".yml"))))
        paths = [path for path in names if path in tree]
        if not paths:
            raise UnsuitableFile(
                f"{self.kind}: the GitOps repository has no {place or 'such file'}",
                hint="the path is relative to the root of that repository",
            )
        for path in paths:
            content = tree[path]()
            if not words or any(word.encode() in content for word in words):
                yield path, content

    def _missing(self, files: Sequence[YamlFile], image: Reference) -> UnsuitableFile:
        where = files[0].path if len(files) == 1 else self.place or "the GitOps repository"
        name = self.image_names(image)[0]
        lacks, hint = {
            "kustomization": (
                f"has no image named {name}",
                f"add it to images: {{name: {name}, newTag: {_NONE}}}",
            ),
            "values": (f"has no value {self.path}", "name the value with `path`, as a.b.c"),
            "manifests": (
                f"has no container {self.container or 'with an image of ' + image.name}",
                "name the container with `container`",
            ),
            "application": (
                f"has neither a Kustomize image {name} nor the Helm values {self.path}",
                f"add it to spec.source.kustomize.images: {name}:{_NONE}",
            ),
            "markers": (
                f"has no comment that marks a value for {self.marker_name(image)}",
                f'mark it: # {{"$shipline": "{self.marker_name(image)}"}}',
            ),
        }[self.kind]
        return UnsuitableFile(f"{where} {lacks}", hint=hint)

    def _ambiguous(
        self, found: Sequence[tuple[YamlFile, Sequence[Edit]]], image: Reference
    ) -> UnsuitableFile:
        places = ", ".join(f"{file.path}:{file.line(edits[0].start)}" for file, edits in found)
        name = "name one with `container`, or " if self.kind == "manifests" else ""
        return UnsuitableFile(
            f"the image {image.name} stands in {len(found)} places: {places}",
            hint=f"{name}mark the values to set with comments",
        )


def _name_in(file: YamlFile, edits: Sequence[Edit], image: Reference) -> str:
    """The name of the image that stands where the edits set one, without tag and digest; empty if
    there is none yet (`NAME:none`), and for tags and digests alone.
    """
    parts = {"host": image.host, "repository": image.repository}
    named = False
    for edit in edits:
        old = file.text[edit.start : edit.end].strip().strip("\"'")
        ((_, new),) = edit.values.values()
        if not old or old == _NONE:
            continue
        try:
            if new.endswith(str(image)):  # or NAME=IMAGE, an entry of a Kustomization
                there = Reference.parse(old.rpartition("=")[2])
                return there.name if there.tag != _NONE else ""
            if new == image.name:
                return Reference.parse(old).name
        except UsageError:
            continue
        for part in ("host", "repository"):
            if new == getattr(image, part):
                parts[part], named = old, True
    return "{host}/{repository}".format(**parts) if named else ""


def _in_kustomization(file: YamlFile, update: Update, image: Reference) -> Iterator[list[Edit]]:
    """Entries of `images`. The tag is kept beside the digest, for people."""
    names = update.image_names(image)
    for document in file.documents:
        images = document.get("images")
        for entry in images.items if images else ():
            name, new_name = entry.scalar("name"), entry.scalar("newName")
            if name in names or (not update.image and new_name in names):
                wanted = {"newTag": image.tag, "digest": str(image.digest)}
                if new_name or name not in (image.name, image.familiar):
                    wanted = {"newName": image.name, **wanted}
                yield file.set_entries(entry, wanted)


def _in_values(file: YamlFile, update: Update, image: Reference) -> Iterator[list[Edit]]:
    for document in file.documents:
        if value := _at(document, update.path):
            yield _set_value(file, value, image)


def _at(value: YamlValue, path: str) -> YamlValue | None:
    r"""The value at a path of keys and indexes as `helm --set` has it: a.b[0].c, a\.b."""
    for key, index in re.findall(r"((?:\\.|[^.\[\]\\])+)|\[([0-9]{1,6})\]", path):
        if index:
            below = next((item for item in value.items if item.path[-1] == int(index)), None)
        else:
            below = value.get(re.sub(r"\\(.)", r"\1", key))
        if below is None:
            return None
        value = below
    return value


def _set_value(file: YamlFile, value: YamlValue, image: Reference) -> list[Edit]:
    """A whole name, or a mapping with those of the usual parts that the chart has."""
    if not value.is_mapping:
        return [file.replace(value, str(image))]
    parts = {str(part.path[-1]): part for part in value.entries}
    if not parts.keys() & {"tag", "digest"}:
        raise UnsuitableFile(
            f"{file.path}:{value.line}: {value} has neither a tag nor a digest",
            hint=f"add `tag: {_NONE}`, which the chart puts behind the repository and a colon",
        )
    wanted = _helm_parts(image, digest="digest" in parts, registry="registry" in parts)
    return [file.replace(parts[key], text) for key, text in wanted.items() if key in parts]


def _helm_parts(image: Reference, *, digest: bool, registry: bool) -> dict[str, str]:
    """The parts of a name as charts have them; without one for the digest, it follows the tag."""
    name = {"registry": image.host, "repository": image.repository}
    if not registry:
        name = {"repository": image.name}
    if digest:
        return {**name, "tag": image.tag, "digest": str(image.digest)}
    return {**name, "tag": f"{image.tag or 'latest'}@{image.digest}"}


def _in_manifests(file: YamlFile, update: Update, image: Reference) -> Iterator[list[Edit]]:
    """Images of containers, wherever pods are described (Kubernetes, PodSpec)."""
    for document in file.documents:
        for value in document.walk():
            if value.path[-1] in _CONTAINERS:
                for container in value.items:
                    there = container.get("image")
                    by_name = update.container and container.scalar("name") == update.container
                    if there and (by_name or (not update.container and _is_of(there.text, image))):
                        yield [file.replace(there, str(image))]


def _is_of(text: str, image: Reference) -> bool:
    """Whether a name is one of the image's repository."""
    try:
        return Reference.parse(text).name == image.name
    except UsageError:
        return False


def _in_application(file: YamlFile, update: Update, image: Reference) -> Iterator[list[Edit]]:
    """Sources of an Application or of the template of an ApplicationSet (Argo CD, Application)."""
    for document in file.documents:
        if document.scalar("kind") not in ("Application", "ApplicationSet"):
            continue
        for value in document.walk():
            if value.path[-1] == "kustomize" and (images := value.get("images")):
                yield from _kustomize_images(file, images, update, image)
            elif value.path[-1] == "helm" and (edits := _helm_source(file, value, update, image)):
                yield edits


def _kustomize_images(
    file: YamlFile, images: YamlValue, update: Update, image: Reference
) -> Iterator[list[Edit]]:
    """Entries of the form [NAME=]NEW_NAME[:TAG][@DIGEST]."""
    for item in images.items:
        name, equals, new = item.text.rpartition("=")
        if name in update.image_names(image) or (not update.image and _is_of(new, image)):
            yield [file.replace(item, f"{name}{equals}{image}")]


def _helm_source(file: YamlFile, helm: YamlValue, update: Update, image: Reference) -> list[Edit]:
    """The parameters PATH, or PATH.repository, PATH.tag and so on; else a value of valuesObject."""
    parameters = helm.get("parameters")
    there = {
        item.scalar("name"): value
        for item in (parameters.items if parameters else ())
        if (value := item.get("value"))
    }
    if update.path in there:
        return [file.replace(there[update.path], str(image))]
    path = update.path
    wanted = _helm_parts(
        image, digest=f"{path}.digest" in there, registry=f"{path}.registry" in there
    )
    named = {
        there[f"{path}.{key}"]: text for key, text in wanted.items() if f"{path}.{key}" in there
    }
    if named:
        return [file.replace(value, text) for value, text in named.items()]
    values = helm.get("valuesObject")
    found = _at(values, path) if values else None
    return _set_value(file, found, image) if found else []


def _marked(file: YamlFile, update: Update, image: Reference) -> Iterator[list[Edit]]:
    """Values in front of a comment {"$shipline": "NAME[:PART]"}, or Flux's {"$imagepolicy":
    "NAMESPACE:POLICY[:PART]"}, where PART is tag, name or digest.
    """
    scalars = [value for document in file.documents for value in document.walk()]
    lines = {value.node.end_mark.line: value for value in scalars if value.node.id == "scalar"}
    for match in _MARKER.finditer(file.text):
        part = _marked_part(match[1], update.marker_name(image))
        scalar = lines.get(file.line(match.start()) - 1)
        if part is not None and scalar and scalar.node.end_mark.index <= match.start():
            texts = {"": str(image), "tag": image.tag, "name": image.name}
            yield [file.replace(scalar, texts.get(part) or str(image.digest))]


def _marked_part(comment: str, name: str) -> str | None:
    """What the comment marks: empty for the whole name; None if it marks another image."""
    try:
        marker = json.loads(comment)
    except ValueError:
        return None
    text = next((marker[key] for key in _MARKERS if isinstance(marker.get(key), str)), "")
    for part in ("", "tag", "name", "digest"):
        if text == (f"{name}:{part}" if part else name):
            return part
    return None


_FINDERS: Mapping[str, Callable[[YamlFile, Update, Reference], Iterator[list[Edit]]]] = {
    "kustomization": _in_kustomization,
    "values": _in_values,
    "manifests": _in_manifests,
    "application": _in_application,
    "markers": _marked,
}
