"""Tags that runs set at once: an immutable one has one image, others have the newest commit's."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shipline.content import Fetcher, MemoryStore
from shipline.errors import ContentError
from shipline.oci import Descriptor, Digest, Manifest, media
from shipline.ship.steps.publish import TagChanges, give_tags
from shipline.tags import Decision, Event, Tag

LINE = OLDEST, OLD, NEW = "a" * 40, "b" * 40, "c" * 40
FIXED, MOVES = Tag("v1.0.0", False, ""), Tag("latest", True, "")


class _Busy(MemoryStore):
    """A registry whose tags others set right before this run does."""

    def __init__(self, *others: Callable[[MemoryStore], object]) -> None:
        super().__init__()
        self._others = list(others)

    def tag(self, target: Descriptor, source: Fetcher, tag: str) -> None:
        self._let_another()
        super().tag(target, source, tag)

    def swap(self, target: Descriptor, source: Fetcher, tag: str, before: Digest | None) -> bool:
        self._let_another()
        return super().swap(target, source, tag, before)

    def _let_another(self) -> None:
        if self._others:
            self._others.pop(0)(self)

    def referrers(self, target: Descriptor, artifact_type: str = "") -> tuple[Descriptor, ...]:
        return ()


def _image(store: MemoryStore, commit: str, build: str = "") -> Descriptor:
    config = store.add(b"{}", media.OCI_CONFIG)
    revision = {"org.opencontainers.image.revision": commit, "build": build}
    made = Manifest.make(config, [], annotations=revision)
    return store.add(made.raw, made.media_type)


def _is_ancestor(old: str, new: str) -> bool:
    return LINE.index(old) <= LINE.index(new)


def _give(store: _Busy, commit: str, *tags: Tag) -> TagChanges:
    decision = Decision(Event(), commit, commit, 1, "", "", tags, (), None, True)
    return give_tags(store, _image(store, commit), decision, _is_ancestor)


def _moves_to(commit: str, tag: str, build: str = "") -> Callable[[MemoryStore], object]:
    return lambda store: store.tags.update({tag: _image(store, commit, build)})


@pytest.mark.parametrize("before", [None, OLDEST])
def test_tag_that_a_newer_run_sets_meanwhile_stays(before: str | None) -> None:
    store = _Busy(_moves_to(NEW, "latest"))
    if before:
        store.tags["latest"] = _image(store, before)
    done = _give(store, OLD, MOVES)
    assert store.tags["latest"] == _image(store, NEW)
    assert (done.added, [name for name, _ in done.kept]) == ((), ["latest"])


def test_tag_that_an_older_run_sets_meanwhile_is_moved_on() -> None:
    store = _Busy(_moves_to(OLDEST, "latest"))
    assert _give(store, OLD, MOVES).added == ("latest",)
    assert store.tags["latest"] == _image(store, OLD)


def test_immutable_tag_has_the_image_of_the_run_that_was_first() -> None:
    """Two runs of one commit, whose builds have different digests."""
    store = _Busy(_moves_to(OLD, "v1.0.0", "first"))
    done = _give(store, OLD, MOVES, FIXED)
    assert store.tags["v1.0.0"] == _image(store, OLD, "first")
    assert (done.added, [name for name, _ in done.kept]) == (("latest",), ["v1.0.0"])


def test_tag_that_others_never_leave_alone_is_an_error() -> None:
    moves = [_moves_to(OLDEST, "latest", str(number)) for number in range(50)]
    store = _Busy(*moves)
    with pytest.raises(ContentError, match="latest was moved by another writer"):
        _give(store, OLD, MOVES)
