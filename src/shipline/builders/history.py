"""References to builds, as buildx keeps them: so `docker buildx history` names what was built by
its directory, and metadata files name builds as it does.

Source: docker/buildx, localstate/localstate.go; build/build.go for the reference.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from shipline.build.request import BuildRequest, ContextKind
from shipline.builders.instances import Builder, BuilderStore, Node

_ENGINE, _DEFAULT = "docker", "default"
_REFERENCES, _GROUPS = "refs", "__group__"


def reference_of(builder: Builder, node: Node, ref: str) -> str:
    """BUILDER/NODE/REF; the engine of docker's current context is `default` there."""
    names = [builder.name, node.name]
    if builder.dynamic:
        names = [_DEFAULT if name == _ENGINE else name for name in names]
    return "/".join([*names, ref])


def note_build(request: BuildRequest, reference: str, environment: Mapping[str, str]) -> None:
    """Note where the files of a build are; quiet about a directory that cannot be written."""
    context, dockerfile = request.context, request.dockerfile or ""
    state = {
        "Target": request.target or "default",
        "LocalPath": "-" if context.kind is ContextKind.STDIN else context.location,
        "DockerfilePath": dockerfile,
    }
    if context.is_local:
        path = Path(dockerfile or Path(context.location, "Dockerfile"))
        state["LocalPath"] = str(Path(context.location).absolute())
        state["DockerfilePath"] = dockerfile if dockerfile == "-" else str(path.absolute())
    file = BuilderStore.of(environment).directory / _REFERENCES / reference
    with suppress(OSError):
        _write(file, state)


def note_group(
    references: Sequence[str], targets: Sequence[str], environment: Mapping[str, str]
) -> None:
    """Note that the builds with the references are those of one bake."""
    directory, group = BuilderStore.of(environment).directory / _REFERENCES, uuid.uuid4().hex[:25]
    with suppress(OSError):
        for reference in references:
            file = directory / reference
            state = json.loads(file.read_bytes())
            file.unlink()
            _write(file, {**state, "GroupRef": group})
        names = [reference.rpartition("/")[2] for reference in references]
        _write(directory / _GROUPS / group, {"Targets": list(targets), "Refs": names})


def _write(file: Path, document: Mapping[str, object]) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "w") as out:
        json.dump(document, out)
