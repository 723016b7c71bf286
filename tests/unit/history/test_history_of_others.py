"""Records that others made: what is wrong with them is said, and they cost what a record costs."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from zstandard import ZstdCompressor

from shipline.builders import bundles
from shipline.builders.bundles import read_bundle
from shipline.errors import ContentError, NotFound, ShiplineError, UsageError
from shipline.events import Event, Started
from shipline.history import RunHistory, RunRecorder, RunState, RunSummary
from shipline.history.documents import ImageDocument, read_documents
from shipline.history.recorder import DOCUMENTS, EVENTS, RECORD
from shipline.oci import media

AT = 1796000000.0
RUN = "20261130-010101-abcdef"


def framed(*events: Event) -> bytes:
    frames = [msgspec.msgpack.encode(event) for event in events]
    return b"".join(len(one).to_bytes(4, "little") + one for one in frames)


def kept(history: RunHistory, events: bytes, **facts: Any) -> str:
    """A run as files."""
    summary = {"id": RUN, "kind": "build", "name": "app", "started": AT, "state": "passed"}
    record = json.dumps({**summary, **facts}).encode()
    return history.add({RECORD: record, EVENTS: events})


def bundle(*configs: object, files: Mapping[str, bytes] | None = None) -> io.BytesIO:
    """A bundle of records of BuildKit, or of our own `files`, in nested indexes."""
    blobs: dict[str, bytes] = {}

    def add(data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": "application/vnd.shipline.run.v1", "digest": f"sha256:{digest}"}

    title = "org.opencontainers.image.title"
    own = [{**add(data), "annotations": {title: name}} for name, data in (files or {}).items()]
    entries = [
        add(json.dumps({"config": add(json.dumps(config).encode()), "layers": own}).encode())
        for config in configs
    ]
    for _ in range(12):
        entries = [add(json.dumps({"manifests": entries * 2}).encode())]
    blobs["index.json"] = json.dumps({"manifests": entries}).encode()
    packed = io.BytesIO()
    with gzip.open(packed, "wb") as out, tarfile.open(None, "w", out) as archive:
        for name, data in blobs.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    packed.seek(0)
    return packed


@pytest.mark.parametrize("wrong", [{"started": 1e300}, {"started": -1.0}, {"finished": 1e18}])
def test_a_time_that_no_calendar_has_is_refused(tmp_path: Path, wrong: dict[str, float]) -> None:
    history = RunHistory(tmp_path)
    with pytest.raises(ContentError, match="not a record of a run"):
        kept(history, b"", **wrong)
    assert history.ids() == []


@pytest.mark.parametrize(
    "event",
    [
        Started(1, float("nan"), "build"),
        Started(1, 1e300, "build"),
        Started(2, AT, "RUN", 1, {"vertex": "a", "line": "three"}),
        Started(2, AT, "RUN", 1, {"vertex": "a", "size": "many"}),
    ],
)
def test_events_that_mean_nothing_make_a_run_unreadable(tmp_path: Path, event: Event) -> None:
    history = RunHistory(tmp_path)
    run = kept(history, framed(event))
    with pytest.raises(NotFound) as raised:
        history.read(run)
    assert raised.value.code == "run-unreadable"
    history.remove(run)


@pytest.mark.parametrize("text", ["[{", "[" * 200_000, '[{"uri": 1}]', "{}"])
def test_materials_that_mean_nothing_are_left_out(tmp_path: Path, text: str) -> None:
    history = RunHistory(tmp_path)
    run = kept(history, framed(Started(1, AT, "build", 0, {"materials": text})))
    assert history.read(run).materials == []


def test_what_names_a_step_has_no_control_characters(tmp_path: Path) -> None:
    history = RunHistory(tmp_path)
    text = "\x1b]0;title\x07a\u202eb\n"
    names = ("stage", "number", "file", "platform", "target")
    said = {"kind": "run", "vertex": "a", **dict.fromkeys(names, text)}
    (step,) = history.read(kept(history, framed(Started(2, AT, text, 1, said)))).steps
    for shown in (step.name, *(getattr(step, name) for name in names)):
        assert shown.isprintable() and "a" in shown


def test_events_unpack_to_no_more_than_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shipline.history.recorder._UNPACKED_LIMIT", 1 << 20)
    history = RunHistory(tmp_path)
    run = kept(history, ZstdCompressor().compress(bytes((1 << 20) + 1)))
    with pytest.raises(NotFound, match="more than 1 MB"):
        history.events(run)


def test_documents_are_those_of_their_digests_and_each_once(tmp_path: Path) -> None:
    def document(content: object) -> ImageDocument:
        data = json.dumps(content).encode()
        return ImageDocument(f"sha256:{hashlib.sha256(data).hexdigest()}", media.OCI_INDEX, data)

    found = [document({"manifests": []})]
    for _ in range(30):  # 2^30 ways to the first one
        found.append(document({"manifests": [{"digest": found[-1].digest}] * 2}))
    loop = {"manifests": [{"digest": "sha256:00"}]}
    false = ImageDocument("sha256:00", media.OCI_INDEX, json.dumps(loop).encode())
    (tmp_path / DOCUMENTS).write_bytes(msgspec.msgpack.encode([*found, false]))
    assert [one.digest for one in read_documents(tmp_path)] == [one.digest for one in found[::-1]]
    (tmp_path / DOCUMENTS).write_bytes(msgspec.msgpack.encode([document([])]))
    assert read_documents(tmp_path) == []


@pytest.mark.parametrize(
    "created", ["2026", {"seconds": 10**30}, {"seconds": -(10**12)}, {"seconds": "x"}, [1]]
)
def test_a_record_with_a_wrong_time_is_not_imported(tmp_path: Path, created: object) -> None:
    history = RunHistory(tmp_path)
    with pytest.raises(ShiplineError):
        read_bundle(history, bundle({"CreatedAt": created}))
    assert history.ids() == []


@pytest.mark.parametrize("wrong", [{"FrontendAttrs": {"platform": 3}}, {"Ref": {"a": 1}}])
def test_what_cannot_be_read_is_not_left_in_the_history(tmp_path: Path, wrong: object) -> None:
    history = RunHistory(tmp_path)
    record = {"CreatedAt": {"seconds": int(AT)}, **msgspec.convert(wrong, dict[str, Any])}
    with pytest.raises(ShiplineError):
        read_bundle(history, bundle(record))
    assert history.ids() == []
    own = {"id": RUN, "kind": "build", "name": "app", "started": AT}
    files = {RECORD: json.dumps(own).encode(), EVENTS: framed(Started(1, 1e300, "build"))}
    with pytest.raises(NotFound):
        read_bundle(history, bundle({}, files=files))
    assert history.ids() == []


def test_a_record_that_many_indexes_name_is_imported_once(tmp_path: Path) -> None:
    history = RunHistory(tmp_path)
    found = read_bundle(history, bundle({"CreatedAt": {"seconds": int(AT)}}))
    assert found == history.ids() and len(found) == 1


def test_a_bundle_is_read_up_to_a_limit_whatever_its_headers_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "_LIMIT", 1 << 20)
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 4 << 30
    packed = gzip.compress(header.tobuf(tarfile.USTAR_FORMAT) + bytes(2 << 20))
    with pytest.raises(ContentError, match="more than 1 MB"):
        read_bundle(RunHistory(tmp_path), io.BytesIO(packed))


def test_what_is_no_run_is_no_obstacle(tmp_path: Path) -> None:
    history = RunHistory(tmp_path)
    run = history.new_id()
    RunRecorder(history.directory(run), RunSummary(run, "build", "app", AT)).close()
    (history.root / "20261130-000001-aaaaaa").touch()
    (history.root / "20261130-000002-bbbbbb").symlink_to(os.devnull)
    (history.root / "20261130-000003-cccccc").symlink_to("20261130-000003-cccccc")
    assert [one.id for one in history.ls()] == [run]
    assert [one.state for one in history.ls()] == [RunState.INTERRUPTED]
    for one in history.ids():
        assert not history.alive(one)
    history.keep_within(1, 1 << 20, run)
    with pytest.raises(UsageError):
        history.resolve("^99999999999999999999")
