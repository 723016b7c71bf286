"""Cached sizes are never those of a deleted blob."""

from __future__ import annotations

from shipline.oci import Digest
from shipline.server.cache import BlobSizes

BLOB = Digest.of(b"x")
KEY = ("blob", "team/app", str(BLOB))


def nothing() -> int | None:
    raise AssertionError("it was kept")


def test_a_size_is_read_once() -> None:
    sizes = BlobSizes()
    assert sizes.get("team/app", BLOB, lambda: 5) == 5
    assert sizes.get("team/app", BLOB, nothing) == 5


def test_a_write_about_the_blob_forgets_it() -> None:
    sizes = BlobSizes()
    sizes.get("team/app", BLOB, lambda: 5)
    sizes.forget([KEY, ("tag", "team/app", "v1")])
    assert sizes.get("team/app", BLOB, lambda: None) is None


def test_a_write_about_another_one_does_not() -> None:
    sizes = BlobSizes()
    sizes.get("team/app", BLOB, lambda: 5)
    sizes.forget([("blob", "other/app", str(BLOB)), ("repository", "team/app")])
    assert sizes.get("team/app", BLOB, nothing) == 5


def test_what_was_read_while_something_was_written_is_not_kept() -> None:
    sizes = BlobSizes()

    def slow() -> int:
        sizes.forget([KEY])  # another thread deletes it meanwhile
        return 5

    assert sizes.get("team/app", BLOB, slow) == 5
    assert sizes.get("team/app", BLOB, lambda: None) is None


def test_what_is_not_there_is_not_remembered_and_the_oldest_goes() -> None:
    sizes = BlobSizes(limit=2)
    blobs = [Digest.of(bytes([number])) for number in range(3)]
    assert sizes.get("a", BLOB, lambda: None) is None
    for blob in blobs:
        sizes.get("a", blob, lambda: 1)
    assert sizes.get("a", blobs[2], nothing) == 1
    assert sizes.get("a", blobs[0], lambda: 7) == 7
