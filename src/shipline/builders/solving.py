"""A build request as BuildKit takes it: attributes of its Dockerfile frontend, exporters, caches,
and the services of a session.

Source: docker/buildx, build/opt.go; moby/buildkit, frontend/dockerui, exporter/.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from msgspec import Struct, field

from shipline.build.attestation.provenance import for_metadata, to_version_0_2
from shipline.build.request import (
    SHM_SIZE,
    Annotation,
    BuildRequest,
    ContextKind,
    Output,
    ProvenanceOptions,
    SbomOptions,
)
from shipline.build.settings import Settings
from shipline.build.ssh import Agent, Answer, agents_of, guarded
from shipline.builders.caches import open_caches
from shipline.builders.capabilities import require_capable
from shipline.builders.history import note_build, reference_of
from shipline.builders.inputs import Inputs
from shipline.builders.instances import Builder, Node
from shipline.builders.nodes import NodeFacts, capability_name
from shipline.buildkit.control import Control
from shipline.buildkit.gateway import BuildInput, call_frontend, run_open_build
from shipline.buildkit.messages import (
    Exporter,
    PolicyConstraint,
    PolicyMessage,
    PolicyRule,
    PolicySelector,
    PolicyUpdate,
    SolveRequest,
)
from shipline.buildkit.progress import run_build
from shipline.buildkit.session import Login, Services, Sink, open_session
from shipline.content import OciLayout
from shipline.engines import Engine, find_engine
from shipline.errors import BuilderError, UsageError
from shipline.events import Step
from shipline.files import open_whole
from shipline.grpc.connection import Metadata, RpcError
from shipline.layer import read_tar, unpack
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.build.source_rules import SourcePolicy


_GATEWAY = "host-gateway"
_GATEWAY_LABEL = "org.mobyproject.buildkit.worker.moby.host-gateway-ip"
PROVENANCE = "buildx.build.provenance"
"""The metadata that has the provenance; followed by / and a platform if there are several."""


class BuildJob(Struct, frozen=True):
    """A build: what is asked for, what it reads, and what it uses of this process."""

    builder: Builder
    request: BuildRequest
    inputs: Inputs
    settings: Settings
    login: Login


class OpenNode(Struct, frozen=True):
    """A node that answered; `running` is how many builds it had then, of whomever."""

    node: Node
    facts: NodeFacts
    control: Control
    running: int = 0

    @property
    def is_lost(self) -> bool:
        return not self.control.connection.is_open


class _Results(Struct):
    """The exporters of a build, and for those that make a file, by position, where it goes."""

    exporters: list[Exporter] = field(default_factory=list)
    sinks: dict[int, Sink] = field(default_factory=dict)


def build_on(
    node: OpenNode,
    job: BuildJob,
    target: Callable[[str], BuildInput],
    step: Step,
    *,
    use: Callable[[BuildInput], object] | None = None,
) -> dict[str, str]:
    """Build on a node; what its exporters say, as in buildx's metadata. `target` has the results of
    other targets, by name; `use` is called with the result of this one, which stays until it
    returns.

    Raises BuilderError for what the node cannot do, and the errors of `run_build`.
    """
    request, settings = job.request, job.settings
    require_capable(job.builder.name, capability_name(job.builder, node.facts), request)
    results = _Results()
    for output in request.outputs:
        _add_output(output, job, node.facts, results)
    caches = open_caches(request.cache, settings.environment, step)
    solve = _solve_request(node, job)
    solve.cache = caches.options
    solve.exporters = results.exporters
    if results.exporters:
        solve.exporter_deprecated = results.exporters[0].type
        solve.exporter_attrs_deprecated = results.exporters[0].attrs
    if caches.options.imports:
        imports = [{"Type": one.type, "Attrs": one.attrs} for one in caches.options.imports]
        solve.frontend_attrs["cache-imports"] = json.dumps(imports)
    for name, one in request.build_contexts.items():
        if one.kind is ContextKind.TARGET:
            _add_input(name, one.location, target(one.location), solve)
    services = _services(job, results.sinks, caches.stores)
    reference = reference_of(job.builder, node.node, solve.ref)
    step.note(reference=reference)
    with _session(node, job, services, solve):
        note_build(request, reference, settings.environment)
        if use is None:
            response = run_build(node.control, solve, step)
        else:
            response = run_open_build(node.control, solve, step, use)
    caches.name(response)
    found = _recorded_provenance(node.control, solve.ref, request.metadata_provenance, step)
    return {**response, **found, "buildx.build.ref": reference}


def _recorded_provenance(
    control: Control, ref: str, mode: Literal["min", "max"] | None, step: Step
) -> dict[str, str]:
    """The provenance of a build for its metadata, encoded as buildx does it; none for `mode` None.
    A history that cannot be read fails no build.
    """
    if mode is None:
        return {}
    try:
        found = control.provenance(ref)
    except (RpcError, ValueError) as error:
        step.warn(f"the provenance of the build is not in its metadata: {error}")
        return {}
    told = {}
    for platform, predicate in found.items():
        if "buildDefinition" in predicate:
            predicate = to_version_0_2(predicate)
        kept = for_metadata(predicate, mode)
        name = f"{PROVENANCE}{platform and '/'}{platform}"
        told[name] = base64.b64encode(json.dumps(kept).encode()).decode()
    return told


def call_on(node: OpenNode, job: BuildJob, step: Step) -> dict[str, bytes]:
    """What the frontend of a node answers to the `call` of a request, as documents by name:
    result.json and result.txt. Raises as `build_on`.
    """
    name = capability_name(job.builder, node.facts)
    require_capable(job.builder.name, name, job.request)
    solve = _solve_request(node, job)
    method = job.request.call.method
    solve.frontend_attrs["requestid"] = f"frontend.{'lint' if method == 'check' else method}"
    solve.frontend_attrs["frontend.caps"] = "moby.buildkit.frontend.subrequests"
    with _session(node, job, _services(job, {}, {}), solve):
        return call_frontend(node.control, solve, step)


def _solve_request(node: OpenNode, job: BuildJob) -> SolveRequest:
    hosts = _hosts(job, node.facts)
    attributes = _attributes(job.request, hosts, in_engine=job.builder.driver == "docker")
    return SolveRequest(
        ref=uuid.uuid4().hex,
        frontend="dockerfile.v0",
        frontend_attrs=attributes | job.inputs.attributes,
        entitlements=_entitlements(job.request),
        source_policy=_policy(job.settings.source_policy(job.request)),
    )


_ACTIONS = ("ALLOW", "DENY", "CONVERT")
_MATCHES = ("WILDCARD", "EXACT", "REGEX")
_CONDITIONS = ("EQUAL", "NOTEQUAL", "MATCHES")


def _policy(policy: SourcePolicy | None) -> PolicyMessage | None:
    """The source policy for a daemon, which judges what it reads."""
    if policy is None:
        return None
    if policy.rego is not None:
        raise UsageError(
            "policies in Rego judge builds of this process, and not those of builders",
            code="builder-incapable",
            hint="pass --policy disabled=true, or build without --builder",
        )
    rules = []
    for rule in policy.rules:
        constraints = [
            PolicyConstraint(one.key, one.value, _CONDITIONS.index(one.condition))
            for one in rule.selector.constraints
        ]
        match_type = _MATCHES.index(rule.selector.match_type)
        selector = PolicySelector(rule.selector.identifier, match_type, constraints)
        found = PolicyRule(_ACTIONS.index(rule.action), selector)
        if rule.updates is not None:
            found.updates = PolicyUpdate(rule.updates.identifier, dict(rule.updates.attrs))
        rules.append(found)
    return PolicyMessage(rules=rules)


@contextmanager
def _session(
    node: OpenNode, job: BuildJob, services: Services, solve: SolveRequest
) -> Iterator[None]:
    key = _shared_key(job.request)
    with open_session(node.control.connection, services, shared_key=key) as solve.session:
        yield


def _add_input(name: str, target: str, found: BuildInput, solve: SolveRequest) -> None:
    """Make the result of a target the context `name` (frontend/dockerui/namedcontext.go)."""
    for platform, definition in found.definitions.items():
        suffix = f"::{platform}" if platform else ""
        solve.frontend_inputs[target + suffix] = definition
        attributes = solve.frontend_attrs
        attributes[f"context:{name}{suffix}"] = f"input:{target}{suffix}"
        if config := found.configs[platform]:
            described = {"containerimage.config": base64.b64encode(config).decode()}
            attributes[f"input-metadata:{target}{suffix}"] = json.dumps(described)


def _services(
    job: BuildJob, sinks: Mapping[int, Sink], caches: Mapping[str, OciLayout]
) -> Services:
    request, environment = job.request, job.settings.environment
    secrets = {secret.id: secret for secret in request.secrets}
    agents = {
        name: partial(_connect_agent, agent)
        for name, agent in agents_of(request.ssh, environment).items()
    }

    def secret(name: str) -> bytes | None:
        found = secrets.get(name)
        return None if found is None else found.value(environment)

    return Services(
        directories=job.inputs.directories,
        uploads=job.inputs.uploads,
        stores={**job.inputs.stores, **caches},
        secret=secret,
        login=job.login,
        agents=agents,
        sinks=sinks,
    )


@contextmanager
def _connect_agent(agent: Agent) -> Iterator[Answer]:
    with agent.connected() as answer:
        yield guarded(answer)


def _entitlements(request: BuildRequest) -> list[str]:
    """What RUN is allowed; --network=host asks for its own."""
    asked = {"network.host"} if request.run.network == "host" else set()
    return sorted(request.run.entitlements | asked)


def _hosts(job: BuildJob, facts: NodeFacts) -> str:
    """The hosts of --add-host. An engine says which address `host-gateway` has there."""
    addresses = {}
    driver = job.builder.driver
    asked = any(host.address == _GATEWAY for host in job.request.run.hosts)
    if asked and driver != "ssh":
        gateway = facts.labels.get(_GATEWAY_LABEL, "") if driver == "docker" else ""
        if not gateway:
            raise UsageError(
                "unable to derive the IP value for host-gateway"
                if driver == "docker"
                else f"host-gateway is not supported by the {driver} driver",
                code="builder-incapable",
                hint="give --add-host an address",
            )
        addresses[_GATEWAY] = gateway
    return _comma(
        f"{host.name}={addresses.get(host.address, host.address)}" for host in job.request.run.hosts
    )


def _attributes(request: BuildRequest, hosts: str, *, in_engine: bool) -> dict[str, str]:
    """The attributes of the Dockerfile frontend (moby/buildkit, frontend/dockerui/config.go). In an
    engine, its own images come before those of registries.
    """
    run = request.run
    found = {
        "platform": ",".join(map(str, request.platforms)),
        "target": request.target or "",
        "image-resolve-mode": "pull" if request.pull else "local" if in_engine else "",
        "force-network-mode": "" if run.network == "default" else run.network,
        "add-hosts": hosts,
        "shm-size": "" if run.shm_size == SHM_SIZE else str(run.shm_size),
        "ulimit": _comma(f"{one.name}={one.soft}:{one.hard}" for one in run.ulimits),
        "cgroup-parent": run.resources.cgroup_parent,
        "no-cache": ",".join(request.cache.disabled_stages),
    }
    found = {name: value for name, value in found.items() if value}
    if request.cache.disabled:
        found["no-cache"] = ""
    found |= {f"vcs:{name}": value for name, value in request.vcs.items()}
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


def _add_output(output: Output, job: BuildJob, facts: NodeFacts, work: _Results) -> None:
    request, builder, settings = job.request, job.builder, job.settings
    named = request.names_of(output)
    if output.push_by_digest:  # BuildKit refuses tags then
        named = tuple(dict.fromkeys(replace(name, tag="", digest=None) for name in named))
    names = ",".join(map(str, named))
    number = len(work.exporters)
    if output.loads and builder.driver != "docker":
        engine = find_engine(settings.environment, output.context)
        work.exporters.append(_archive_exporter(output, job, engine, names))
        work.sinks[number] = lambda pieces, _: engine.load_archive(pieces)
    elif output.type == "image" or output.loads:
        work.exporters.append(_image_exporter(output, request, builder, facts, names))
    elif output.type in ("oci", "docker"):
        attributes = _format(output, request) | ({"name": names} if names else {})
        work.exporters.append(Exporter(output.type, attributes))
        work.sinks[number] = _file_sink(output.destination, settings.stdout)
    elif output.type in ("local", "tar"):
        split = {} if output.split is None else {"platform-split": _boolean(output.split)}
        work.exporters.append(Exporter("tar", split | _epoch(output)))
        is_file = output.type == "tar"
        work.sinks[number] = (
            _file_sink(output.destination, settings.stdout)
            if is_file
            else _directory_sink(Path(output.destination))
        )


def _archive_exporter(output: Output, job: BuildJob, engine: Engine, names: str) -> Exporter:
    """An archive that an engine loads. Raises BuilderError for one that it does not know."""
    request = job.request
    if len(request.platforms) > 1 and not engine.several:
        raise BuilderError(
            f"the engine at {engine} keeps one platform of an image, and this one has"
            f" {len(request.platforms)}",
            code="load-platforms",
            hint="let it keep images in containerd (docker's containerd-snapshotter), or load one"
            " platform",
        )
    is_index = len(request.platforms) > 1 or request.attested
    attributes = _format(output, request) | ({"name": names} if names else {})
    return Exporter("oci" if is_index and engine.several else "docker", attributes)


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
    return {name: value for name, value in found.items() if value} | _epoch(output) | annotations


def _epoch(output: Output) -> dict[str, str]:
    return {} if output.epoch is None else {"source-date-epoch": output.epoch}


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
            raise UsageError(
                f"cannot write {destination}: {error.strerror}", code="output-unwritable"
            ) from error

    return take


def _directory_sink(destination: Path) -> Sink:
    """Files come as an archive, which is unpacked as any other: nothing is written elsewhere."""

    def take(pieces: Iterator[bytes], metadata: Metadata) -> None:
        destination.mkdir(parents=True, exist_ok=True)
        unpack(read_tar(PieceReader(pieces)), destination, whiteouts="keep", owner=False)

    return take


class PieceReader:
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
