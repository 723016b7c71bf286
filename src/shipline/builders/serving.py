"""This machine's engine as a daemon of BuildKit: its API, on the connection of one client.

What belongs to the client stays there and is asked for: files of contexts that changed, secrets,
SSH agents, logins. Results go back over the same connection. Source: moby/buildkit, control/.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from shipline import __version__
from shipline.build.disk import KEPT_CONTEXTS, PruneLimits, is_cache, prune, scan
from shipline.build.engine import build
from shipline.build.metadata import result_facts
from shipline.build.request import BuildRequest, insecure_hosts
from shipline.build.settings import Settings
from shipline.build.target import BuildResult
from shipline.builders.client_session import ClientSession, SessionAgents, SessionSecrets
from shipline.builders.reporting import StatusReporter, rpc_error
from shipline.builders.solve_request import SolveWork, check_frontend, named_contexts, read_request
from shipline.builders.solving import PieceReader
from shipline.buildkit.messages import (
    BuildkitVersion,
    DiskUsageResponse,
    InfoResponse,
    ListWorkersResponse,
    PlatformSpec,
    PruneRequest,
    SolveRequest,
    SolveResponse,
    StatusRequest,
    Timestamp,
    UsageRecord,
    WorkerRecord,
)
from shipline.buildkit.session import Tunnel
from shipline.cachestores import open_cache
from shipline.errors import Cancelled, ShiplineError, UsageError
from shipline.events import Stream
from shipline.grpc.connection import Code, Handler, Pipe, RpcCall, RpcError, connected
from shipline.grpc.protobuf import encode
from shipline.registry import Client, settings_from
from shipline.sandbox import supported_platforms
from shipline.tasks import TaskGroup, check, exclusively, locked, on_cancel
from shipline.values import replace

_CONTROL = "/moby.buildkit.v1.Control/"
_SESSION_S = 10.0  # that a build waits for its session
_HEALTH_S = 10.0  # between two looks at the client
_KEPT_S = 14 * 86_400  # that files of a context stay without a build
_SESSION_URL = "http://buildkit-session/"


def serve(pipe: Pipe, home: Path) -> None:
    """Answer a client until it is gone, or no longer answers, which ends its builds; `home` is the
    state directory.
    """
    _forget_contexts(home / KEPT_CONTEXTS)
    service = _Service(home)
    with suppress(TimeoutError), connected(pipe, service.handlers()) as connection:
        connection.wait_until_closed()


class _Service:
    def __init__(self, home: Path) -> None:
        self._home = home
        self._changed = threading.Condition()
        self._sessions: dict[str, ClientSession] = {}
        self._reporters: dict[str, StatusReporter] = {}

    def handlers(self) -> dict[str, Handler]:
        methods: dict[str, Handler] = {
            "Info": self._info,
            "ListWorkers": self._workers,
            "DiskUsage": self._disk_usage,
            "Prune": self._prune,
            "Session": self._session,
            "Solve": self._solve,
            "Status": self._status,
        }
        return {
            "/grpc.health.v1.Health/Check": lambda stream: stream.send(b"\x08\x01"),
            **{_CONTROL + name: method for name, method in methods.items()},
        }

    def _info(self, stream: RpcCall) -> None:
        stream.send(encode(InfoResponse(_version())))

    def _workers(self, stream: RpcCall) -> None:
        platforms = [
            PlatformSpec(one.architecture, one.os, one.variant) for one in supported_platforms()
        ]
        worker = WorkerRecord("native", {}, platforms, version=_version())
        stream.send(encode(ListWorkersResponse([worker])))

    def _disk_usage(self, stream: RpcCall) -> None:
        records = [_usage(one) for one in scan(self._home)]
        stream.send(encode(DiskUsageResponse(records)))

    def _prune(self, stream: RpcCall) -> None:
        request = stream.request(PruneRequest)
        limits = PruneLimits(
            max_used=request.max_used_space or None,
            min_free=request.min_free_space or None,
            reserved=request.reserved_space or None,
        )
        wanted = {one.removeprefix("id==") for one in request.filter}
        for record in prune(
            self._home, limits, lambda one: one.id in wanted if wanted else is_cache(one)
        ):
            stream.send(encode(_usage(record)))

    def _session(self, stream: RpcCall) -> None:
        """The client's services, while the call lasts; one that no longer answers is gone."""
        name = _first(stream.metadata, "x-docker-expose-session-uuid")
        key = _first(stream.metadata, "x-docker-expose-session-sharedkey")
        with connected(Tunnel(stream)) as connection:
            session = ClientSession(connection, key)
            with self._changed:
                self._sessions[name] = session
                self._changed.notify_all()
            try:
                while not connection.wait_until_closed(_HEALTH_S):
                    with suppress(RpcError):  # it has just ended
                        session.check_health()
            finally:
                with self._changed:
                    del self._sessions[name]

    def _solve(self, stream: RpcCall) -> None:
        request = stream.request(SolveRequest)
        reporter = self._reporter(request.ref)
        try:
            with TaskGroup() as group, stream.on_given_up(group.scope.cancel):
                check_frontend(request)
                session = self._open_session(request.session)
                facts = group.start(self._build, request, session, reporter).result()
        except ShiplineError as error:
            raise rpc_error(error, reporter.failed) from None
        except Cancelled:
            check()
            raise RpcError(Code.CANCELLED, "interrupted") from None
        finally:
            reporter.end()
        stream.send(encode(SolveResponse(facts)))

    def _status(self, stream: RpcCall) -> None:
        reporter = self._reporter(stream.request(StatusRequest).ref)
        with on_cancel(reporter.end):
            for response in reporter.responses():
                stream.send(encode(response))

    def _reporter(self, ref: str) -> StatusReporter:
        with self._changed:
            return self._reporters.setdefault(ref, StatusReporter())

    def _open_session(self, name: str) -> ClientSession:
        with self._changed:
            if not self._changed.wait_for(lambda: name in self._sessions, _SESSION_S):
                raise RpcError(Code.NOT_FOUND, f"no active session for {name}")
            return self._sessions[name]

    def _build(
        self, solve: SolveRequest, session: ClientSession, reporter: StatusReporter
    ) -> dict[str, str]:
        with (
            _received(self._home / KEPT_CONTEXTS, session, solve) as received,
            Stream(reporter) as stream,
            stream.step("build") as step,
        ):
            work, stdin = received
            with _settings(work.request, self._home, session) as settings:
                if stdin is not None:
                    settings = replace(settings, stdin=stdin)
                try:
                    result = build(replace(work.request, local_images=False), settings, step)
                except ShiplineError as error:
                    _name_dockerfile(error, work.request, solve)
                    raise
            for number, path in work.files.items():
                session.send_file(number, path)
        return _encoded(result)


