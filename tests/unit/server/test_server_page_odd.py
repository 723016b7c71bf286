"""Web pages of damaged, huge or very many items: correct, in bounded time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from node_app import NodeApp, Reply, fill
from shipline.oci import Descriptor, Digest, Manifest, media
from shipline.server.entries import Changes, counts, tag_entries
from shipline.server.pages import lists

NAME = "team/app"


@pytest.fixture
def app(tmp_path: Path) -> Iterator[NodeApp]:
    opened = NodeApp(tmp_path)
    yield opened
    opened.close()


def image(app: NodeApp, config: bytes, tag: str = "1", **annotations: str) -> Digest:
    """An image without layers, whose configuration is these bytes."""
    described = Descriptor.of(config, media.OCI_CONFIG)
    fill(app.node.uploads.put(NAME, described.digest, len(config)), [config])
    made = Manifest.make(described, [], annotations=annotations)
    app.node.manifests.put(NAME, made.descriptor.digest, made, (tag,))
    return made.descriptor.digest


def page(app: NodeApp, path: str) -> Reply:
    reply = app.call("GET", path)
    assert reply.status == 200
    return reply


@pytest.mark.parametrize("config", [b"\xff not JSON", b"[]", b'{"history": 7}', b""])
def test_an_image_without_a_readable_configuration_says_so(app: NodeApp, config: bytes) -> None:
    image(app, config)
    text = page(app, f"/r/{NAME}:1").text
    assert "missing or damaged" in text and f"docker pull node.example/{NAME}:1" in text


@pytest.mark.parametrize("value", [None, 0, 5, "x", [], [1, None], {"a": []}, [["nested"]], True])
def test_members_of_another_type_are_damage(app: NodeApp, value: object) -> None:
    keys = ("User", "Env", "Cmd", "Volumes", "Labels", "ExposedPorts")
    run = dict.fromkeys(keys, value)
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers"}, "config": run}
    image(app, json.dumps(config).encode())
    text = page(app, f"/r/{NAME}:1").text
    assert ("linux/amd64" if value is None else "missing or damaged") in text


def test_what_an_image_brings_too_much_of_is_cut(app: NodeApp) -> None:
    notes = {f"key{number}": "<b>&" * 5000 for number in range(100)}
    image(app, b'{"architecture": "amd64", "os": "linux"}', **notes)
    reply = page(app, f"/r/{NAME}:1")
    assert len(reply.body) < 3_000_000 and "18000 characters more" in reply.text


def test_more_referrers_than_are_shown_are_not_passed_over(app: NodeApp) -> None:
    subject = Descriptor(media.OCI_MANIFEST, image(app, b"{}"), 7)
    config = Descriptor.of(b"{}", media.OCI_CONFIG)
    for number in range(201):
        made = Manifest.make(config, [], subject=subject, annotations={"n": str(number)})
        app.node.manifests.put(NAME, made.descriptor.digest, made)
        if number == 199:
            assert "Only the first" not in page(app, f"/r/{NAME}:1").text
    assert "Only the first" in page(app, f"/r/{NAME}:1").text


def test_a_search_among_very_many_tags_finds_the_last_one(
    app: NodeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "MAX_EXAMINED", 2000)
    digest = image(app, b"{}", "a")
    changes: Changes = {}
    for number in range(4500):
        changes |= tag_entries(NAME, f"b{number:05}", digest, at=1.0)
    app.storage.commit(changes, counts(NAME, tags=4500))
    for path in (f"/r/{NAME}:a", f"/r/{NAME}/-/manifests"):
        text = page(app, path).text
        assert "and more" in text and text.count("b000") < 300
    pages, path = 0, f"/r/{NAME}?q=B04499"
    while True:
        text = page(app, path).text
        pages += 1
        (more,) = re.findall(r'rel="next" href="([^"]+)"', text) or [""]
        if not more:
            break
        assert "looked at so far" in text and "No tag has" not in text
        path = more.replace("&amp;", "&")
    assert f'href="/r/{NAME}:b04499"' in text and pages == 3
