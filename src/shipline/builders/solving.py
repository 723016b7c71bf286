"""A build request as BuildKit takes it: attributes of its Dockerfile frontend, exporters, caches,
and the services of a session.

Source: docker/buildx, build/opt.go; moby/buildkit, frontend/dockerui, exporter/.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from msgspec import Struct, field

from shipline.build.request import (
    SHM_SIZE,
    Annotation,
    BuildRequest,
    CacheBackend,
    Context,
    ContextKind,
    Output,
    ProvenanceOptions,
    SbomOptions,
)
from shipline.build.settings import Settings
from shipline.build.ssh import Agent, Answer, agents_of, guarded
from shipline.builders.capabilities import require_capable
from shipline.builders.instances import Builder
from shipline.builders.nodes import NodeFacts, capability_name
from shipline.buildkit.control import Control
from shipline.buildkit.messages import CacheOptions, CacheOptionsEntry, Exporter, SolveRequest
from shipline.buildkit.progress import run_build
from shipline.buildkit.session import Login, Services, Sink, open_session
from shipline.errors import BuilderError, UsageError
from shipline.events import Step
from shipline.files import open_whole
from shipline.grpc.connection import Metadata
from shipline.layer import read_tar, unpack

_CONTEXT, _DOCKERFILE = "context", "dockerfile"  # names of directories


class _Assignment(Struct):
    """What the daemon is asked for, and what it may ask for in return."""

    attributes: dict[str, str]
    directories: dict[str, Path] = field(default_factory=dict)
    exporters: list[Exporter] = field(default_factory=list)
    sinks: dict[int, Sink] = field(default_factory=dict)


def build_on(
    control: Control,
    facts: NodeFacts,
    builder: Builder,
    request: BuildRequest,
    settings: Settings,
    login: Login,
    step: Step,
) -> dict[str, str]:
    """Build `request` on a node; what its exporters say, as in buildx's metadata.

    Raises BuilderError for what the node cannot do, and the errors of `run_build`.
    """
    _check(request, builder, facts)
    agents = {
        name: partial(_connect_agent, agent)
        for name, agent in agents_of(request.ssh, settings.environment).items()
    }
    secrets = {secret.id: secret for secret in request.secrets}

    def secret(name: str) -> bytes | None:
        found = secrets.get(name)
        return None if found is None else found.value(settings.environment)

    with ExitStack() as stack:
        work = _Assignment(_attributes(request))
        _add_contexts(request, settings, work, stack)
        for output in request.outputs:
            _add_output(output, request, builder, facts, settings, work)
        services = Services(work.directories, secret, login, agents, work.sinks)
        first = work.exporters[0] if work.exporters else Exporter()
        solve = SolveRequest(
            ref=uuid.uuid4().hex,
            exporter_deprecated=first.type,
            exporter_attrs_deprecated=first.attrs,
            frontend="dockerfile.v0",
            frontend_attrs=work.attributes,
            cache=_caches(request),
            entitlements=sorted(request.run.entitlements),
            exporters=work.exporters,
        )
        key = _shared_key(request)
        with open_session(control.connection, services, shared_key=key) as session:
            solve.session = session
            return run_build(control, solve, step)


@contextmanager
def _connect_agent(agent: Agent) -> Iterator[Answer]:
    with agent.connected() as answer:
        yield guarded(answer)


def _check(request: BuildRequest, builder: Builder, facts: NodeFacts) -> None:
    missing = [one for one in request.platforms if one not in facts.platforms]
    if missing:
        able = ", ".join(map(str, facts.platforms)) or "none"
        raise BuilderError(
            f"the builder {builder.name} cannot build for {', '.join(map(str, missing))}",
            hint=f"it can build for {able}",
        )
    require_capable(builder.name, capability_name(builder, facts), request)


def _attributes(request: BuildRequest) -> dict[str, str]:
    """The attributes of the Dockerfile frontend (moby/buildkit, frontend/dockerui/config.go)."""
    run = request.run
    found = {
        "platform": ",".join(map(str, request.platforms)),
        "target": request.target or "",
        "image-resolve-mode": "pull" if request.pull else "",
        "force-network-mode": "" if run.network == "default" else run.network,
        "add-hosts": _comma(f"{host.name}={host.address}" for host in run.hosts),
        "shm-size": "" if run.shm_size == SHM_SIZE else str(run.shm_size),
        "ulimit": _comma(f"{one.name}={one.soft}:{one.hard}" for one in run.ulimits),
        "cgroup-parent": run.resources.cgroup_parent,
        "no-cache": ",".join(request.cache.disabled_stages),
    }
    found = {name: value for name, value in found.items() if value}
    if request.cache.disabled:
        found["no-cache"] = ""
    if request.cache.sources:
        imports = [_cache(one) for one in request.cache.sources]
        found["cache-imports"] = json.dumps(
            [{"Type": one.type, "Attrs": one.attrs} for one in imports]
        )
    found |= {f"build-arg:{name}": value for name, value in request.build_args.items()}
    found |= {f"label:{name}": value for name, value in request.labels.items()}
    if request.provenance is not None:
        found["attest:provenance"] = _provenance(request.provenance)
    if request.sbom is not None:
        found["attest:sbom"] = _sbom(request.sbom)
    return found


def _provenance(options: ProvenanceOptions) -> str:
    fields = {
        "mode": options.mode,
        "version": options.version,
        "builder-id": options.builder_id,
        "reproducible": "true" if options.reproducible else "",
        "inline-only": "true" if options.inline_only else "",
        "filename": "" if options.filename == "provenance.json" else options.filename,
    }
    return _comma(f"{name}={value}" for name, value in fields.items() if value)


def _sbom(options: SbomOptions) -> str:
    """BuildKit lists packages by an image; those that are built in here are not there."""
    generator = [("generator", options.generator)] if options.is_image else []
    return _comma(f"{name}={value}" for name, value in (*generator, *options.parameters))


def _add_contexts(
    request: BuildRequest, settings: Settings, work: _Assignment, stack: ExitStack
) -> None:
    context = request.context
    if context.is_local:
        work.directories[_CONTEXT] = Path(context.location).absolute()
    else:
        work.attributes["context"] = context.location
    for name, one in request.build_contexts.items():
        work.attributes[f"context:{name}"] = _context(name, one, work)
    if request.dockerfile == "-":
        place = Path(stack.enter_context(TemporaryDirectory()))
        assert settings.stdin is not None
        (place / "Dockerfile").write_bytes(settings.stdin.read())
        work.directories[_DOCKERFILE] = place
    elif context.is_local:
        path = Path(request.dockerfile or Path(context.location, "Dockerfile")).absolute()
        if not path.exists():
            raise UsageError(f"there is no Dockerfile at {path}", hint="name it with --file")
        work.directories[_DOCKERFILE] = path.parent
        work.attributes["filename"] = path.name
    elif request.dockerfile:
        work.attributes["filename"] = request.dockerfile


def _context(name: str, context: Context, work: _Assignment) -> str:
    if context.is_local:
        work.directories[name] = Path(context.location).absolute()
        return f"local:{name}"
    scheme = "docker-image://" if context.kind is ContextKind.IMAGE else ""
    return f"{scheme}{context.location}"


def _add_output(
    output: Output,
    request: BuildRequest,
    builder: Builder,
    facts: NodeFacts,
    settings: Settings,
    work: _Assignment,
) -> None:
    names = ",".join(map(str, request.names_of(output)))
    number = len(work.exporters)
    if output.type == "image" or output.loads:
        work.exporters.append(_image_exporter(output, request, builder, facts, names))
    elif output.type in ("oci", "docker"):
        attributes = _format(output, request) | ({"name": names} if names else {})
        work.exporters.append(Exporter(output.type, attributes))
        work.sinks[number] = _file_sink(output.destination, settings.stdout)
    elif output.type in ("local", "tar"):
        split = {} if output.split is None else {"platform-split": _boolean(output.split)}
        work.exporters.append(Exporter("tar", split))
        is_file = output.type == "tar"
        work.sinks[number] = (
            _file_sink(output.destination, settings.stdout)
            if is_file
            else _directory_sink(Path(output.destination))
        )


def _image_exporter(
    output: Output, request: BuildRequest, builder: Builder, facts: NodeFacts, names: str
) -> Exporter:
    is_old = builder.driver == "docker" and not facts.stores_images
    attributes = {} if is_old else _format(output, request)
    attributes |= {"name": names} if names else {}
    attributes |= {"push": "true"} if output.push else {}
    attributes |= {"push-by-digest": "true"} if output.push_by_digest else {}
    attributes |= {"registry.insecure": "true"} if output.insecure else {}
    return Exporter("moby" if is_old else "image", attributes)


def _format(output: Output, request: BuildRequest) -> dict[str, str]:
    """The attributes that say how an image is written."""
    format = output.format
    found = {
        "oci-mediatypes": _boolean(not format.docker),
        "compression": format.compression,
        "compression-level": "" if format.level is None else str(format.level),
        "force-compression": "true" if format.force else "",
        "rewrite-timestamp": "true" if output.rewrite_timestamp else "",
    }
    annotations = dict(map(_annotation, (*request.annotations, *format.annotations)))
    return {name: value for name, value in found.items() if value} | annotations


def _annotation(annotation: Annotation) -> tuple[str, str]:
    platform = f"[{annotation.platform}]" if annotation.platform else ""
    return f"annotation-{annotation.level}{platform}.{annotation.key}", annotation.value


def _file_sink(destination: str, stdout: BinaryIO | None) -> Sink:
    def take(pieces: Iterator[bytes], metadata: Metadata) -> None:
        if destination == "-":
            assert stdout is not None
            for piece in pieces:
                stdout.write(piece)
            stdout.flush()
            return
        try:
            with open_whole(Path(destination)) as file:
                for piece in pieces:
                    file.write(piece)
        except OSError as error:
            raise UsageError(f"cannot write {destination}: {error.strerror}") from error

    return take


def _directory_sink(destination: Path) -> Sink:
    """Files come as an archive, which is unpacked as any other: nothing is written elsewhere."""

    def take(pieces: Iterator[bytes], metadata: Metadata) -> None:
        destination.mkdir(parents=True, exist_ok=True)
        unpack(read_tar(_Pieces(pieces)), destination, whiteouts="keep", owner=False)

    return take


class _Pieces:
    """A reader of bytes that come in pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return self._rest + b"".join(self._pieces)
        while not self._rest and (piece := next(self._pieces, None)) is not None:
            self._rest = piece
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def _caches(request: BuildRequest) -> CacheOptions:
    exports = []
    for target in request.cache.targets:
        entry = _cache(target.backend)
        entry.attrs |= {"mode": target.mode}
        entry.attrs |= {} if target.required else {"ignore-error": "true"}
        exports.append(entry)
    return CacheOptions(exports, [_cache(one) for one in request.cache.sources])


def _cache(backend: CacheBackend) -> CacheOptionsEntry:
    return CacheOptionsEntry(backend.type, dict(backend.attributes))


def _shared_key(request: BuildRequest) -> str:
    """Names the directories of this build for the daemon, which keeps what it received."""
    machine = f"{uuid.getnode()}:{Path(request.context.location).absolute()}"
    return hashlib.sha256(machine.encode()).hexdigest()


def _boolean(value: bool) -> str:
    return "true" if value else "false"


def _comma(values: Iterator[str]) -> str:
    """One line of CSV, as the attributes that are lists are read."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(list(values))
    return line.getvalue()
