"""Images with manifests of Docker's schema 1, written by skopeo into a registry that takes them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from commands import run, run_shipline
from layouts import write_layout
from nodes import node
from peers import Registry, docker_registry
from serving import ReceivedRequest, Reply, serving
from shipline.content import MemoryStore, OciLayout, fetch_all
from shipline.oci import (
    Descriptor,
    Digest,
    Manifest,
    from_bytes,
    media,
    parse_manifest,
    schema1_payload,
    to_bytes,
)

pytestmark = pytest.mark.peers
SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with the signed image `signed:1`."""
    work = tmp_path_factory.mktemp("old")
    with docker_registry(work, schema1=True) as running:
        source = f"oci:{_with_history(write_layout(work / 'layout', 'v1', [b'a' * 99, b'b' * 99]))}"
        target = f"docker://{running.address}/signed:1"
        _skopeo("copy", "--format=v2s1", "--dest-tls-verify=false", f"{source}:v1", target)
        yield running


def _with_history(layout: Path) -> Path:
    store = OciLayout(layout)
    before = parse_manifest(fetch_all(store, store.resolve("v1"), 1 << 20))
    assert isinstance(before, Manifest)
    config = from_bytes(fetch_all(store, before.config, 1 << 20))
    config |= {"created": "2020-01-01T00:00:00Z", "author": "A <a@example>"}
    config["config"] = {"Env": ["A=<b>&c"], "Cmd": ["/x"]}
    steps: tuple[dict[str, Any], ...]
    steps = ({"created_by": "ADD a & b"}, {"created_by": "ENV A", "empty_layer": True}, {})
    config["history"] = [{"created": "2020-01-01T00:00:01.5Z", **step} for step in steps]
    raw = to_bytes(config)
    made = Manifest.make(Descriptor.of(raw, media.OCI_CONFIG), before.layers)
    contents = MemoryStore(raw, made.raw)
    store.push(made.config, contents)
    store.tag(made.descriptor, contents, "v1")
    return layout


def _get(address: str, path: str) -> tuple[Message, bytes]:
    headers = {"Accept": f"{SIGNED}, {media.DOCKER_MANIFEST}"}
    with urlopen(Request(f"http://{address}{path}", headers=headers)) as response:
        return response.headers, response.read()


def _skopeo(*words: str) -> None:
    done = run("skopeo", "--insecure-policy", *words)
    assert done.returncode == 0, done.stderr


def _shipline(*words: str | Path, insecure: str) -> str:
    done = run_shipline(*words, environ={**os.environ, "SHIPLINE_INSECURE": insecure})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_registry_that_takes_it_gets_the_same_bytes(old: Registry) -> None:
    source, target = f"{old.address}/signed:1", f"{old.address}/other:2"
    copied = _shipline("copy", source, target, insecure=old.address)
    before, raw = _get(old.address, "/v2/signed/manifests/1")
    after, same = _get(old.address, "/v2/other/manifests/2")
    assert after["Content-Type"] == SIGNED
    assert schema1_payload(same) == schema1_payload(raw)  # the registry signs what it serves
    assert copied == f"{target}@{before['Docker-Content-Digest']}\n"
    digest = _shipline("copy", source, target, insecure=old.address).partition("@")[2]
    assert digest.strip() == before["Docker-Content-Digest"]


def test_other_places_get_schema_2_as_skopeo_makes_it(
    old: Registry, registry: Registry, tmp_path: Path
) -> None:
    source = f"{old.address}/signed:1"
    theirs = tmp_path / "theirs"
    words = ("copy", "--format=v2s2", "--src-tls-verify=false")
    _skopeo(*words, f"docker://{source}", f"dir:{theirs}")
    wanted = json.loads((theirs / "manifest.json").read_bytes())
    with node(tmp_path / "node") as ours:
        for place in (registry, ours):
            insecure = f"{old.address},{place.address}"
            _shipline("copy", source, f"{place.address}/was/old:1", insecure=insecure)
            assert json.loads(_get(place.address, "/v2/was/old/manifests/1")[1]) == wanted
    _shipline("copy", source, f"oci:{tmp_path}/layout:1", insecure=old.address)
    layout = OciLayout(tmp_path / "layout")
    assert from_bytes(fetch_all(layout, layout.resolve("1"), 1 << 20)) == wanted


def test_it_is_inspected_without_its_layers(old: Registry) -> None:
    source = f"{old.address}/signed:1"
    headers, raw = _get(old.address, "/v2/signed/manifests/1")
    digest = headers["Docker-Content-Digest"]
    assert _shipline("digest", source, insecure=old.address) == f"{digest}\n"
    shown = _shipline("inspect", "--raw", source, insecure=old.address).encode()
    assert schema1_payload(shown) == schema1_payload(raw)
    text = _shipline("inspect", f"{old.address}/signed@{digest}", insecure=old.address)
    assert SIGNED in text and digest in text
    assert "2 layers" in _shipline("inspect", "--tree", source, insecure=old.address)
    template = "--format={{json .Image}}"
    image = json.loads(_shipline("inspect", template, source, insecure=old.address))
    assert (image["os"], image["architecture"]) == ("linux", "amd64")
    assert image["config"]["Env"] == ["A=<b>&c"] and len(image["history"]) == 3


def test_a_manifest_that_is_not_signed_is_read(old: Registry, tmp_path: Path) -> None:
    _, signed = _get(old.address, "/v2/signed/manifests/1")
    fields: dict[str, Any] = json.loads(signed)
    del fields["signatures"]
    raw = to_bytes(fields)

    def respond(request: ReceivedRequest) -> Reply:
        if request.path == "/v2/plain/manifests/1":
            return 200, {"Content-Type": "application/json"}, raw
        if "/blobs/" in request.path:
            headers, content = _get(old.address, request.path.replace("/plain/", "/signed/"))
            return 200, {"Content-Length": headers["Content-Length"]}, content
        return (200 if request.path == "/v2/" else 404), {}, b""

    with serving(respond) as server:
        source = f"{server.host}/plain:1"
        digest = _shipline("digest", source, insecure=server.host)
        _shipline("copy", source, f"oci:{tmp_path}/layout:1", insecure=server.host)
    assert digest == f"{Digest.of(raw)}\n"
    assert len(from_bytes((tmp_path / "layout/index.json").read_bytes())["manifests"]) == 1
