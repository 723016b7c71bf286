"""Cache services that answer anything: a build is as without them, and no secret is shown."""

from __future__ import annotations

import io
import os
import random
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from builds import Shipline, context
from peers.hostile_caches import (
    Act,
    CacheReply,
    CacheRequest,
    HostileCaches,
    honest,
    hostile_caches,
)
from shipline.build.caching.document import CacheDocument
from shipline.build.result_flags import parse_cache_source
from shipline.cachestores import gha, objects, open_cache, transfer
from shipline.content import CacheStore, fetch_all
from shipline.errors import RegistryError, ShiplineError
from shipline.oci import Descriptor, Digest, media
from shipline.registry import Client, limits, retries
from spoiled import SPOILED

pytestmark = pytest.mark.peers
KINDS = ("s3", "azblob", "gha")
LAYER = b"layer" * 50
LARGE = random.Random(1).randbytes(9 << 20)
BLOBS = {Digest.of(one): one for one in (b"", LAYER, LARGE)}
TARGETS = [Descriptor.of(one, media.OCI_LAYER) for one in BLOBS.values()]
DOCUMENT = b'{"layers":[],"records":[]}'
FILES = {"one": "1", "two": "2"}
DOCKERFILE = "FROM scratch\nCOPY one /\nCOPY two /\n"


class Blobs:
    """A source of what is pushed."""

    @contextmanager
    def fetch(self, target: Descriptor) -> Iterator[io.BytesIO]:
        yield io.BytesIO(BLOBS[target.digest])


@pytest.fixture
def service() -> Iterator[HostileCaches]:
    with hostile_caches() as running:
        yield running


