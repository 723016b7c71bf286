"""Runs as bundles of build records (`.dockerbuild`), which Docker Desktop and buildx read and
write: OCI layouts in a tar archive with gzip. A record is a manifest whose configuration is the
record of BuildKit as JSON; its layers are the status messages of the build, and the documents of
its images. Our own files are layers beside them, so that what we import of ours is whole.

Source: docker/buildx, util/desktop/bundle/export.go; moby/buildkit, api/services/control.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from shipline.builders.reporting import StatusReporter
from shipline.buildkit.messages import StatusResponse
from shipline.buildkit.progress import ProgressReader
from shipline.errors import Cancelled, ContentError, ShiplineError
from shipline.events import Attribute, Stream
from shipline.grpc.protobuf import MalformedMessage, decode, encode
from shipline.history import RunDetail, RunHistory, RunRecorder, RunState, RunSummary
from shipline.oci import Descriptor, media

_RECORD = "application/vnd.buildkit.historyrecord.v0"
_STATUS = "application/vnd.buildkit.status.v0"
_OWN = "application/vnd.shipline.run.v1"
_TITLE = "org.opencontainers.image.title"
_PREDICATE = "in-toto.io/predicate-type"
_WITHIN = "vnd.export-build.descriptor.mediatype"
_LENGTH = 4  # bytes
_LIMIT = 512 << 20  # bytes of a bundle, unpacked
_CANCELLED = 1  # google.rpc.Code


def write_bundle(history: RunHistory, runs: Sequence[str], out: IO[bytes]) -> None:
    """Write a bundle with the records of runs. Raises NotFound."""
    blobs: dict[str, bytes] = {}
    manifests = [_manifest(history, run, blobs) for run in runs]
    if len(manifests) == 1:
        (top,) = manifests
    else:
        notes = [{"vnd.buildkit.history.reference": run} for run in runs]
        entries = [{**one, "annotations": note} for one, note in zip(manifests, notes, strict=True)]
        index = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": entries}
        top = _add(blobs, media.OCI_INDEX, _json(index))
    files = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": _json({"schemaVersion": 2, "manifests": [top]}),
        **{f"blobs/sha256/{name.rpartition(':')[2]}": data for name, data in blobs.items()},
    }
    with (
        gzip.open(out, "wb", compresslevel=6) as packed,
        tarfile.open(None, "w", packed) as archive,
    ):
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            entry.mode = 0o644
            archive.addfile(entry, io.BytesIO(data))


def _manifest(history: RunHistory, run: str, blobs: dict[str, bytes]) -> dict[str, Any]:
    detail = history.read(run)
    logs = _add(blobs, _STATUS, b"".join(_framed(_messages(history, run))))
    documents = history.documents(run)
    statements = [
        {**_add(blobs, one.media_type, one.data), "annotations": {_PREDICATE: one.type}}
        for one in documents
        if one.type != one.media_type
    ]
    roots = [one for one in documents if one.digest == detail.summary.digest]
    results = {str(n): _add(blobs, one.media_type, one.data) for n, one in enumerate(roots)}
    record = _record(detail, logs)
    record["Result"] = {
        "Attestations": list(map(_message, statements)),
        "Results": {number: _message(one) for number, one in results.items()},
    }
    inside = [
        {**one, "mediaType": "application/json", "annotations": {_WITHIN: one["mediaType"]}}
        for one in results.values()
    ]
    own = [
        {**_add(blobs, _OWN, path.read_bytes()), "annotations": {_TITLE: path.name}}
        for path in history.files(run)
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": media.OCI_MANIFEST,
        "config": _add(blobs, _RECORD, _json(record)),
        "layers": [logs, *statements, *inside, *own],
    }
    return _add(blobs, media.OCI_MANIFEST, _json(manifest))


def _record(detail: RunDetail, logs: Mapping[str, Any]) -> dict[str, Any]:
    """BuildHistoryRecord, as Go writes it."""
    run, facts = detail.summary, detail.facts
    attributes = {
        "filename": str(facts.get("dockerfile", "Dockerfile")).rpartition("/")[2],
        "target": str(facts.get("target", "")),
        "platform": ",".join(run.platforms),
        "vcs:source": run.source,
        "vcs:revision": run.commit,
    }
    found: dict[str, Any] = {
        "Ref": run.id,
        "Frontend": "dockerfile.v0",
        "FrontendAttrs": {name: value for name, value in attributes.items() if value},
        "CreatedAt": _seconds(run.started),
        "logs": _message(logs),
        "ExporterResponse": {"containerimage.digest": run.digest} if run.digest else {},
        "numCachedSteps": run.cached,
        "numTotalSteps": run.total,
        "numCompletedSteps": run.done,
        "numWarnings": run.warnings,
        "DefaultPlatform": run.platforms[0] if run.platforms else "",
        "localState": {
            "Target": str(facts.get("target", "")) or "default",
            "LocalPath": run.root,
            "DockerfilePath": str(facts.get("dockerfile", "")),
        },
    }
    if run.finished:
        found["CompletedAt"] = _seconds(run.finished)
    if run.error:
        code = _CANCELLED if run.state is RunState.CANCELLED else 2
        found["error"] = {"code": code, "message": run.error}
    return found


def _messages(history: RunHistory, run: str) -> Iterator[StatusResponse]:
    reporter = StatusReporter()
    for event in history.events(run):
        reporter(event)
    reporter.end()
    return reporter.responses()


def _framed(messages: Iterable[StatusResponse]) -> Iterator[bytes]:
    for message in messages:
        data = encode(message)
        yield len(data).to_bytes(_LENGTH, "little")
        yield data


def read_bundle(history: RunHistory, source: IO[bytes]) -> list[str]:
    """Add the runs of a bundle to the history; their ids there. Raises ContentError."""
    files = _unpacked(source)
    try:
        index = json.loads(files["index.json"])
        seen: set[str] = set()
        found = [
            _checked(history, _import(history, manifest, files))
            for entry in index["manifests"]
            for manifest in _manifests(entry, files, seen)
        ]
    except (
        LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError,
        MalformedMessage,
    ) as error:  # fmt: skip
        raise ContentError(f"the bundle cannot be read: {error!r}", code="run-unreadable") from None
    if not found:
        raise ContentError("there is no build record in the bundle", code="run-unreadable")
    return found


def _unpacked(source: IO[bytes]) -> dict[str, bytes]:
    """The files of the archive, those in blobs/ by digest."""
    found: dict[str, bytes] = {}
    bounded = _Bounded(gzip.GzipFile(fileobj=source))
    try:
        with tarfile.open(fileobj=bounded, mode="r|") as archive:
            for entry in archive:
                whole = entry.isreg() and not entry.issparse()
                file = archive.extractfile(entry) if whole else None
                if file is not None:
                    found[entry.name.removeprefix("./")] = file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise ContentError(
            f"this is not a bundle of build records: {error}", code="run-unreadable"
        ) from None
    return found


class _Bounded(io.BytesIO):
    """What is read from a file, up to the limit, whatever headers say of sizes."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        super().__init__()
        self._file = file
        self._left = _LIMIT

    def read(self, size: int | None = -1, /) -> bytes:
        data = self._file.read(-1 if size is None else size)
        self._left -= len(data)
        if self._left < 0:
            raise ContentError(f"the bundle has more than {_LIMIT >> 20} MB", code="run-unreadable")
        return data


