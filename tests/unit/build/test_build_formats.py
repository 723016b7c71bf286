"""Outputs may differ in compression, media types and annotations; what suits one is told apart."""

from __future__ import annotations

import pytest

from shipline.build import Annotation, BuildRequest, Context, ContextKind, Level, OutputFormat
from shipline.build.assembly import PLAIN, annotations_at, codec_for, format_of, formats_of
from shipline.build.cache import LayerResult
from shipline.build.publish import push_targets
from shipline.build.result_flags import parse_output, parse_outputs
from shipline.content import MemoryStore
from shipline.errors import UsageError
from shipline.layer import Layer, codec
from shipline.oci import Descriptor, Digest, Platform, Reference, media

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")


def layer(media_type: str = media.OCI_LAYER_GZIP) -> Layer:
    return Layer(Descriptor.of(b"layer", media_type), Digest.of(b"tar"))


def request(*texts: str, tags: str = "", platforms: tuple[Platform, ...] = ()) -> BuildRequest:
    return BuildRequest(
        Context(ContextKind.LOCAL, "."),
        outputs=parse_outputs(texts, push=False, load=False),
        tags=tuple(map(Reference.parse, tags.split())),
        platforms=platforms,
    )


def wanted(text: str) -> OutputFormat:
    found = request(text)
    formats_of(found)  # refuses those that cannot be
    return format_of(found.outputs[0], found)


def test_without_a_wish_every_layer_is_right() -> None:
    wish = wanted("type=image")
    assert wish == PLAIN
    for kind in (media.OCI_LAYER, media.OCI_LAYER_GZIP, media.OCI_LAYER_ZSTD):
        assert codec_for(wish, layer(kind), LayerResult(layer(kind), "", 9)) is None
        assert codec_for(wish, layer(kind), None) is None


def test_a_layer_of_other_compression_or_level_is_made_anew() -> None:
    made = LayerResult(layer(), "", 1)
    assert codec_for(wanted("type=image,compression=gzip"), layer(), made) is None
    assert codec_for(wanted("type=image,compression-level=1"), layer(), made) is None
    assert codec_for(wanted("type=image,compression-level=6"), layer(), made) == codec("gzip", 6)
    assert codec_for(wanted("type=image,compression=zstd"), layer(), made) == codec("zstd")
    unknown = LayerResult(layer(), "")
    assert codec_for(wanted("type=image,compression-level=1"), layer(), unknown) == codec("gzip", 1)


def test_base_layers_are_left_alone_unless_forced() -> None:
    assert codec_for(wanted("type=image,compression=zstd"), layer(), None) is None
    forced = wanted("type=image,compression=zstd,force-compression=true")
    assert codec_for(forced, layer(), None) == codec("zstd")
    assert codec_for(forced, layer(media.OCI_LAYER_ZSTD), None) is None


def test_zstd_stays_with_docker_types() -> None:
    wish = wanted("type=image,oci-mediatypes=false")
    zstd = layer(media.OCI_LAYER_ZSTD)
    assert codec_for(wish, zstd, None) is None
    assert codec_for(wish, zstd, LayerResult(zstd, "", 3)) is None
    assert wanted("type=image,oci-mediatypes=false,compression=zstd").docker


def test_what_docker_types_cannot_have_makes_an_oci_image() -> None:
    assert wanted("type=image,oci-mediatypes=false,annotation.a=b").docker
    for more in ("compression=estargz", "annotation-manifest-descriptor.a=b"):
        assert not wanted(f"type=image,oci-mediatypes=false,{more}").docker, more


@pytest.mark.parametrize(
    "text", ["compression=lzma", "compression-level=10", "compression-level=x"]
)
def test_unknown_compression_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        wanted(f"type=image,{text}")


def test_an_unknown_attribute_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="'colour'") as caught:
        parse_output("type=oci,dest=f,colour=red")
    assert "compression-level" in caught.value.hint
    for text in ("type=local,dest=d,compression=gzip", "type=oci,dest=f,push=true"):
        with pytest.raises(UsageError, match="has no attribute"):
            parse_output(text)


