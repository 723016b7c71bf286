"""Statements by trusted keys are found, whatever others attach or overwrite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from attached import AMD, Repository, add_index
from node_app import NodeApp, Reply
from shipline.content import MemoryStore, copy_graph, fetch_all
from shipline.oci import (
    MANIFEST_LIMIT,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    Reference,
    media,
    parse_manifest,
)
from shipline.server.access import OpenAuthenticator
from shipline.server.admission import evidence
from shipline.server.admission.section import AdmissionSection
from shipline.server.http import Action, Principal, Request, Requirement
from shipline.supply import BUNDLE, Form, ImagePattern, generate_key, sign
from shipline.trust import TrustRule, TrustSection

KEY, OTHER = generate_key("release"), generate_key("stranger")
NAME = Reference("registry.example", "team/app", "v1")


class Roles(OpenAuthenticator):
    """Who a request says it is: admin may all, nobody only pull, others everything but delete."""

    def authorize(self, request: Request, requires: Requirement, name: str) -> Principal:
        who = request.header("X-Who") or ""

        def may(action: Action, repository: str, tag: str) -> bool:
            return who == "admin" or action == "pull" or (bool(who) and action != "delete")

        return Principal(who, "user" if who else "anonymous", may)


class World(NodeApp):
    def __init__(self, data: Path) -> None:
        rule = TrustRule(images=(ImagePattern.parse("team/*"),))
        assume_none = TrustSection((rule,), {"release": KEY.public.pem.decode()}, default="accept")
        super().__init__(data, AdmissionSection(signatures=assume_none), authenticator=Roles())
        source, self.store = Repository(), self.repository("team/app")
        self.index = add_index(source)
        copy_graph(source, self.store, self.index.descriptor)
        self.store.tag(self.index.descriptor, source, "v1")

    def put(self, who: str, manifest: Manifest | Index, tag: str = "") -> Reply:
        """Push a manifest whose blobs are there."""
        kind = {"Content-Type": manifest.media_type, "X-Who": who}
        place = tag or str(manifest.descriptor.digest)
        return self.call("PUT", f"/v2/team/app/manifests/{place}", manifest.raw, kind)

    def signed(self, form: Form) -> Manifest:
        """Sign the index as the release pipeline does; returns what is attached."""
        away = Repository()
        copy_graph(self.store, away, self.index.descriptor)
        sign(away, self.index.descriptor, NAME, [KEY], forms=(form,), recursive=False)
        tagged = away.tags.get(self.tag)
        (place,) = [tagged] if tagged else away.referrers(self.index.descriptor)
        found = parse_manifest(fetch_all(away, place, MANIFEST_LIMIT), place.media_type)
        assert isinstance(found, Manifest)
        for blob in (found.config, *found.layers):
            self.store.push(blob, away)
        assert self.put("pipeline", found, self.tag if tagged else "").status == 201
        return found

    @property
    def tag(self) -> str:
        return f"sha256-{self.index.descriptor.digest.hex}.sig"

    def blob(self, content: bytes, kind: str) -> Descriptor:
        found = Descriptor.of(content, kind)
        if not self.store.exists(found):
            self.store.push(found, MemoryStore(content))
        return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    opened = World(tmp_path)
    yield opened
    opened.close()


def bogus(world: World, number: int) -> Manifest:
    """A referrer that looks like a signature."""
    return Manifest.make(
        world.blob(b"{}", media.OCI_EMPTY),
        [world.blob(b'{"mediaType": "x"}', BUNDLE)],
        subject=world.index.descriptor,
        artifact_type=BUNDLE,
        annotations={"n": str(number)},
    )


@pytest.mark.slow
def test_no_number_of_referrers_hides_a_signature(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "_REFERRERS", 100)
    signature = world.signed(Form.BUNDLE).descriptor.digest
    before = 0
    for number in range(150):
        made = bogus(world, number)
        before += str(made.descriptor.digest) < str(signature)
        assert world.put("eve", made).status == 201
    assert before > 0 and world.pull("team/app", "v1").status == 200
    for child in world.index.manifests:
        assert world.pull("team/app", child.digest).status == 200


@pytest.mark.slow
def test_copies_of_an_old_signature_hide_no_newer_one(world: World) -> None:
    old = world.signed(Form.BUNDLE)
    for number in range(300):
        copy = Manifest.make(
            old.config,
            old.layers,
            subject=old.subject,
            artifact_type=old.artifact_type,
            annotations={**old.annotations, "n": str(number)},
        )
        assert world.put("eve", copy).status == 201
    digest = str(world.index.descriptor.digest)
    assert len(world.storage.records.scan(("proven", "team/app", digest))) == 1


@pytest.mark.slow
def test_no_number_of_indexes_hides_the_signed_one(world: World) -> None:
    world.signed(Form.BUNDLE)
    child = world.index.manifests[0]
    for number in range(60):
        made = Index.make([child], annotations={"n": str(number)})
        assert world.put("eve", made).status == 201
    assert world.pull("team/app", child.digest).status == 200


def test_a_tag_of_signatures_is_only_added_to(world: World) -> None:
    before = world.signed(Form.TAG)
    empty = replace_layers(before, [world.blob(b"{}", before.layers[0].media_type)])
    refused = world.put("eve", empty, world.tag)
    assert refused.status == 403 and "statements of other accounts" in refused.message
    assert world.put("eve", bogus(world, 1), world.tag).status == 403
    assert world.put("eve", Index.make([]), world.tag).status == 403
    mine = world.blob(b'{"critical": {}, "optional": null}', before.layers[0].media_type)
    assert world.put("eve", replace_layers(before, [mine, *before.layers]), world.tag).status == 403
    many = replace_layers(before, [*before.layers, *[mine] * 256])
    assert world.put("eve", many, world.tag).status == 403
    assert world.put("eve", replace_layers(before, [*before.layers, mine]), world.tag).status == 201
    assert world.pull("team/app", "v1").status == 200
    assert world.put("pipeline", before, world.tag).status == 403, "others have written to it"
    assert world.put("admin", before, world.tag).status == 201
    assert world.pull("team/app", "v1").status == 200


def test_who_made_a_tag_of_signatures_alone_may_replace_it(world: World) -> None:
    before = world.signed(Form.TAG)
    other = replace_layers(before, [world.blob(b"{}", before.layers[0].media_type)])
    assert world.put("pipeline", other, world.tag).status == 201
    assert world.pull("team/app", "v1").status == 403


def test_other_tags_move_as_before(world: World) -> None:
    child = parse_manifest(fetch_all(world.store, world.index.manifests[0], MANIFEST_LIMIT))
    assert world.put("eve", child, "v1").status == 201


def test_the_page_of_a_refused_image_names_no_layers(world: World) -> None:
    layer = world.blob(b"layer", media.OCI_LAYER)
    config = world.blob(ImageConfig(AMD).to_bytes(), media.OCI_CONFIG)
    made = Manifest.make(config, [layer])
    assert world.put("eve", made, "v2").status == 201
    place = "/r/team/app:v2"
    seen = world.call("GET", place).text
    assert "withheld" in seen and layer.digest.hex[:12] not in seen
    assert config.digest.hex not in seen
    assert str(layer.digest) in world.call("GET", place, headers={"X-Who": "eve"}).text


def replace_layers(before: Manifest, layers: list[Descriptor]) -> Manifest:
    return Manifest.make(before.config, layers, media_type=before.media_type)
