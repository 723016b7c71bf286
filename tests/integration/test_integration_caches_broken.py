"""A cache that fails, is damaged or is hostile is a warning: the build is as without it."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from builds import Shipline, context
from shipline.content import OciLayout
from shipline.oci import Digest

PLAIN = ("--progress", "plain")
DOCKERFILE = "FROM scratch\nCOPY one /\nCOPY two /\n"
FILES = {"one": "1", "two": "2"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return context(tmp_path / "context", DOCKERFILE, **FILES)


@pytest.fixture
def cache(place: Path, tmp_path: Path) -> Path:
    """A cache of the build, as an OCI layout."""
    first = Shipline(tmp_path / "first")
    to = ("--cache-to", f"type=local,dest={tmp_path}/cache,mode=max")
    first.build(*PLAIN, "-o", "type=cacheonly", *to, place).ok()
    return tmp_path / "cache"


def rewrite(layout: Path, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> None:
    """Change the manifest and the configuration of a cache, with digests that fit."""
    index = json.loads((layout / "index.json").read_text())
    (entry,) = index["manifests"]
    manifest = json.loads(blob(layout, entry["digest"]).read_bytes())
    config = json.loads(blob(layout, manifest["config"]["digest"]).read_bytes())
    change(manifest, config)
    manifest["config"] |= put(layout, config)
    entry |= put(layout, manifest)
    (layout / "index.json").write_text(json.dumps(index))


def blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def put(layout: Path, document: dict[str, Any]) -> dict[str, Any]:
    raw = json.dumps(document).encode()
    digest = str(Digest.of(raw))
    blob(layout, digest).write_bytes(raw)
    return {"digest": digest, "size": len(raw)}


def built_as_without(place: Path, tmp_path: Path, *words: str | Path) -> str:
    """Build on a fresh machine; what it said."""
    said, found = built(place, tmp_path, *words)
    assert found == FILES, said
    return said


def built(place: Path, tmp_path: Path, *words: str | Path) -> tuple[str, dict[str, str]]:
    """Build on a fresh machine; what it said, and the files of the image."""
    out = tmp_path / "out"
    done = Shipline(tmp_path / "fresh").build(*PLAIN, "-o", out, *words, place).ok()
    assert "Traceback" not in done.err
    return done.err, {path.name: path.read_text() for path in out.iterdir()}


def test_the_cache_as_it_was_is_used(cache: Path, place: Path, tmp_path: Path) -> None:
    said = built_as_without(place, tmp_path, "--cache-from", f"type=local,src={cache}")
    assert said.count("CACHED") == 2 and "arning" not in said


def _swap_diff_ids(manifest: dict[str, Any], _: dict[str, Any]) -> None:
    one, two = (layer["annotations"] for layer in manifest["layers"])
    key = "containerd.io/uncompressed"
    one[key], two[key] = two[key], one[key]


def test_a_wrong_diff_id_is_found_before_the_files_are_used(
    cache: Path, place: Path, tmp_path: Path
) -> None:
    rewrite(cache, _swap_diff_ids)
    said = built_as_without(place, tmp_path, "--cache-from", f"type=local,src={cache}")
    assert "is not used any more" in said and "starts again without --cache-from" in said


def test_a_wrong_diff_id_is_found_before_an_image_is_written(
    cache: Path, place: Path, tmp_path: Path
) -> None:
    rewrite(cache, _swap_diff_ids)
    words = (*PLAIN, "-o", f"type=oci,dest={tmp_path}/image,tar=false", place)
    said = Shipline(tmp_path / "fresh").build("--cache-from", f"type=local,src={cache}", *words)
    assert "starts again without --cache-from" in said.ok().err
    assert OciLayout(tmp_path / "image").index().manifests


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b other bytes"])
def test_a_damaged_layer_is_not_used(
    content: bytes, cache: Path, place: Path, tmp_path: Path
) -> None:
    index = json.loads((cache / "index.json").read_text())
    manifest = json.loads(blob(cache, index["manifests"][0]["digest"]).read_bytes())
    for layer in manifest["layers"]:
        blob(cache, layer["digest"]).write_bytes(content)
    built_as_without(place, tmp_path, "--cache-from", f"type=local,src={cache}")


def test_a_missing_layer_is_a_miss(cache: Path, place: Path, tmp_path: Path) -> None:
    index = json.loads((cache / "index.json").read_text())
    manifest = json.loads(blob(cache, index["manifests"][0]["digest"]).read_bytes())
    for layer in manifest["layers"]:
        blob(cache, layer["digest"]).unlink()
    said = built_as_without(place, tmp_path, "--cache-from", f"type=local,src={cache}")
    assert "CACHED" not in said


def _loop(_: dict[str, Any], config: dict[str, Any]) -> None:
    for number, record in enumerate(config["records"]):
        record["inputs"] = [[{"link": (number + 1) % len(config["records"])}]]


def _layer_loop(_: dict[str, Any], config: dict[str, Any]) -> None:
    for number, layer in enumerate(config["layers"]):
        layer["parent"] = number


def _no_records(_: dict[str, Any], config: dict[str, Any]) -> None:
    config["records"] = "none"


@pytest.mark.parametrize("change", [_loop, _layer_loop, _no_records])
def test_a_hostile_document_is_a_warning(
    change: Callable[[dict[str, Any], dict[str, Any]], object],
    cache: Path,
    place: Path,
    tmp_path: Path,
) -> None:
    rewrite(cache, change)
    both = ("--cache-from", f"type=local,src={cache}", "--cache-to", f"type=local,dest={cache}")
    said = built_as_without(place, tmp_path, *both)
    assert "cannot be read" in said and "is replaced" in said
    again = Shipline(tmp_path / "again").build(*PLAIN, "-o", "type=cacheonly", *both, place).ok()
    assert again.err.count("CACHED") == 2


@pytest.mark.parametrize(
    "media_type", ["text/html", "application/vnd.oci.image.manifest.v1+json", ""]
)
def test_a_layer_of_a_foreign_type_is_a_miss(
    media_type: str, cache: Path, place: Path, tmp_path: Path
) -> None:
    def change(manifest: dict[str, Any], _: dict[str, Any]) -> None:
        for layer in manifest["layers"]:
            layer["mediaType"] = media_type

    rewrite(cache, change)
    said = built_as_without(place, tmp_path, "--cache-from", f"type=local,src={cache}")
    assert "CACHED" not in said


def _damage(layout: Path, chance: random.Random) -> str:
    """Something that a disk or a bad program may do to a cache; what it was."""
    blobs = sorted((layout / "blobs/sha256").iterdir())
    one, other = chance.choice(blobs), chance.choice(blobs)
    raw = bytearray(one.read_bytes())
    match chance.randrange(4):
        case 0:
            raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
            one.write_bytes(raw)
            return f"a bit of {one.name} flipped"
        case 1:
            one.write_bytes(raw[: chance.randrange(len(raw))])
            return f"{one.name} cut"
        case 2:
            one.write_bytes(other.read_bytes())
            return f"{one.name} is {other.name}"
    one.unlink()
    return f"{one.name} removed"


def _forge(layout: Path, chance: random.Random) -> str:
    """Something that a bad program or an enemy may write into a cache, with digests that fit."""
    said = []

    def change(manifest: dict[str, Any], config: dict[str, Any]) -> None:
        layers: list[dict[str, Any]] = manifest["layers"]
        places: list[tuple[Any, Any]] = [(one, key) for one in layers for key in one]
        places += [(one["annotations"], key) for one in layers for key in one["annotations"]]
        for rows in (config["layers"], config["records"]):
            places += [(row, key) for row in rows for key in (*row, "parent", "chains")]
        for record in config["records"]:
            places += [(link, "link") for links in record.get("inputs", ()) for link in links]
            places += [(found, "layer") for found in record.get("layers", ())]
        values = [holder[key] for holder, key in places if key in holder]
        values += [0, -1, 10**30, "", None, [], {}, [[]], [{}], "sha256:" + "0" * 64]
        for _ in range(chance.choice((1, 1, 3))):
            holder, key = chance.choice(places)
            holder[key] = deepcopy(chance.choice(values))  # never itself
            said.append(f"{key} = {holder[key]!r:.80}")

    rewrite(layout, change)
    return "; ".join(said)


def test_whatever_is_done_to_a_cache_the_build_is_as_without(
    cache: Path, place: Path, tmp_path: Path
) -> None:
    for words in _altered(cache, tmp_path, _damage):
        built_as_without(place, tmp_path, *words)


def test_a_forged_cache_may_lie_about_layers_and_do_no_more(
    cache: Path, place: Path, tmp_path: Path
) -> None:
    """A document says which layers a step has, as in BuildKit: here one number changed in it may
    give both steps the same layer.
    """
    for words in _altered(cache, tmp_path, _forge):
        said, found = built(place, tmp_path, *words)
        assert found.items() <= FILES.items(), said
        assert found == FILES or "CACHED" in said, said


def _altered(
    cache: Path, tmp_path: Path, change: Callable[[Path, random.Random], str]
) -> Iterator[tuple[str, ...]]:
    """Words of builds that read and write a copy of the cache to which `change` was made."""
    seed = int(os.environ.get("SHIPLINE_TEST_SEED") or random.randrange(1 << 32))
    print("seed", seed)
    chance = random.Random(seed)
    for _ in range(300 if os.environ.get("SHIPLINE_TEST_ALL") else 8):
        damaged = tmp_path / "damaged"
        shutil.copytree(cache, damaged)
        print(change(damaged, chance))
        yield (
            "--cache-from",
            f"type=local,src={damaged}",
            "--cache-to",
            f"type=local,dest={damaged}",
        )
        for one in ("damaged", "fresh", "out"):
            shutil.rmtree(tmp_path / one)


@contextmanager
def server(status: int) -> Iterator[str]:
    """A registry that answers everything with `status`."""

    class Handler(BaseHTTPRequestHandler):
        def _reply(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = _reply

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{http.server_port}"
        finally:
            http.shutdown()
            thread.join()


@pytest.mark.parametrize("status", [401, 403, 400])
def test_a_registry_that_refuses_is_a_warning(status: int, place: Path, tmp_path: Path) -> None:
    with server(status) as address:
        ref = f"{address}/cache:v1"
        both = ("--cache-from", ref, "--cache-to", f"type=registry,ref={ref}")
        said = built_as_without(place, tmp_path, *both)
        assert "cannot be read" in said and "was not written" in said


def test_a_cache_that_is_required_stops_the_build(place: Path, tmp_path: Path) -> None:
    with server(400) as address:
        to = f"type=registry,ref={address}/cache:v1,ignore-error=false"
        words = (*PLAIN, "-o", "type=cacheonly", "--cache-to", to, place)
        said = Shipline(tmp_path / "fresh").build(*words)
    assert said.status != 0 and "Traceback" not in said.err and "400" in said.err


def test_a_cache_that_is_not_there_yet_is_no_warning(place: Path, tmp_path: Path) -> None:
    said = built_as_without(place, tmp_path, "--cache-from", f"type=local,src={tmp_path}/none")
    assert "there is no cache yet" in said and "arning" not in said


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--cache-from", "type=registry,reff=a"), "reff"),
        (("--cache-to", "type=registry"), "ref="),
        (("--cache-to", "type=local"), "dest="),
        (("--cache-from", "type=inline"), "type=registry,ref=IMAGE"),
    ],
)
def test_what_cannot_be_meant_is_an_error(
    words: tuple[str, ...], named: str, place: Path, tmp_path: Path
) -> None:
    done = Shipline(tmp_path / "home").build(*PLAIN, "-o", "type=cacheonly", *words, place)
    assert named in done.failed(2)


@pytest.mark.parametrize("made", [True, False])
def test_a_directory_that_cannot_be_made_is_named(made: bool, place: Path, tmp_path: Path) -> None:
    """A warning, and an error for a cache that is required."""
    directory = tmp_path / "a" / "x" if made else Path("/dev/null/x")
    if made:
        directory.parent.write_text("a file")
    both = ("--cache-from", f"type=local,src={directory}", "--cache-to")
    said = built_as_without(place, tmp_path, *both, f"type=local,dest={directory}")
    assert f"was not written: cannot use the image layout: {directory}" in said
    required = f"type=local,dest={directory},ignore-error=false"
    words = (*PLAIN, "-o", "type=cacheonly", *both, required, place)
    assert str(directory) in Shipline(tmp_path / "home").build(*words).failed(8)


@pytest.mark.parametrize("target", ["elsewhere", "oci-layout"])
def test_a_link_in_the_directory_leads_no_write_elsewhere(
    target: str, place: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "oci-layout").symlink_to(tmp_path / target if target == "elsewhere" else target)
    both = [f"type=local,{one}={cache}" for one in ("src", "dest")]
    for cached in (0, 2):
        said = built_as_without(place, tmp_path, "--cache-from", both[0], "--cache-to", both[1])
        assert "arning" not in said and said.count("CACHED") == cached
        shutil.rmtree(tmp_path / "fresh")
        shutil.rmtree(tmp_path / "out")
    assert not (tmp_path / "elsewhere").exists()