@contextmanager
def _settings(request: BuildRequest, home: Path, session: ClientSession) -> Iterator[Settings]:
    """What a build uses: of this machine, and of its client."""
    hosts = settings_from(os.environ, insecure=insecure_hosts(request))
    with Client(hosts, session) as client:
        yield Settings(
            home,
            client.repository,
            os.environ,
            client.get,
            open_cache(client, os.environ),
            secrets=SessionSecrets(session),
            agents=SessionAgents(session),
        )


@contextmanager
def _received(
    place: Path, session: ClientSession, solve: SolveRequest
) -> Iterator[tuple[SolveWork, Any]]:
    """The request with the directories that it reads, and its standard input. They are those of the
    last build with the same key, which no other build uses meanwhile, made equal to the client's.
    """
    name = hashlib.sha256(session.shared_key.encode()).hexdigest()[:32]
    root, held = place / name, place / f"{name}.lock"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(held):
        os.utime(held)
        root.mkdir(mode=0o700, exist_ok=True)
        scratch = root / "outputs"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            yield _receive(root, scratch, session, solve)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _receive(
    root: Path, scratch: Path, session: ClientSession, solve: SolveRequest
) -> tuple[SolveWork, Any]:
    attributes = solve.frontend_attrs
    file, ignore, stdin = attributes.get("filename", ""), "", None
    if "dockerfilekey" in attributes or "context" not in attributes:
        place = root / "dockerfile"
        name = file or "Dockerfile"
        session.receive("dockerfile", place, only=(name, f"{name}.dockerignore"))
        file, ignore = str(place / name), f"{name}.dockerignore"
    context = attributes.get("context", "")
    if not context:
        context = _directory("context", root, session, root / "dockerfile" / ignore)
    elif context.startswith(_SESSION_URL):
        context, stdin = "-", PieceReader(session.upload(context))
    named = {}
    for name, value in named_contexts(attributes):
        if value.startswith("local:"):
            local = value.removeprefix("local:")
            named[name] = _directory(local, root, session, None)
        elif value.startswith(("input:", "oci-layout:")):
            raise UsageError(
                f"this builder is shipline, and takes no context {value.partition(':')[0]}: of"
                " another machine",
                code="builder-incapable",
                hint="use a builder with BuildKit",
            )
        else:
            named[name] = value
    return read_request(solve, context, file, named, scratch), stdin


def _directory(name: str, root: Path, session: ClientSession, ignore: Path | None) -> str:
    """A directory of the client, without what its ignore file, or that of the Dockerfile, names."""
    key = hashlib.sha256(name.encode()).hexdigest()[:16]
    if ignore is None or not ignore.is_file():
        rules = root / f"ignore-{key}"
        session.receive(name, rules, only=(".dockerignore",))
        ignore = rules / ".dockerignore"
    without = []
    with suppress(FileNotFoundError):
        text = ignore.read_text(errors="surrogateescape").removeprefix("\ufeff")
        without = [line.strip() for line in text.splitlines()]
    place = root / f"files-{key}"
    patterns = [line for line in without if line and not line.startswith("#")]
    session.receive(name, place, without=patterns)
    return str(place)


def _name_dockerfile(error: ShiplineError, request: BuildRequest, solve: SolveRequest) -> None:
    """The client knows its Dockerfile by its own name."""
    if error.span is not None and error.span.file == request.dockerfile:
        name = solve.frontend_attrs.get("filename") or "Dockerfile"
        error.span = replace(error.span, file=name)


def _encoded(result: BuildResult) -> dict[str, str]:
    """Facts as exporters say them: documents in base64."""
    return {
        name: base64.b64encode(json.dumps(value).encode()).decode()
        if isinstance(value, dict)
        else str(value)
        for name, value in result_facts(result).items()
    }


def _usage(record: Any) -> UsageRecord:
    return UsageRecord(
        record.id,
        record.mutable,
        record.in_use,
        record.size,
        Timestamp(int(record.created)),
        Timestamp(int(record.last_used)),
        description=record.description,
        record_type=record.type,
        shared=record.shared,
    )


def _version() -> BuildkitVersion:
    return BuildkitVersion("shipline", __version__)


def _first(metadata: Mapping[str, Any], name: str) -> str:
    return next(iter(metadata.get(name, ())), "")


def _forget_contexts(place: Path) -> None:
    """Remove the files of contexts that nobody has built for long, and that no build uses."""
    for held in place.glob("*.lock"):
        with suppress(OSError), held.open() as lock:
            exclusively(lock.fileno())
            if time.time() - os.fstat(lock.fileno()).st_mtime > _KEPT_S:
                shutil.rmtree(held.with_suffix(""))