def test_documented_attributes_are_taken() -> None:
    for text in (
        "type=image,name=a,push=1,push-by-digest=1,registry.insecure=1,unpack=0,store=1",
        "type=registry,dangling-name-prefix=x,name-canonical=1,rewrite-timestamp=1",
        "type=oci,dest=f,tar=false,compression=zstd,compression-level=3,force-compression=1",
        "type=docker,dest=f,annotation.a=b,annotation-manifest[linux/amd64].c=d",
        "type=local,dest=d,platform-split=false",
        "type=tar,dest=f",
    ):
        parse_output(text)


def test_annotations_of_an_output() -> None:
    text = "annotation.a=1,annotation-manifest-descriptor[linux/arm64].b.c=2"
    assert parse_output(f"type=image,{text}").format.annotations == (
        Annotation(Level.MANIFEST, "a", "1"),
        Annotation(Level.MANIFEST_DESCRIPTOR, "b.c", "2", ARM64),
    )
    for name in ("annotation", "annotation-layer.a", "annotation-index[linux/arm64].a"):
        with pytest.raises(UsageError, match=r"annotation|place|index"):
            parse_output(f"type=image,{name}=1")


def test_an_annotation_for_a_platform_wins_over_the_general_one() -> None:
    wish = OutputFormat(
        annotations=(
            Annotation(Level.MANIFEST, "k", "own", ARM64),
            Annotation(Level.MANIFEST, "k", "all"),
            Annotation(Level.INDEX, "i", "index"),
        )
    )
    assert annotations_at(wish.annotations, Level.MANIFEST, ARM64) == {"k": "own"}
    assert annotations_at(wish.annotations, Level.MANIFEST, AMD64) == {"k": "all"}
    assert annotations_at(wish.annotations, Level.INDEX) == {"i": "index"}


def test_an_annotation_without_a_place_is_refused() -> None:
    index, arm = (
        "type=oci,dest=f,annotation-index.k=v",
        "type=oci,dest=f,annotation[linux/arm64].k=v",
    )
    formats_of(request(index, platforms=(AMD64, ARM64)))
    with pytest.raises(UsageError, match="single platform"):
        formats_of(request(index, platforms=(AMD64,)))
    with pytest.raises(UsageError, match="linux/arm64"):
        formats_of(request(arm, platforms=(AMD64,)))


def test_the_first_format_is_one_that_is_pushed() -> None:
    found = formats_of(
        request("type=oci,dest=f,compression=zstd", "type=registry,compression-level=9", tags="h/a")
    )
    assert [one.compression for one in found] == ["gzip", "zstd"]
    assert formats_of(request("out")) == (PLAIN,)
    assert formats_of(request()) == (PLAIN,)
    files = formats_of(request("out", "type=oci,dest=f,compression=zstd"))
    assert [one.compression for one in files] == ["zstd", ""]


def test_an_output_has_its_names_and_the_tags_that_are_nobody_elses() -> None:
    wish = request(
        "type=registry,name=host:1/own:1", "type=oci,dest=f", tags="host:1/a:1 host:1/own:1"
    )
    assert [str(one) for one in wish.names_of(wish.outputs[0])] == ["host:1/own:1", "host:1/a:1"]
    assert [str(one) for one in wish.names_of(wish.outputs[1])] == ["host:1/a:1"]


def test_a_repository_gets_all_its_tags_at_once_and_none_by_digest() -> None:
    store = MemoryStore()
    wish = request("type=registry", tags="host:1/a:1 host:1/b:1 host:1/a:2")
    found = push_targets(wish, lambda name: store)
    assert [(str(one), one.tags) for one in found] == [
        ("host:1/a", ("1", "2")),
        ("host:1/b", ("1",)),
    ]
    silent = request("type=registry,push-by-digest=true,name=h/a")
    assert [one.tags for one in push_targets(silent, lambda name: store)] == [()]


@pytest.mark.parametrize(
    "wish",
    [
        request("type=registry"),
        request("type=registry,push-by-digest=true", tags="h/a:1"),
        request("type=registry,compression=zstd", "type=registry,compression=gzip", tags="h/a:1"),
    ],
)
def test_names_that_cannot_be_given_are_refused(wish: BuildRequest) -> None:
    with pytest.raises(UsageError):
        push_targets(wish, lambda name: MemoryStore())