@pytest.fixture
def chance() -> random.Random:
    seed = int(os.environ.get("SHIPLINE_TEST_SEED") or random.randrange(1 << 32))
    print("seed", seed)
    return random.Random(seed)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wait before another attempt."""
    for module in (retries, limits, objects, gha):
        monkeypatch.setattr(module, "sleep", lambda seconds: time.sleep(min(seconds, 0.001)))
    monkeypatch.setattr(limits.HostLimits, "wait", lambda limits: None)
    monkeypatch.setattr(gha, "_HELD_S", 0.05)


def rounds(few: int) -> int:
    return few * 25 if os.environ.get("SHIPLINE_TEST_ALL") else few


def spoil_some(service: HostileCaches, chance: random.Random) -> None:
    """From now on one answer, all from one on, or every answer is another one."""
    kind, at, how = chance.choice(SPOILED), chance.randrange(9), chance.choice("=>*")
    print(kind.__name__, how, at)
    service.requests.clear()

    def spoil(request: CacheRequest, reply: CacheReply) -> CacheReply | Act:
        chosen = {"=": request.number == at, ">": request.number >= at, "*": True}[how]
        return kind(request, reply, chance) if chosen else reply

    service.spoil = spoil


def opened(service: HostileCaches, client: Client, kind: str) -> CacheStore:
    (backend,) = parse_cache_source(service.flag(kind))
    return open_cache(client, {})(kind, backend.attributes)


def work(store: CacheStore) -> Sequence[Callable[[], object]]:
    """All that a build does with a cache, one thing each."""

    def read() -> None:
        for raw in store.documents():
            CacheDocument.parse(raw).dump()

    def fetch(target: Descriptor) -> None:
        assert fetch_all(store, target, len(LARGE)) == BLOBS[target.digest]

    def merge(present: bytes | None) -> bytes:
        return CacheDocument.parse(present).dump() if present else DOCUMENT

    found: list[Callable[[], object]] = [read, lambda: store.update(merge)]
    for one in TARGETS:
        found += [
            lambda one=one: store.exists(one),  # type: ignore[misc]
            lambda one=one: fetch(one),  # type: ignore[misc]
            lambda one=one: store.push(one, Blobs()),  # type: ignore[misc]
        ]
    return found


def test_a_store_raises_what_a_build_can_go_on_with(
    service: HostileCaches, chance: random.Random, at_once: None
) -> None:
    for number in range(rounds(60)):
        kind = chance.choice(KINDS)
        secrets = [*secrets_of(service.flag(kind)), "leaked", "secret1"]
        service.spoil = honest
        with Client() as client:
            if number % 20 == 0 or chance.random() < 0.1:
                service.objects.clear()
                service.actions.entries.clear()
            else:
                store = opened(service, client, kind)
                for one in chance.sample(TARGETS, 2):
                    store.push(one, Blobs())
                store.update(lambda present: present or DOCUMENT)
            spoil_some(service, chance)
            for each in chance.sample(work(opened(service, client, kind)), 4):
                try:
                    each()
                except (ShiplineError, OSError) as error:
                    said = getattr(error, "message", str(error)) + getattr(error, "hint", "")
                    assert said.isprintable() and len(said) < 1000
                    quoted = "in a cache document" in said  # which has no secrets
                    assert quoted or not [one for one in secrets if one in said]


def secrets_of(flag: str) -> list[str]:
    given = dict(one.partition("=")[::2] for one in flag.split(","))
    names = ("token", "secret_access_key", "session_token", "sas")
    return [given[name].removeprefix("sv=2024&") for name in names if name in given]


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_a_service_answers_the_build_is_as_without_its_cache(
    kind: str, service: HostileCaches, chance: random.Random, tmp_path: Path
) -> None:
    place = context(tmp_path / "context", DOCKERFILE, **FILES)
    flag = service.flag(kind)
    words = ("--progress", "plain", "-o", tmp_path / "out")
    both = ("--cache-from", flag, "--cache-to", f"{flag},mode=max")
    for _ in range(rounds(3)):
        service.spoil = honest
        Shipline(tmp_path / "home").build(*words, *both, place).ok()
        shutil.rmtree(tmp_path / "home")
        shutil.rmtree(tmp_path / "out")
        spoil_some(service, chance)
        done = Shipline(tmp_path / "home").build(*words, *both, place).ok()
        assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == FILES
        assert "Traceback" not in done.err and "\x1b" not in done.err
        kept = [path.read_bytes() for path in (tmp_path / "home").rglob("*") if path.is_file()]
        for text in (*kept, done.err.encode()):
            assert not [one for one in secrets_of(flag) if one.encode() in text]


@pytest.mark.parametrize("kind", KINDS)
def test_a_blob_that_trickles_is_given_up(
    kind: str, service: HostileCaches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "PATIENCE_S", 0.5)

    def trickle(request: CacheRequest, reply: CacheReply) -> CacheReply | Act:
        def act(sock: socket.socket) -> None:
            raw = reply.raw("GET")
            for number in range(0, len(raw), 8 << 10):
                sock.sendall(raw[number : number + (8 << 10)])
                time.sleep(0.02)

        return act if len(reply.body) > 1 << 20 else reply

    with Client() as client:
        opened(service, client, kind).push(TARGETS[-1], Blobs())
        service.spoil = trickle
        with pytest.raises(RegistryError, match="did not send 8 MiB within"):
            fetch_all(opened(service, client, kind), TARGETS[-1], len(LARGE))


@pytest.mark.parametrize("kind", KINDS)
def test_a_blob_of_which_every_answer_has_a_byte_is_given_up(
    kind: str, service: HostileCaches, at_once: None
) -> None:
    def one_byte(request: CacheRequest, reply: CacheReply) -> CacheReply | Act:
        raw = reply.raw("GET")
        end = len(raw) - len(reply.body) + 1
        return (lambda sock: sock.sendall(raw[:end])) if len(reply.body) > 1 << 20 else reply

    with Client() as client:
        opened(service, client, kind).push(TARGETS[-1], Blobs())
        service.spoil = one_byte
        service.requests.clear()
        with pytest.raises(RegistryError, match="closed unexpectedly"):
            fetch_all(opened(service, client, kind), TARGETS[-1], len(LARGE))
    assert len(service.requests) < 50
