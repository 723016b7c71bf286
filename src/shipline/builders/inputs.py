"""What a build on a builder reads, found once for all of its nodes: contexts and the Dockerfile,
wherever they come from, as attributes of BuildKit's frontend and what stands behind them.

Source: docker/buildx, build/opt.go (loadInputs); moby/buildkit, frontend/dockerui.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec import Struct, field

from shipline.build.locating import (
    begin_stdin,
    bounded,
    dockerfile_path,
    existing,
    is_http,
    unreadable_dockerfile,
)
from shipline.build.request import BuildRequest, Context, ContextKind
from shipline.build.settings import Settings
from shipline.content import OciLayout, Reader, chunks
from shipline.errors import UsageError
from shipline.layer import decompress, sniff
from shipline.oci import InvalidReference, Reference

_CONTEXT, _DOCKERFILE = "context", "dockerfile"  # names of directories
_SESSION = "http://buildkit-session/"  # the client's uploads


class Inputs(Struct, frozen=True):
    """Attributes of the frontend, and what the daemon may ask for by the names in them:
    directories, files that are uploaded, and content stores.
    """

    attributes: dict[str, str] = field(default_factory=dict)
    directories: dict[str, Path] = field(default_factory=dict)
    uploads: dict[str, Path] = field(default_factory=dict)
    stores: dict[str, OciLayout] = field(default_factory=dict)


@contextmanager
def open_inputs(request: BuildRequest, settings: Settings) -> Iterator[Inputs]:
    """The inputs of `request`, inside the block, without results of other targets; standard input
    is read.

    Raises UsageError, NotFound for an image that is not in its layout, RegistryError for a
    Dockerfile at a URL that cannot be fetched.
    """
    inputs = Inputs()
    with TemporaryDirectory(prefix="shipline-") as scratch:
        _add_context(request, settings, inputs, Path(scratch))
        for name, context in request.build_contexts.items():
            if context.kind is ContextKind.TARGET:
                continue
            inputs.attributes[f"context:{_plain(name)}"] = _named(name, context, inputs)
        yield inputs


def _add_context(request: BuildRequest, settings: Settings, inputs: Inputs, scratch: Path) -> None:
    """The main context, and the Dockerfile: in it, beside it, or elsewhere."""
    context, attributes = request.context, inputs.attributes
    text: Reader | None = settings.stdin if request.dockerfile == "-" else None
    if request.inline is not None:
        text = io.BytesIO(request.inline)
    if context.is_local:
        inputs.directories[_CONTEXT] = _directory(context, "the context")
    elif context.kind is ContextKind.STDIN:
        begun = begin_stdin(request, settings.stdin)
        if (compression := sniff(begun.head)) is None:
            text = begun
            inputs.directories[_CONTEXT] = scratch / "empty"
            inputs.directories[_CONTEXT].mkdir()
        else:  # BuildKit knows no zstd here
            archive = decompress(begun, compression) if compression == "zstd" else begun
            attributes["context"] = _upload(archive, inputs, scratch)
    else:
        attributes["context"] = context.location
    if is_http(request.dockerfile or ""):
        with closing(settings.get(request.dockerfile or "", {})) as reply:
            _add_dockerfile(reply, inputs, scratch)
    elif request.dockerfile == "-" or text is not None:
        if text is None:
            raise UsageError(
                "the Dockerfile is standard input, which is closed", code="standard-input"
            )
        _add_dockerfile(text, inputs, scratch)
    elif context.is_local or Path(request.dockerfile or "").is_absolute():
        _add_dockerfile_here(request, inputs)
    elif request.dockerfile:
        attributes["filename"] = request.dockerfile


def _add_dockerfile(reader: Reader, inputs: Inputs, scratch: Path) -> None:
    """A Dockerfile from elsewhere, as a file."""
    directory = scratch / "dockerfile"
    directory.mkdir()
    (directory / "Dockerfile").write_bytes(b"".join(bounded(reader)))
    inputs.directories[_DOCKERFILE] = directory
    inputs.attributes["dockerfilekey"] = _DOCKERFILE


def _add_dockerfile_here(request: BuildRequest, inputs: Inputs) -> None:
    """A Dockerfile on this machine; the daemon is given its directory, for its ignore file."""
    given = Path(request.dockerfile or "")
    path = given if given.is_absolute() else dockerfile_path(request)
    assert path is not None
    try:
        with existing(path).open("rb"):
            pass
    except OSError as error:
        why = error.strerror or str(error)
        raise unreadable_dockerfile(request, path, str(path), why) from None
    inputs.directories[_DOCKERFILE] = path.absolute().parent
    inputs.attributes.update(filename=path.name, dockerfilekey=_DOCKERFILE)


def _plain(name: str) -> str:
    """The name of a context as the frontend looks it up, in whatever spelling it was given."""
    try:
        return Reference.parse(name).familiar.removesuffix(":latest")
    except InvalidReference:
        return name


def _named(name: str, context: Context, inputs: Inputs) -> str:
    """A named context, as the frontend reads it."""
    if context.is_local:
        local = f"_{name}" if name in (_CONTEXT, _DOCKERFILE) else name
        inputs.directories[local] = _directory(context, f"--build-context {name}:")
        return f"local:{local}"
    if context.kind is ContextKind.LAYOUT:
        from shipline.build.base_images import LAYOUT, open_layout  # slow to import

        layout, wanted = open_layout(f"{LAYOUT}{context.location}")
        digest, store = layout.resolve(wanted).digest, uuid.uuid4().hex
        inputs.stores[f"oci:{store}"] = layout
        tag = wanted if wanted and ":" not in wanted else "latest"
        return f"{LAYOUT}{store}:{tag}@{digest}"
    scheme = "docker-image://" if context.kind is ContextKind.IMAGE else ""
    return f"{scheme}{context.location}"


def _directory(context: Context, what: str) -> Path:
    path = Path(context.location).absolute()
    if not path.is_dir():
        raise UsageError(
            f"{what} {context.location!r} is not a directory", code="context-not-found"
        )
    return path


def _upload(reader: Reader, inputs: Inputs, scratch: Path) -> str:
    """The URL of a file that is sent when the daemon asks for it: each node does."""
    name = uuid.uuid4().hex
    path = inputs.uploads[name] = scratch / name
    with path.open("wb") as file:
        for data in chunks(reader):
            file.write(data)
    return f"{_SESSION}{name}"
