"""Ingest: bytes become content when they are committed, whole and as promised, or never."""

from __future__ import annotations

import itertools
import random
from contextlib import ExitStack

import pytest

from shipline.content import Store, fetch_all
from shipline.errors import DigestMismatch
from shipline.oci import Descriptor, Digest, media
from shipline.values import replace

BLOB = random.Random(2).randbytes(3_000_001)
TARGET = Descriptor.of(BLOB, media.OCI_LAYER)
SIZES = (0, 1, 4096, (1 << 20) - 1, 1 << 20, len(BLOB))


@pytest.mark.parametrize("size", SIZES)
def test_what_was_committed_is_fetched_equal(store: Store, size: int) -> None:
    content, at, steps = BLOB[:size], 0, itertools.cycle((1, 70_000, 1 << 20))
    target = Descriptor.of(content, media.OCI_LAYER)
    with store.ingest() as ingest:
        while at < size:
            step = next(steps)
            ingest.write(content[at : at + step])
            at += step
        assert (ingest.digest, ingest.size) == (target.digest, size)
        ingest.commit(target)
    assert store.exists(target)
    assert fetch_all(store, target, size) == content


@pytest.mark.parametrize("size", [10, len(BLOB)])
def test_uncommitted_bytes_never_exist(store: Store, size: int) -> None:
    with store.ingest() as ingest:
        ingest.write(BLOB[:size])
    assert not store.exists(Descriptor.of(BLOB[:size], media.OCI_LAYER))


@pytest.mark.parametrize("size", [10, len(BLOB)])
def test_other_bytes_than_promised_are_not_committed(store: Store, size: int) -> None:
    promised = Descriptor.of(BLOB[:size], media.OCI_LAYER)
    with store.ingest() as ingest:
        ingest.write(BLOB[: size - 1] + bytes([BLOB[size - 1] ^ 1]))
        with pytest.raises(DigestMismatch):
            ingest.commit(promised)
    assert not store.exists(promised)


def test_another_size_than_promised_is_not_committed(store: Store) -> None:
    with store.ingest() as ingest:
        ingest.write(BLOB)
        with pytest.raises(DigestMismatch):
            ingest.commit(replace(TARGET, size=TARGET.size + 1))
    assert not store.exists(TARGET)


def test_digest_and_size_are_those_of_the_bytes_so_far(store: Store) -> None:
    with store.ingest() as ingest:
        for end in (0, 10, 70_000, len(BLOB)):
            ingest.write(BLOB[ingest.size : end])
            assert (ingest.digest, ingest.size) == (Digest.of(BLOB[:end]), end)


def test_an_error_in_the_block_publishes_nothing(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.ingest() as ingest:
        ingest.write(BLOB)
        raise ZeroDivisionError
    assert not store.exists(TARGET)


def test_contents_that_are_written_at_once_do_not_mix(store: Store) -> None:
    contents = [bytes([number]) * 100_000 for number in range(3)]
    targets = [Descriptor.of(content, media.OCI_LAYER) for content in contents]
    with ExitStack() as stack:
        ingests = [stack.enter_context(store.ingest()) for _ in contents]
        for at in range(0, 100_000, 25_000):
            for ingest, content in zip(ingests, contents, strict=True):
                ingest.write(content[at : at + 25_000])
        for ingest, target in zip(ingests, targets, strict=True):
            ingest.commit(target)
    for target, content in zip(targets, contents, strict=True):
        assert fetch_all(store, target, target.size) == content


def test_what_exists_is_committed_again(store: Store) -> None:
    for _ in range(2):
        with store.ingest() as ingest:
            ingest.write(BLOB)
            ingest.commit(TARGET)
    assert fetch_all(store, TARGET, TARGET.size) == BLOB
