"""Where a result goes: --output, --push and --load to a list of outputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from shipline.build.annotating import is_annotation
from shipline.build.request import BuildRequest, Output
from shipline.build.values import parse_attributes, parse_boolean, split_csv
from shipline.errors import UsageError
from shipline.oci import Reference

_TYPES = ("image", "registry", "local", "tar", "oci", "docker", "cacheonly")
_BOOLEANS = frozenset(
    {"push", "push-by-digest", "registry.insecure", "oci-mediatypes", "oci-artifact", "unpack"}
    | {"store", "name-canonical", "force-compression", "rewrite-timestamp", "attestation-inline"}
    | {"prefer-nondist-layers", "tar", "platform-split"}
)
_NEEDS_DESTINATION = frozenset({"local", "tar", "oci"})
_IMAGE = frozenset(
    {"name", "oci-mediatypes", "oci-artifact", "compression", "compression-level"}
    | {"force-compression", "rewrite-timestamp", "unpack", "store", "dangling-name-prefix"}
    | {"name-canonical", "attestation-inline", "prefer-nondist-layers", "compatibility-version"}
)
_TREE = frozenset({"dest", "platform-split", "attestation-prefix"})
_KNOWN = {
    "image": _IMAGE | {"push", "push-by-digest", "registry.insecure"},
    "registry": _IMAGE | {"push", "push-by-digest", "registry.insecure"},
    "oci": _IMAGE | {"dest", "tar"},
    "docker": _IMAGE | {"dest", "tar", "context"},
    "local": _TREE | {"mode"},
    "tar": _TREE,
    "cacheonly": frozenset[str](),
}


def parse_outputs(texts: Iterable[str], *, push: bool, load: bool) -> tuple[Output, ...]:
    """All outputs of a build. --push turns the image outputs into pushing ones, or adds one;
    --load adds the engine of this machine unless it is there already.
    """
    outputs = [parse_output(text) for text in texts]
    if push:
        outputs = [_pushed(output) if output.type == "image" else output for output in outputs]
        if not any(output.pushes for output in outputs):
            outputs.append(Output("image", {"push": "true"}))
    if load and not any(output.loads for output in outputs):
        outputs.append(Output("docker"))
    if sum(output.destination == "-" for output in outputs) > 1:
        raise UsageError("--output: only one output can go to standard output")
    return tuple(outputs)


def parse_output(text: str) -> Output:
    """`type=T,key=value,...`; a path alone is type=local, `-` alone is type=tar to standard
    output, type=registry is type=image,push=true. Booleans are `true` or `false` afterwards.
    """
    if split_csv(text) == (text,) and not text.startswith("type="):
        return Output("tar" if text == "-" else "local", {"dest": text})
    fields = parse_attributes(text, "--output")
    kind = fields.pop("type", "")
    if kind not in _TYPES:
        raise UsageError(
            f"--output: {kind!r} in {text!r} is not a type of output",
            hint=f"it is one of {', '.join(_TYPES)}",
        )
    _refuse_unknown(kind, fields)
    for key in _BOOLEANS & fields.keys():
        fields[key] = str(parse_boolean(fields[key], f"--output {key}")).lower()
    if kind == "registry":
        return Output("image", {**fields, "push": fields.get("push", "true")})
    if kind in _NEEDS_DESTINATION and not fields.get("dest"):
        raise UsageError(f"--output: type={kind} needs dest=")
    return Output(kind, fields)


def names(outputs: Iterable[Output]) -> tuple[str, ...]:
    """What the outputs call the image, besides its tags."""
    return tuple(name for one in outputs for name in _own_names(one))


def names_of(output: Output, request: BuildRequest) -> tuple[Reference, ...]:
    """What `output` calls the image: its own names, and the tags that are no other output's."""
    own = [Reference.parse(name).or_latest for name in _own_names(output)]
    others = {Reference.parse(name).or_latest for name in names(request.outputs)}
    return tuple(dict.fromkeys([*own, *(tag for tag in request.tags if tag not in others)]))


def _own_names(output: Output) -> tuple[str, ...]:
    return tuple(name for name in split_csv(output.attributes.get("name", "")) if name)


def _refuse_unknown(kind: str, attributes: Iterable[str]) -> None:
    known = _KNOWN[kind]
    annotated = "compression" in known
    for key in attributes:
        if key not in known and not (annotated and is_annotation(key)):
            raise UsageError(
                f"--output: type={kind} has no attribute {key!r}",
                hint=f"it has {', '.join(sorted(known)) or 'none'}"
                + (", annotation.KEY" if annotated else ""),
            )


def _pushed(output: Output) -> Output:
    return replace(output, attributes={**output.attributes, "push": "true"})
