"""The build's inputs: the Dockerfile, its contexts and the ignore rules.

Standard input may be the context, as a tar archive, compressed or not, or the Dockerfile alone; and
so may a URL. Ignore rules apply to directories that the user named.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from shipline import dockerfile as df
from shipline.build.base_images import RegistryImages
from shipline.build.blobs import Blobs
from shipline.build.clock import EPOCH, EPOCH_HINT, epoch_of, with_seconds
from shipline.build.downloads import place_file, seconds_of
from shipline.build.faults import system_errors
from shipline.build.graph import MAIN_CONTEXT, GitOp, HttpOp, Material, ScratchOp, key_of
from shipline.build.layer_files import USE_LOCK
from shipline.build.locating import (
    DOCKERFILE_LIMIT,
    HEAD,
    BegunReader,
    begin_stdin,
    bounded,
    dockerfile_path,
    existing,
    is_http,
    is_inside,
    read_head,
    unreadable_dockerfile,
)
from shipline.build.plan import plan_platforms
from shipline.build.remotes import (
    CONTEXT_FILE,
    Remotes,
    commit_digest,
    commit_uri,
    context_source,
    material_of,
    remotes_alone,
)
from shipline.build.request import BuildRequest, Context, ContextKind
from shipline.build.selecting import ContextDirectory
from shipline.build.settings import Settings
from shipline.build.validation import check_frontend
from shipline.content import LocalStore, Reader, Recency
from shipline.errors import DockerfileError, SandboxError, UsageError
from shipline.events import Step
from shipline.layer import Item, StatCache, decompress, read_tar, sniff, unpack
from shipline.net import without_logins
from shipline.sandbox import open_workspace, resolve_in_root
from shipline.values import replace

_CHECK_OPTIONS = "BUILDKIT_DOCKERFILE_CHECK"
_SECOND = 1_000_000_000  # nanoseconds
_UTF_16 = {b"\xff\xfe", b"\xfe\xff"}  # byte order marks of Windows editors


def load_dockerfile(
    request: BuildRequest,
    stdin: Reader | None,
    remotes: Remotes,
    images: RegistryImages,
    step: Step,
) -> tuple[BuildRequest, df.Dockerfile]:
    """The parsed Dockerfile, and the request with its main context brought here from elsewhere;
    SOURCE_DATE_EPOCH is a number of seconds in both.

    Raises UsageError, DockerfileError, ContentError, GitError, RegistryError.
    """
    if (policy := remotes.downloader.policy) is not None and request.context.is_local:
        policy.check_local("dockerfile")
        policy.check_local("context")
    if request.inline is not None:
        stdin = io.BytesIO(request.inline)
    file = request.dockerfile or "-"
    name = "Dockerfile" if file == "-" or is_http(file) else os.path.basename(file)
    with step.step(f"load build definition from {name}", kind="internal") as loading:
        request, rest = open_context(request, stdin, remotes, loading)
        written = configured(read_dockerfile(request, rest, remotes, loading), request)
        resolved = with_seconds(
            request,
            written,
            partial(_time_of_stage, request, written, images, remotes, loading),
            lambda name: remotes.time_of(request.build_contexts[name], loading),
        )
    if epoch_of(request, written) and not epoch_of(*resolved):
        step.warn(f"{EPOCH} is not set: the context that it names has no timestamp", EPOCH_HINT)
    return resolved


def _time_of_stage(
    request: BuildRequest,
    dockerfile: df.Dockerfile,
    images: RegistryImages,
    remotes: Remotes,
    step: Step,
    name: str,
    stage: df.Stage,
) -> int:
    """The time of the file or repository that the stage adds from a URL, if it has no other."""
    arguments = {key: value for key, value in request.build_args.items() if key != EPOCH}
    request = replace(
        request, target=name, build_args=arguments, platforms=request.target_platforms[:1]
    )
    *added, bottom = plan_platforms(request, dockerfile, images)[0].vertex.chain()
    source = added[0].inputs[-1].op if len(added) == 1 and len(added[0].inputs) == 2 else None
    is_source = isinstance(bottom.op, ScratchOp) and isinstance(source, GitOp | HttpOp)
    modified = 0
    if is_source and isinstance(source, GitOp):
        modified = remotes.commit_time(source.source)
    if is_source and isinstance(source, HttpOp):
        modified = remotes.file_time(source.url, source.checksum, step)
    if modified:
        return modified
    fault = (
        "the file of the stage has no timestamp"
        if is_source
        else f"the {EPOCH} stage does not meet source-only requirements"
    )
    raise DockerfileError(
        f"{EPOCH}={name}: {fault}",
        code="source-date-epoch",
        span=stage.span,
        hint="use a stage that is FROM scratch with a single ADD of a Git repository, or"
        " of a URL that is an archive, or whose server sends Last-Modified",
    )


def configured(dockerfile: df.Dockerfile, request: BuildRequest) -> df.Dockerfile:
    """The Dockerfile with the check options of the build argument instead of its own.

    Raises DockerfileError for those.
    """
    text = request.build_args.get(_CHECK_OPTIONS)
    if text is None:
        return dockerfile
    try:
        df.CheckOptions.parse(text)
    except DockerfileError as error:
        raise DockerfileError(
            f"failed to parse build-arg:{_CHECK_OPTIONS}: {error.message}",
            code=error.code,
            hint=error.hint,
        ) from None
    check = "".join(text.split())  # a directive ends at its first space
    return replace(dockerfile, directives=replace(dockerfile.directives, check=check))


def open_context(
    request: BuildRequest, stdin: Reader | None, remotes: Remotes, step: Step
) -> tuple[BuildRequest, Reader | None]:
    """The request with its main context brought here, below the scratch directory; and what is left
    to read of `stdin`.

    Raises UsageError, ContentError for a damaged archive, GitError, RegistryError.
    """
    match request.context.kind:
        case ContextKind.STDIN:
            return open_stdin(request, stdin, remotes.scratch)
        case ContextKind.GIT:
            return replace(request, context=_open_git(request, remotes, step)), stdin
        case ContextKind.HTTP:
            return _open_http(request, remotes, step), stdin
    return request, stdin


def open_stdin(
    request: BuildRequest, stdin: Reader | None, scratch: Path
) -> tuple[BuildRequest, Reader | None]:
    """The request, its context an archive on `stdin` that was unpacked below `scratch`; and the
    input left to read. Raises UsageError for no input, ContentError for a damaged archive.
    """
    begun = begin_stdin(request, stdin)
    context = _unpacked(request.context, begun, scratch)
    return (request, begun) if context is None else (replace(request, context=context), None)


def _open_git(request: BuildRequest, remotes: Remotes, step: Step) -> Context:
    source = context_source(request.context.location, request.build_args)
    with step.step(f"load git source {source.shown}", kind="git") as loading:
        tree = remotes.git(source, loading)
        tree.open()
        seconds, digest = remotes.commit_time(source), commit_digest(remotes.resolve(source))
    opened = replace(request.context, directory=str(tree.path), newest=seconds)
    return replace(opened, digest=digest, pin=tree.pin)


def _open_http(request: BuildRequest, remotes: Remotes, step: Step) -> BuildRequest:
    """The request with the archive at the URL unpacked; another file is the Dockerfile, and the
    only file of the context.
    """
    context, downloader = request.context, remotes.downloader
    with step.step(f"load {without_logins(context.location)}", kind="http") as loading:
        file = downloader.fetch(context.location, "", loading)
        modified = seconds_of(file)
        context = replace(context, digest=str(file.content.digest))
        with downloader.store.fetch(file.content) as reader:
            unpacked = _unpacked(context, BegunReader(read_head(reader), reader), remotes.scratch)
        if unpacked is not None:
            return replace(request, context=replace(unpacked, newest=modified or unpacked.newest))
        place = remotes.scratch / "context"
        place.mkdir()
        place_file(file, downloader.store, place / CONTEXT_FILE)
    opened = replace(context, directory=str(place), newest=modified or None)
    if request.dockerfile is None or is_inside(request):
        request = replace(request, dockerfile=CONTEXT_FILE)
    return replace(request, context=opened)


def _unpacked(context: Context, reader: BegunReader, scratch: Path) -> Context | None:
    """The context with the files of an archive, unpacked below `scratch`; None if `reader` does not
    give one.

    Files keep their modes and times, and their owners in the result. Raises ContentError.
    """
    compression = sniff(reader.head)
    if compression is None:
        return None
    place = scratch / "context"
    place.mkdir()
    owners: dict[str, tuple[int, int]] = {}
    times: list[int] = []
    items = _noting_owners(read_tar(decompress(reader, compression)), owners, times)
    unpack(items, place, whiteouts="keep", owner=False)
    return replace(
        context,
        directory=str(place),
        newest=max(times) // _SECOND if times else None,
        owners=owners if any(one != (0, 0) for one in owners.values()) else {},
    )


def _noting_owners(
    items: Iterable[Item], owners: dict[str, tuple[int, int]], times: list[int]
) -> Iterator[Item]:
    """`items`; their owners and the times of files are kept."""
    for entry, content in items:
        owners[entry.path] = (entry.uid, entry.gid)
        if entry.kind == "file":
            times.append(entry.mtime_ns)
        yield entry, content


def read_dockerfile(
    request: BuildRequest, stdin: Reader | None, remotes: Remotes, step: Step
) -> df.Dockerfile:
    """The parsed Dockerfile. Raises UsageError if there is none, DockerfileError for its errors."""
    name, content = _content(request, stdin, remotes, step)
    if len(content) > DOCKERFILE_LIMIT:
        raise UsageError(
            f"{name}: Dockerfile exceeds maximum allowed size of {DOCKERFILE_LIMIT} bytes",
            code="dockerfile-unreadable",
        )
    if content[:2] in _UTF_16:
        raise UsageError(
            f"{name} is written in UTF-16", code="dockerfile-unreadable", hint="save it as UTF-8"
        )
    if b"\0" in content[:HEAD]:
        raise UsageError(
            f"{name} is neither a Dockerfile nor a context: it is a binary file",
            code="dockerfile-unreadable",
            hint="a context is a tar archive, plain or compressed with gzip, bzip2, xz or zstd",
        )
    text = content.decode(errors="replace")
    step.note(dockerfile=without_logins(text))
    check_frontend(request, df.detect_syntax(text), text, name)
    return df.parse_dockerfile(content, file=name)


def _content(
    request: BuildRequest, stdin: Reader | None, remotes: Remotes, step: Step
) -> tuple[str, bytes]:
    """The name of the Dockerfile for messages, and its bytes."""
    if is_http(request.dockerfile or ""):
        assert request.dockerfile is not None
        found = remotes.downloader.fetch(request.dockerfile, "", step)
        with remotes.downloader.store.fetch(found.content) as reader:
            return without_logins(request.dockerfile), b"".join(bounded(reader))
    path = dockerfile_path(request)
    if path is None:
        if stdin is None:
            raise UsageError(
                "the Dockerfile is standard input, which is closed", code="standard-input"
            )
        return "Dockerfile", b"".join(bounded(stdin))
    name = str(path)
    try:
        if not request.context.is_local and (request.dockerfile is None or is_inside(request)):
            name = request.dockerfile or "Dockerfile"
            path = Path(request.context.directory) / name.lstrip("/")
            path = resolve_in_root(Path(request.context.directory), name)
        with existing(path).open("rb") as file:
            return name, file.read(DOCKERFILE_LIMIT + 1)
    except (OSError, SandboxError) as error:
        why = error.strerror if isinstance(error, OSError) else error.message
        raise unreadable_dockerfile(request, path, name, str(why)) from None


def open_contexts(
    request: BuildRequest, state: Path, scratch: Path, stack: ExitStack, step: Step
) -> dict[str, ContextDirectory]:
    """The main context and those that are directories here, by name. Raises UsageError for one that
    does not exist.
    """
    with step.step("load .dockerignore", kind="internal"):
        main = _open(MAIN_CONTEXT, request.context, request, state, scratch, stack)
    contexts = {MAIN_CONTEXT: main}
    for name, context in request.build_contexts.items():
        if context.is_local:
            contexts[name] = _open(name, context, request, state, scratch, stack)
    return contexts


def _open(
    name: str, context: Context, request: BuildRequest, state: Path, scratch: Path, stack: ExitStack
) -> ContextDirectory:
    label = "the context" if name == MAIN_CONTEXT else f"the context {name}"
    if not context.is_local:
        return _opened(context, label, scratch)
    path = Path(context.location)
    if not path.is_dir():
        if name != MAIN_CONTEXT:
            raise UsageError(
                f"--build-context {name}: {context.location!r} is not a directory",
                code="context-not-found",
                hint=f"write {name}=DIRECTORY, {name}=docker-image://IMAGE, or a URL",
            )
        raise UsageError(
            f"the context {str(path)!r} is not a directory",
            code="context-not-found",
            hint="the last argument is the directory with the files to copy, often '.'",
        )
    rules = _rules(name, path, request)
    cache = _stat_cache(state, path, stack)
    return ContextDirectory(path.resolve(), label, rules.prune(), cache, rules=rules)


def _opened(context: Context, label: str, scratch: Path) -> ContextDirectory:
    """A context that was brought here: no ignore file applies to it, as in BuildKit."""
    if not context.directory:
        empty = scratch / "no-context"
        empty.mkdir(exist_ok=True)
        return ContextDirectory(empty, "the empty context")
    stamp = ""
    if context.owners:
        stamp = key_of("owners/1", owners=sorted(context.owners.items()))
    return ContextDirectory(
        Path(context.directory),
        label,
        stamp=stamp,
        pin=context.pin,
        owners=context.owners,
        materials=_materials(context),
    )


def _materials(context: Context) -> tuple[Material, ...]:
    if not context.digest:
        return ()
    is_git = context.kind is ContextKind.GIT
    uri = commit_uri(context_source(context.location, {})) if is_git else context.location
    return (material_of(uri, context.digest),)


def main_rules(request: BuildRequest) -> df.IgnoreRules:
    """The ignore rules of the build context; none if it is not a directory of this machine."""
    if not request.context.is_local or not os.path.isdir(request.context.location):
        return df.IgnoreRules.of(())
    return _rules(MAIN_CONTEXT, Path(request.context.location), request)


def _rules(name: str, path: Path, request: BuildRequest) -> df.IgnoreRules:
    """`<Dockerfile>.dockerignore` if it exists, else `.dockerignore`."""
    candidates = [path / ".dockerignore"]
    dockerfile = dockerfile_path(request)
    if name == MAIN_CONTEXT and dockerfile is not None:
        candidates.insert(0, dockerfile.with_name(f"{dockerfile.name}.dockerignore"))
    for candidate in candidates:
        if candidate.is_file():
            text = candidate.read_text("utf-8", "surrogateescape")
            return df.IgnoreRules.parse(text, file=str(candidate))
    return df.IgnoreRules.of(())


def _stat_cache(state: Path, path: Path, stack: ExitStack) -> StatCache:
    """What is known of the files; nothing where they cannot be written here: another image of a
    read-only file system can have all their stats, and other contents.
    """
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return StatCache()
    directory = state / "stat"
    directory.mkdir(exist_ok=True)
    name = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
    Recency(state / USE_LOCK).touch(directory / name)
    return stack.enter_context(StatCache.open(directory / name))


@contextmanager
def fetched(request: BuildRequest, settings: Settings, step: Step) -> Iterator[Context]:
    """The context of `request`, a Git repository or an archive at a URL, with the directory that
    has its files, which goes with the block; a file that is not an archive is alone in there.

    For readers of definitions. Raises GitError, RegistryError, UsageError.
    """
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    blobs = Blobs(LocalStore(settings.home / "content"), step)
    with (
        system_errors(settings.home),
        open_workspace(settings.home) as scratch,
        remotes_alone(request, settings, step, scratch, blobs) as remotes,
    ):
        opened, _ = open_context(request, None, remotes, step)
        if not opened.context.directory or not Path(opened.context.directory).is_dir():
            raise UsageError(
                f"{request.context.location} has no such directory", code="context-not-found"
            )
        yield opened.context