def _checked(history: RunHistory, run: str) -> str:
    """The run, if it can be read; else it is removed again."""
    try:
        history.read(run)
    except ShiplineError:
        history.remove(run)
        raise
    return run


def _blob(descriptor: Mapping[str, Any], files: Mapping[str, bytes]) -> bytes:
    algorithm, _, digest = str(descriptor["digest"]).partition(":")
    data = files[f"blobs/{algorithm}/{digest}"]
    if hashlib.new(algorithm, data).hexdigest() != digest:
        raise ContentError(
            f"the bundle is damaged: {descriptor['digest']} does not match", code="run-unreadable"
        )
    return data


def _manifests(
    entry: Mapping[str, Any], files: Mapping[str, bytes], seen: set[str]
) -> Iterator[Mapping[str, Any]]:
    """The manifests of records at and below an entry, each once."""
    if entry["digest"] in seen:
        return
    seen.add(entry["digest"])
    document = json.loads(_blob(entry, files))
    if "manifests" in document:
        for one in document["manifests"]:
            yield from _manifests(one, files, seen)
    else:
        yield document


def _import(history: RunHistory, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    layers = manifest["layers"]
    if own := [one for one in layers if one["mediaType"] == _OWN]:
        names = {one["annotations"][_TITLE]: _blob(one, files) for one in own}
        return history.add(names)
    record = json.loads(_blob(manifest["config"], files))
    created = _unix(record["CreatedAt"])
    run = RunHistory(history.root.parent, lambda: created).new_id()
    attributes = record.get("FrontendAttrs") or {}
    recorder = RunRecorder(history.directory(run), RunSummary(run, "build", _name(record), created))
    now = created

    def messages() -> Iterator[StatusResponse]:
        nonlocal now
        for one in layers:
            if one["mediaType"] == _STATUS:
                for message in _status(_blob(one, files)):
                    now = _latest(message) or now
                    yield message

    stream = Stream(recorder, clock=lambda: now)
    failed = record.get("error") or {}
    try:
        with stream, stream.step("build", **_facts(record, attributes)) as step:
            ProgressReader(step).follow(messages())
            now = _unix(record["CompletedAt"]) if record.get("CompletedAt") else now
            digest = (record.get("ExporterResponse") or {}).get("containerimage.digest", "")
            step.note(digest=digest)
            recorder.keep(dict(_documents(layers, files)))
            if failed:
                raise (
                    Cancelled
                    if failed.get("code") == _CANCELLED
                    else ShiplineError(str(failed.get("message", "")), code="builder-failed")
                )
    except (ShiplineError, Cancelled):
        if not failed:
            history.remove(run)
            raise
    except Exception:
        history.remove(run)
        raise
    return run


def _facts(record: Mapping[str, Any], attributes: Mapping[str, str]) -> dict[str, Attribute]:
    state = record.get("localState") or {}
    found = {
        "root": state.get("LocalPath") or attributes.get("context", ""),
        "dockerfile": state.get("DockerfilePath") or attributes.get("filename", ""),
        "commit": attributes.get("vcs:revision", ""),
        "source": attributes.get("vcs:source", ""),
        "target": attributes.get("target", ""),
        "platforms": attributes.get("platform", record.get("DefaultPlatform", "")).replace(
            ",", " "
        ),
        "ref": record.get("Ref", ""),
    }
    return {name: value for name, value in found.items() if value}


def _name(record: Mapping[str, Any]) -> str:
    attributes, state = record.get("FrontendAttrs") or {}, record.get("localState") or {}
    place = attributes.get("context") or Path(state.get("LocalPath") or "build").name
    target = attributes.get("target", "")
    return f"{place} ({target})" if target else place


def _documents(
    layers: Iterable[Mapping[str, Any]], files: Mapping[str, bytes]
) -> Iterator[tuple[Descriptor, bytes]]:
    """The documents of images, statements before what they are about."""
    for one in layers:
        notes = one.get("annotations") or {}
        kind = notes.get(_WITHIN, one["mediaType"])
        if _WITHIN in notes or _PREDICATE in notes:
            data = _blob(one, files)
            yield Descriptor.of(data, kind), data


def _status(data: bytes) -> Iterator[StatusResponse]:
    place = 0
    while place + _LENGTH <= len(data):
        end = place + _LENGTH + int.from_bytes(data[place : place + _LENGTH], "little")
        yield decode(StatusResponse, data[place + _LENGTH : end])
        place = end


def _latest(message: StatusResponse) -> float:
    """The last time that a message names, 0 for none."""
    times = [
        *(one.completed or one.started for one in message.vertexes),
        *(one.timestamp for one in message.statuses),
        *(one.timestamp for one in message.logs),
    ]
    return max((one.seconds + one.nanos / 1e9 for one in times if one is not None), default=0.0)


def _seconds(at: float) -> dict[str, int]:
    return {"seconds": int(at), "nanos": int(at % 1 * 1e9)}


def _unix(at: Mapping[str, int] | str) -> float:
    """A time of protobuf as Go's encoding/json writes it."""
    if isinstance(at, str):
        raise ValueError(f"{at!r} is not a time")
    return float(at.get("seconds", 0) + at.get("nanos", 0) / 1e9)


def _message(descriptor: Mapping[str, Any]) -> dict[str, Any]:
    """A descriptor as BuildKit's messages have it."""
    named = {"mediaType": "media_type"}
    return {named.get(name, name): value for name, value in descriptor.items()}


def _add(blobs: dict[str, bytes], media_type: str, data: bytes) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    blobs[digest] = data
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _json(document: object) -> bytes:
    return json.dumps(document, indent=2).encode()
