"""The build's inputs on this machine: the Dockerfile, its contexts and the ignore rules.

Standard input may be the context, as a tar archive, compressed or not, or the Dockerfile alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from difflib import get_close_matches
from pathlib import Path

from shipline import dockerfile as df
from shipline.build.checks import configured
from shipline.build.clock import EPOCH, EPOCH_HINT, epoch_of, with_seconds
from shipline.build.graph import MAIN_CONTEXT
from shipline.build.layer_files import USE_LOCK
from shipline.build.request import BuildRequest, Context, ContextKind
from shipline.build.selecting import ContextDirectory, included
from shipline.build.validation import check_frontend
from shipline.content import Reader, Recency
from shipline.errors import SandboxError, UsageError
from shipline.events import Step
from shipline.layer import Item, StatCache, decompress, read_tar, sniff, unpack
from shipline.sandbox import resolve_in_root
from shipline.values import replace

TimeOfStage = Callable[[BuildRequest, df.Dockerfile, str, df.Stage], int]
"""The time of a stage for SOURCE_DATE_EPOCH, in seconds; raises DockerfileError without one."""

_LIMIT = 16 << 20  # bytes of a Dockerfile
_HEAD = 512  # bytes, enough to recognise an archive
_SECOND = 1_000_000_000  # nanoseconds
_UTF_16 = {b"\xff\xfe", b"\xfe\xff"}  # byte order marks of Windows editors


def load_dockerfile(
    request: BuildRequest,
    stdin: Reader | None,
    scratch: Path,
    step: Step,
    time_of: TimeOfStage,
) -> tuple[BuildRequest, df.Dockerfile]:
    """The parsed Dockerfile, and the request with its context unpacked below `scratch` where it
    came on `stdin`; SOURCE_DATE_EPOCH is a number of seconds in both. Raises UsageError,
    DockerfileError, ContentError.
    """
    with step.step("load Dockerfile", kind="internal"):
        request, rest = open_stdin(request, stdin, scratch)
        written = configured(read_dockerfile(request, rest), request)
        resolved = with_seconds(
            request, written, lambda name, stage: time_of(request, written, name, stage)
        )
    if epoch_of(request, written) and not epoch_of(*resolved):
        step.warn(
            f"{EPOCH} is not set: the context that it names has no time of its own", EPOCH_HINT
        )
    return resolved


def open_stdin(
    request: BuildRequest, stdin: Reader | None, scratch: Path
) -> tuple[BuildRequest, Reader | None]:
    """The request, its context an archive on `stdin` that was unpacked below `scratch`; and the
    input left to read. Raises UsageError for no input, ContentError for a damaged archive.
    """
    if request.context.kind is not ContextKind.STDIN:
        return request, stdin
    if stdin is None:
        raise UsageError("the context is standard input, which is closed")
    joined = _Joined(_head(stdin), stdin)
    if not joined.head:
        raise UsageError("standard input is empty", hint="send a Dockerfile or a tar archive")
    compression = sniff(joined.head)
    if compression is None:
        if request.dockerfile is not None:
            raise UsageError(
                "standard input is not a tar archive, so there is no --file in it",
                hint="send the Dockerfile without --file, or an archive that contains the file",
            )
        return request, joined
    place = scratch / "context"
    place.mkdir()
    times: list[int] = []
    items = _collect_times(read_tar(decompress(joined, compression)), times)
    unpack(items, place, whiteouts="keep", owner=False)
    newest = max(times) // _SECOND if times else None
    return replace(request, context=Context(ContextKind.STDIN, str(place), newest)), None


def _collect_times(items: Iterable[Item], times: list[int]) -> Iterator[Item]:
    """`items`; the time of each file is added to `times`."""
    for entry, content in items:
        if entry.kind == "file":
            times.append(entry.mtime_ns)
        yield entry, content


def _head(stdin: Reader) -> bytes:
    head = b""
    while len(head) < _HEAD and (data := stdin.read(_HEAD - len(head))):
        head += data
    return head


class _Joined:
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


def read_dockerfile(request: BuildRequest, stdin: Reader | None) -> df.Dockerfile:
    """The parsed Dockerfile. Raises UsageError if there is none, DockerfileError for its errors."""
    name, content = _content(request, stdin)
    if len(content) > _LIMIT:
        raise UsageError(f"{name} is too big for a Dockerfile: more than {_LIMIT} bytes")
    if content[:2] in _UTF_16:
        raise UsageError(f"{name} is written in UTF-16", hint="save it as UTF-8")
    check_frontend(request, df.detect_syntax(content.decode(errors="replace")), name)
    return df.parse_dockerfile(content, file=name)


def _content(request: BuildRequest, stdin: Reader | None) -> tuple[str, bytes]:
    path = _dockerfile_path(request)
    if path is None:
        if stdin is None:
            raise UsageError("the Dockerfile is standard input, which is closed")
        return "Dockerfile", b"".join(_bounded(stdin))
    name = str(path)
    try:
        if request.context.kind is ContextKind.STDIN:
            name = request.dockerfile or "Dockerfile"
            path = resolve_in_root(Path(request.context.location), name)
        with path.open("rb") as file:
            return name, file.read(_LIMIT + 1)
    except (OSError, SandboxError) as error:
        why = error.strerror if isinstance(error, OSError) else error.message
        raise UsageError(
            f"cannot read the Dockerfile {name}: {why}", hint=_other_dockerfile(path)
        ) from None


def _other_dockerfile(path: Path) -> str:
    """A hint for a missing Dockerfile: perhaps a similar name."""
    try:
        names = os.listdir(path.parent)
    except OSError:
        names = []
    if meant := get_close_matches(path.name, names, 1, 0.7):
        return f"did you mean -f {path.parent / meant[0]}?"
    return "name it with -f, or build in the directory that has it"


def _bounded(stdin: Reader) -> Iterator[bytes]:
    left = _LIMIT + 1
    while left and (data := stdin.read(left)):
        left -= len(data)
        yield data


def open_contexts(
    request: BuildRequest, state: Path, scratch: Path, stack: ExitStack
) -> dict[str, ContextDirectory]:
    """The local directories by name. Raises UsageError for one that does not exist."""
    contexts = {MAIN_CONTEXT: _open(MAIN_CONTEXT, request.context, request, state, scratch, stack)}
    for name, context in request.build_contexts.items():
        if context.kind == ContextKind.LOCAL:
            contexts[name] = _open(name, context, request, state, scratch, stack)
    return contexts


def _dockerfile_path(request: BuildRequest) -> Path | None:
    """The path of the Dockerfile, None for standard input."""
    if request.dockerfile == "-" or not request.context.location:
        return None
    if request.dockerfile is None:
        return Path(request.context.location) / "Dockerfile"
    given = Path(request.dockerfile)
    inside = Path(request.context.location) / given
    return inside if not given.exists() and inside.exists() else given


def _open(
    name: str,
    context: Context,
    request: BuildRequest,
    state: Path,
    scratch: Path,
    stack: ExitStack,
) -> ContextDirectory:
    if context.kind == ContextKind.STDIN and not context.location:
        empty = scratch / "no-context"
        empty.mkdir(exist_ok=True)
        return ContextDirectory(empty, "the empty context")
    path = Path(context.location)
    if not path.is_dir():
        if name != MAIN_CONTEXT:
            raise UsageError(
                f"--build-context {name}: {str(path)!r} is not a directory",
                hint=f"write {name}=DIRECTORY, or {name}=docker-image://IMAGE",
            )
        raise UsageError(
            f"the context {str(path)!r} is not a directory",
            hint="the last argument is the directory with the files to copy, often '.'",
        )
    rules = _rules(name, path, request)
    lasting = context.kind != ContextKind.STDIN
    cache = _stat_cache(state, path, stack) if lasting else None
    label = "the context" if name == MAIN_CONTEXT else f"the context {name}"
    return ContextDirectory(path.resolve(), label, included(rules), cache, rules=rules)


def main_rules(request: BuildRequest) -> df.IgnoreRules:
    """The ignore rules of the build context; none if it is not a directory."""
    if not os.path.isdir(request.context.location):
        return df.IgnoreRules.of(())
    return _rules(MAIN_CONTEXT, Path(request.context.location), request)


def _rules(name: str, path: Path, request: BuildRequest) -> df.IgnoreRules:
    """`<Dockerfile>.dockerignore` if it exists, else `.dockerignore`."""
    candidates = [path / ".dockerignore"]
    dockerfile = _dockerfile_path(request)
    if name == MAIN_CONTEXT and dockerfile is not None:
        candidates.insert(0, dockerfile.with_name(f"{dockerfile.name}.dockerignore"))
    for candidate in candidates:
        if candidate.is_file():
            text = candidate.read_text("utf-8", "surrogateescape")
            return df.IgnoreRules.parse(text, file=str(candidate))
    return df.IgnoreRules.of(())


def _stat_cache(state: Path, path: Path, stack: ExitStack) -> StatCache:
    directory = state / "stat"
    directory.mkdir(exist_ok=True)
    name = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
    Recency(state / USE_LOCK).touch(directory / name)
    return stack.enter_context(StatCache.open(directory / name))
