"""Layers to documents: pure, and equal for equal builds."""

from __future__ import annotations

import json
from collections.abc import Mapping

from layers_for_tests import AMD64, ARM64, items_of, make_layer

from shipline import dockerfile as df
from shipline.build import Annotation, Level
from shipline.build.assembly import PLAIN, Image, assemble, combine
from shipline.build.clock import Clock
from shipline.build.graph import CopyOp, ScratchOp, Vertex
from shipline.build.request import OutputFormat
from shipline.build.stages import HistoryNote, StageState
from shipline.content import MemoryStore
from shipline.layer import Layer
from shipline.oci import History, ImageConfig, Index, Manifest, Platform, media
from shipline.values import replace

STORE = MemoryStore()
ONE = make_layer(STORE, items_of({"one": "1"}))
TWO = make_layer(STORE, items_of({"two": "2"}))
FIRST = Vertex(CopyOp(("one",), "/"), (Vertex(ScratchOp()),))
SECOND = Vertex(CopyOp(("two",), "/"), (FIRST,))
TIMES: Mapping[Vertex, str] = {FIRST: "t1", SECOND: "t2"}


def stage_of(
    *notes: HistoryNote, base: ImageConfig | None = None, platform: Platform = AMD64
) -> StageState:
    image = base or ImageConfig(platform)
    return StageState(SECOND, image, df.VariableScope.of_image(()), notes)


def image(
    *notes: HistoryNote,
    epoch: int | None = None,
    base: ImageConfig | None = None,
    format: OutputFormat = PLAIN,
    platform: Platform = AMD64,
    layers: tuple[Layer, ...] = (ONE, TWO),
) -> Image:
    stage = stage_of(*notes, base=base, platform=platform)
    return assemble(stage, layers, TIMES.__getitem__, Clock(epoch), format)


def test_layers_with_limited_times_say_so_but_for_those_of_the_base() -> None:
    base = ImageConfig(AMD64, diff_ids=(ONE.diff_id,))
    for docker, added in ((False, {"buildkit/rewritten-timestamp": "7"}), (True, {})):
        made = assemble(
            stage_of(base=base),
            (ONE, TWO),
            TIMES.__getitem__,
            Clock(7, clamp=True),
            OutputFormat(docker=docker),
        )
        assert [dict(one.annotations) for one in made.manifest.layers] == [{}, added]


NOTES = (
    HistoryNote("ENV"),
    HistoryNote("COPY one", FIRST),
    HistoryNote("CMD"),
    HistoryNote("COPY two", SECOND),
    HistoryNote("USER"),
)


def test_an_entry_without_a_layer_takes_the_time_of_the_layer_before_it() -> None:
    history = image(*NOTES).config.history
    assert [one.created for one in history] == ["t1", "t1", "t1", "t2", "t2"]
    assert [one.empty_layer for one in history] == [True, False, True, False, True]
    assert image(*NOTES).config.created == "t2"


def test_the_history_of_the_base_comes_first_and_is_left_alone() -> None:
    base = ImageConfig(AMD64, history=(History("t0", "base"),), created="t0")
    history = image(*NOTES, base=base, epoch=0).config.history
    assert history[0] == History("t0", "base")
    assert {one.created for one in history[1:]} == {"1970-01-01T00:00:00Z"}


def test_without_a_layer_the_time_is_that_of_the_base_and_never_the_clocks() -> None:
    base = ImageConfig(AMD64, history=(History("t0", "base"),), created="t0")
    found = image(HistoryNote("LABEL"), base=base, layers=()).config
    assert found.history[-1].created == "t0"
    assert found.created == "t0"
    assert image(layers=(), epoch=0).config.created == "1970-01-01T00:00:00Z"
    assert image(layers=()).config.created


def test_equal_builds_are_equal_documents() -> None:
    one, two = image(*NOTES), image(*NOTES)
    assert one.config_bytes == two.config_bytes
    assert one.manifest.raw == two.manifest.raw
    assert combine([one, two]).root.raw == combine([two, one]).root.raw


def test_the_configuration_and_the_manifest_tell_the_same_layers() -> None:
    found = image(*NOTES)
    assert found.config.diff_ids == (ONE.diff_id, TWO.diff_id)
    assert found.manifest.layers == (ONE.descriptor, TWO.descriptor)
    assert found.manifest.config == found.config_descriptor
    full = [one for one in found.config.history if not one.empty_layer]
    assert len(full) == len(found.manifest.layers)
    assert ImageConfig.parse(found.config_bytes).to_bytes() == found.config_bytes


def test_a_docker_format_speaks_docker_throughout() -> None:
    docker = OutputFormat(docker=True)
    one = image(*NOTES, format=docker)
    two = image(*NOTES, format=docker, platform=ARM64)
    root = combine([one, two], docker).root
    types = {one.config_descriptor.media_type, root.media_type, one.manifest.media_type}
    types |= {layer.media_type for layer in one.manifest.layers}
    assert types == {
        media.DOCKER_CONFIG,
        media.DOCKER_INDEX,
        media.DOCKER_MANIFEST,
        media.DOCKER_LAYER_GZIP,
    }


def test_base_layers_in_docker_types_become_oci_in_the_oci_format() -> None:
    store = MemoryStore()
    docker = Layer(
        type(ONE.descriptor)(media.DOCKER_LAYER_GZIP, ONE.descriptor.digest, ONE.descriptor.size),
        ONE.diff_id,
    )
    assert not store.blobs
    assert image(layers=(docker,)).manifest.layers[0].media_type == media.OCI_LAYER_GZIP


def test_one_image_stands_alone_and_several_are_an_index_in_order() -> None:
    one, two = image(*NOTES), image(*NOTES, platform=ARM64)
    alone = combine([one])
    assert isinstance(alone.root, Manifest)
    assert alone.descriptor == replace(one.manifest.descriptor, platform=one.platform)
    both = combine([two, one])
    assert isinstance(both.root, Index)
    assert both.root.platforms == (ARM64, AMD64)
    assert both.descriptor == both.root.descriptor


def test_annotations_stand_at_their_level_and_nowhere_else() -> None:
    format = OutputFormat(
        annotations=(
            Annotation(Level.MANIFEST, "m", "1", ARM64),
            Annotation(Level.MANIFEST_DESCRIPTOR, "md", "2"),
            Annotation(Level.INDEX, "i", "3"),
            Annotation(Level.INDEX_DESCRIPTOR, "id", "4"),
        )
    )
    images = [image(*NOTES, format=format, platform=one) for one in (AMD64, ARM64)]
    found = combine(images, format)
    assert [json.loads(one.manifest.raw).get("annotations") for one in images] == [None, {"m": "1"}]
    index = json.loads(found.root.raw)
    assert index["annotations"] == {"i": "3"}
    assert [one["annotations"] for one in index["manifests"]] == [{"md": "2"}] * 2
    assert found.descriptor.annotations == {"id": "4"}
    assert found.descriptor.plain == found.root.descriptor
    assert combine(images[:1], format).descriptor.annotations == {"md": "2"}
