"""Cache documents: what is written is found again, and what is hostile is refused."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.build.cache import LayerResult
from shipline.build.caching.document import LIMIT, CacheDocument, CachedResult, CacheKey
from shipline.errors import ContentError
from shipline.layer import Layer
from shipline.layer.codecs import TOC_DIGEST
from shipline.oci import Descriptor, Digest, media
from shipline.values import replace

T1, T2 = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00.123456789Z"


def layer(name: str, created: str = T1) -> LayerResult:
    descriptor = Descriptor.of(name.encode(), media.OCI_LAYER_GZIP)
    return LayerResult(Layer(descriptor, Digest.of(f"tar {name}".encode())), created)


def result(*names: str, created: str = T1) -> CachedResult:
    return CachedResult(tuple(layer(name) for name in names), created)


def key(name: str, *inputs: tuple[tuple[str, CacheKey], ...]) -> CacheKey:
    return CacheKey(str(Digest.of(name.encode())), inputs)


BASE = key("base")
STEP = key("step", (("", BASE),))
TOP = key("top", (("selected", STEP),), (("", key("content")),))


def found(document: CacheDocument, wanted: CacheKey) -> list[CachedResult]:
    return list(document.find(wanted))


def document(*entries: tuple[CacheKey, CachedResult | None]) -> CacheDocument:
    written = CacheDocument()
    for one, entry in entries:
        written.add(one, entry)
    return written


def test_what_is_written_is_found_again() -> None:
    written = document((STEP, result("b", "s")), (TOP, result("b", "s", "t", created=T2)))
    read = CacheDocument.parse(written.dump())
    assert found(read, STEP) == [result("b", "s")]
    assert found(read, TOP) == [result("b", "s", "t", created=T2)]
    assert found(read, BASE) == []
    assert read.dump() == written.dump()


def test_a_layer_keeps_its_table_of_contents() -> None:
    plain = layer("s")
    notes = {TOC_DIGEST: "sha256:x", "other": "y"}
    noted = replace(plain.layer, descriptor=replace(plain.layer.descriptor, annotations=notes))
    written = document((STEP, CachedResult((replace(plain, layer=noted),), T1)))
    (read,) = found(CacheDocument.parse(written.dump()), STEP)
    assert read.layers[0].layer.descriptor.annotations == {TOC_DIGEST: "sha256:x"}


def test_any_of_the_alternatives_of_an_input_will_do() -> None:
    other = key("other name of base")
    written = document((key("step", (("", BASE), ("", other))), result("s")))
    for one in (BASE, other):
        assert found(written, key("step", (("", one),))) == [result("s")]


@pytest.mark.parametrize(
    "wanted",
    [
        key("top", (("", STEP),), (("", key("content")),)),
        key("top", (("selected", BASE),), (("", key("content")),)),
        key("top", (("selected", STEP),), (("", key("changed")),)),
        key("top", (("selected", STEP),)),
        key("top", (("", key("content")),), (("selected", STEP),)),
        key("top"),
    ],
)
def test_other_inputs_are_a_miss(wanted: CacheKey) -> None:
    assert found(document((TOP, result("b", "s", "t"))), wanted) == []


def test_the_newest_result_comes_first() -> None:
    written = document((key("step", (("", BASE),)), result("old")))
    written.add(key("step", (("", BASE), ("", key("other")))), result("new", created=T2))
    assert found(written, STEP) == [result("new", created=T2), result("old")]


def test_equal_content_of_an_input_never_stands_for_other_content() -> None:
    """A stage gave other files each time: each content has its own result."""
    one, two = key("content 1"), key("content 2")
    stage = key("stage")
    written = document(
        (key("copy", (("", stage), ("", one))), result("1")),
        (key("copy", (("", stage), ("", two))), result("2", created=T2)),
    )
    assert found(written, key("copy", (("", one),))) == [result("1")]
    assert found(written, key("copy", (("", two),))) == [result("2", created=T2)]


@given(st.permutations(range(4)))
def test_writers_that_merge_lose_nothing_in_any_order(order: list[int]) -> None:
    parts = [
        (STEP, result("b", "s")),
        (TOP, result("b", "s", "t")),
        (STEP, result("b", "s2", created=T2)),
        (key("arm", (("", BASE),)), result("b", "a")),
    ]
    present = CacheDocument()
    for number in order:
        merged = CacheDocument.parse(present.dump())
        merged.merge(document(parts[number]))
        present = merged
        again = CacheDocument.parse(present.dump())
        again.merge(document(parts[number]))
        assert again.dump() == present.dump()
    assert found(present, STEP)[0] == result("b", "s2", created=T2)
    assert found(present, TOP) and found(present, parts[3][0])


def test_the_order_of_writing_does_not_show() -> None:
    parts = [(STEP, result("b", "s")), (TOP, result("b", "s", "t")), (key("x"), result("x"))]
    assert len({document(*order).dump() for order in permutations(parts)}) == 1


def test_the_oldest_results_make_room() -> None:
    written = CacheDocument()
    for number in range(60):
        created = f"2026-01-01T00:00:{number:02}Z"
        written.add(
            key(f"step {number}", (("", BASE),)), result(f"layer {number}", created=created)
        )
    raw = written.dump(8000)
    assert len(raw) <= 8000 < len(written.dump())
    read = CacheDocument.parse(raw)
    assert found(read, key("step 59", (("", BASE),)))
    assert not found(read, key("step 0", (("", BASE),)))


def test_a_document_that_is_written_is_one_that_buildkit_reads() -> None:
    written = CacheDocument()
    for number in range(3000):
        written.add(key(f"step {number}", (("", BASE),)), result(f"layer {number}"))
    assert 0 < len(written.dump()) <= LIMIT


def test_index_0_is_left_out_and_the_root_is_explicit() -> None:
    raw = json.loads(document((STEP, result("b", "s"))).dump())
    assert sorted(one.get("parent", 0) for one in raw["layers"]) == [-1, 0] or any(
        one.get("parent") == 1 for one in raw["layers"]
    )
    assert all("layer" in one for record in raw["records"] for one in record.get("layers", ()))
    assert all(one["annotations"]["diffID"] for one in raw["layers"])


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b'{"records":{}}',
        b'{"records":[1]}',
        b'{"records":[{"digest":1}]}',
        b'{"records":[{"digest":"d","inputs":[[]]}]}',
        b'{"records":[{"digest":"d","inputs":[[{"link":0}]]}]}',
        b'{"records":[{"digest":"d","inputs":[[{"link":1}]]},{"digest":"e","inputs":[[{}]]}]}',
        b'{"records":[{"digest":"d","inputs":[[{"link":7}]]}]}',
        b'{"records":[{"digest":"d","inputs":[[{"link":-1}]]}]}',
        b'{"records":[{"digest":"d","inputs":[[{"link":true}]]}]}',
        b'{"records":[{"digest":"d","layers":[{"layer":0}]}]}',
        b'{"layers":[{"blob":"b"}],"records":[{"digest":"d","layers":[{"layer":0}]}]}',
        b'{"layers":[{"parent":1},{"parent":0}],"records":[{"digest":"d","layers":[{"layer":1}]}]}',
        b'{"records":[' + b"{}," * 500_000 + b"{}]}",
        b'{"layers":' + b"[" * 5000,
    ],
)
def test_a_hostile_document_is_refused(text: bytes) -> None:
    with pytest.raises(ContentError):
        CacheDocument.parse(text)


@pytest.mark.parametrize(
    "notes",
    [
        None,
        {},
        {"mediaType": "text/html", "diffID": f"sha256:{'0' * 64}", "size": 1},
        {"mediaType": media.OCI_LAYER_GZIP, "diffID": "sha256:../../x", "size": 1},
        {"mediaType": media.OCI_LAYER_GZIP, "diffID": f"sha256:{'0' * 64}", "size": -1},
        {"mediaType": media.OCI_MANIFEST, "diffID": f"sha256:{'0' * 64}", "size": 1},
    ],
)
def test_a_layer_that_is_not_described_is_no_result(notes: dict[str, Any] | None) -> None:
    whole = json.loads(document((TOP, result("b", "s", "t"))).dump())
    for one in whole["layers"]:
        if one["blob"] == str(Digest.of(b"s")):
            one["annotations"] = notes
    assert found(CacheDocument.parse(json.dumps(whole).encode()), TOP) == []


def test_a_time_that_is_none_is_not_kept() -> None:
    whole = json.loads(document((STEP, result("b", "s"))).dump())
    for record in whole["records"]:
        for one in record.get("layers", ()):
            one["createdAt"] = "yesterday\n"
    (one,) = found(CacheDocument.parse(json.dumps(whole).encode()), STEP)
    assert one.created == ""
    assert json.loads(CacheDocument.parse(json.dumps(whole).encode()).dump())


def test_a_long_chain_of_records_is_no_deep_recursion() -> None:
    top = BASE
    for number in range(3000):
        top = key(f"step {number}", (("", top),))
    read = CacheDocument.parse(document((top, result("b"))).dump())
    assert found(read, top) == [result("b")]


def test_explicit_chains_of_layers_are_read() -> None:
    """As inline caches have them."""
    whole = json.loads(document((STEP, result("b", "s"))).dump())
    order = {one["blob"]: number for number, one in enumerate(whole["layers"])}
    numbers = [order[str(Digest.of(name))] for name in (b"b", b"s")]
    for record in whole["records"]:
        if record.pop("layers", None):
            record["chains"] = [{"layers": numbers, "createdAt": T1}]
    assert found(CacheDocument.parse(json.dumps(whole).encode()), STEP) == [result("b", "s")]


def _hostile_layer(parent: int) -> dict[str, Any]:
    notes = {"mediaType": media.OCI_LAYER_GZIP, "size": 3, "diffID": f"sha256:{'1' * 64}"}
    return {"blob": f"sha256:{'0' * 64}", "parent": parent, "annotations": notes}


@pytest.mark.parametrize(
    "hostile",
    [
        {"records": [{"digest": str(number)} for number in range(500_000)]},
        {
            "layers": [_hostile_layer(number - 1) for number in range(500)],
            "records": [{"digest": str(one), "layers": [{"layer": 499}]} for one in range(20_000)],
        },
        {"layers": [{**_hostile_layer(-1), "parent": 10**3000}], "records": []},
        {"layers": [_hostile_layer(0)], "records": [{"digest": "a", "layers": [{"layer": 0}]}]},
        {"layers": [], "records": [{"digest": "a", "layers": [{"layer": 10**3000}]}]},
        {"records": [{"digest": "a", "inputs": [[{"link": 10**3000}]]}]},
    ],
)
def test_numbers_of_things_are_bounded(hostile: dict[str, Any]) -> None:
    read = CacheDocument()
    with suppress(ContentError):
        read = CacheDocument.parse(json.dumps(hostile).encode())
    assert len(read.dump()) < 1000 and found(read, key("a")) == []


def test_many_records_of_one_digest_take_linear_time() -> None:
    def time_of(count: int) -> float:
        records: list[dict[str, Any]] = [{"digest": "a"}]
        records += [{"digest": "a", "inputs": [[{"link": one}]]} for one in range(count)]
        raw = json.dumps({"layers": [], "records": records}).encode()
        started = time.thread_time()
        CacheDocument.parse(raw)
        return time.thread_time() - started

    few = min(time_of(500) for _ in range(3))
    assert time_of(32_000) < 600 * few, "64 times, 4,096 if quadratic"


def test_results_that_cannot_fit_are_left_out_before_they_are_written() -> None:
    names = [str(number) for number in range(400)]
    written = document(*((key(f"{one}"), result(f"{one}", *names)) for one in range(200)))
    started = time.thread_time()
    assert 0 < len(written.dump(limit=200_000)) <= 200_000
    assert time.thread_time() - started < 1
