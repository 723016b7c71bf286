"""Where the Dockerfile of a build is, and what standard input holds: the context or a Dockerfile.

Light to import, for builds elsewhere too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from shipline.build.request import BuildRequest, ContextKind
from shipline.content import Reader
from shipline.errors import UsageError
from shipline.layer import sniff

DOCKERFILE_LIMIT = 16 << 20  # bytes
HEAD = 512  # bytes, enough to recognise an archive
_PODMAN = "Containerfile"
_SHOWN = 5


def is_http(source: str) -> bool:
    """Whether `source` is an HTTP URL."""
    return source.lower().startswith(("http://", "https://"))


def dockerfile_path(request: BuildRequest) -> Path | None:
    """The path of the Dockerfile, None for standard input or a URL."""
    file, place = request.dockerfile, request.context.place
    if file == "-" or is_http(file or "") or not place:
        return None
    if file is None:
        return Path(place) / "Dockerfile"
    given = Path(file)
    inside = Path(place) / given
    if not request.context.is_local and is_inside(request):
        return inside
    return inside if not given.exists() and inside.exists() else given


def is_inside(request: BuildRequest) -> bool:
    """Whether --file names a file of a context that is not a directory of this machine."""
    file = request.dockerfile or ""
    if request.context.kind is ContextKind.STDIN:
        return file != "-" and not is_http(file)
    return file != "-" and not is_http(file) and not os.path.isabs(file)


def existing(path: Path) -> Path:
    """`path`, or `dockerfile` for a `Dockerfile` that does not exist, as in BuildKit."""
    lower = path.with_name("dockerfile")
    missing = path.name == "Dockerfile" and not os.path.lexists(path)
    return lower if missing and "dockerfile" in _names(path.parent) else path


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def unreadable_dockerfile(request: BuildRequest, path: Path, name: str, why: str) -> UsageError:
    """The error for a Dockerfile at `path`, shown as `name`; perhaps another file was meant."""
    return UsageError(
        f"cannot read the Dockerfile {name}: {why}",
        code="dockerfile-unreadable",
        hint=_other_dockerfile(request, path),
    )


def _other_dockerfile(request: BuildRequest, path: Path) -> str:
    """A hint for a missing Dockerfile: perhaps a similar name, or that of Podman."""
    inside = request.context.directory
    if meant := _similar(path.name, _names(path.parent)):
        found = path.parent / meant[0]
        return f"did you mean -f {os.path.relpath(found, inside) if inside else found}?"
    context = Path(request.context.place) if request.context.is_local else path.parent
    if there := _dockerfiles(path.parent, context):
        shown = (os.path.relpath(one, inside) if inside else str(one) for one in there)
        return f"name it with -f: there is {', '.join(shown)}"
    if inside:
        return "name it with -f: a path inside of the context"
    return "name it with -f, or build in the directory that has it"


def _dockerfiles(directory: Path, context: Path) -> list[Path]:
    """The first Dockerfiles in `directory`; if there is none, in `context` or directories in it."""
    for place in (directory, context, *sorted(one.parent for one in context.glob("*/Dockerfile"))):
        named = [name for name in _names(place) if "dockerfile" in name.lower()]
        files = [place / name for name in sorted(named) if os.path.isfile(place / name)]
        found = [one for one in files if one.suffix != ".dockerignore"]
        if found:
            return found[:_SHOWN]
    return []


def _similar(name: str, names: Iterable[str]) -> list[str]:
    from difflib import get_close_matches  # only needed for mistakes

    found = sorted(names)
    return get_close_matches(name, found, 1, 0.7) or [one for one in found if one == _PODMAN]


def begin_stdin(request: BuildRequest, stdin: Reader | None) -> BegunReader:
    """Standard input, which is the context or the Dockerfile alone; its head tells which.

    Raises UsageError for no input, and for a Dockerfile beside another one.
    """
    if stdin is None:
        raise UsageError("the context is standard input, which is closed", code="standard-input")
    begun = BegunReader(read_head(stdin), stdin)
    if not begun.head:
        raise UsageError(
            "standard input is empty",
            code="standard-input",
            hint="send a Dockerfile or a tar archive",
        )
    other = request.dockerfile is not None and not is_http(request.dockerfile)
    if other and sniff(begun.head) is None:
        raise UsageError(
            "standard input is not a tar archive, so it cannot contain --file",
            code="standard-input",
            hint="send the Dockerfile without --file, or an archive that contains the file",
        )
    return begun


def read_head(stdin: Reader) -> bytes:
    """The first bytes, enough to recognise an archive."""
    head = b""
    while len(head) < HEAD and (data := stdin.read(HEAD - len(head))):
        head += data
    return head


class BegunReader:
    """A reader of the bytes in `head`, and then of the rest."""

    def __init__(self, head: bytes, rest: Reader) -> None:
        self.head = head
        self._waiting = head
        self._rest = rest

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        if not self._waiting:
            return self._rest.read(size)
        data, self._waiting = self._waiting[:size], self._waiting[size:]
        return data


def bounded(stdin: Reader) -> Iterator[bytes]:
    """What can be read, up to more than a Dockerfile may have."""
    left = DOCKERFILE_LIMIT + 1
    while left and (data := stdin.read(left)):
        left -= len(data)
        yield data
