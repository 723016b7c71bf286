"""Documents that readers would understand in different ways are refused, and nothing else fails."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.errors import ContentError
from shipline.oci import Descriptor, ImageConfig, media, parse_manifest

CONFIG = Descriptor.of(b"{}", media.OCI_CONFIG).to_json()
IMAGE: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": media.OCI_MANIFEST,
    "config": CONFIG,
    "layers": [],
}
FIELDS = (*IMAGE, "manifests", "subject", "annotations", "artifactType")
PARTS = ("mediaType", "digest", "size", "urls", "data", "annotations", "artifactType", "platform")
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5
)


@given(st.sampled_from(FIELDS), VALUES, st.sampled_from(["", media.OCI_MANIFEST, "text/plain"]))
def test_any_value_of_a_field_is_read_or_refused(field: str, value: Any, said: str) -> None:
    try:
        parse_manifest(json.dumps(IMAGE | {field: value}).encode(), said)
    except ContentError:
        return


@given(st.sampled_from(PARTS), VALUES)
def test_any_value_of_a_descriptor_is_read_or_refused(part: str, value: Any) -> None:
    raw = json.dumps(IMAGE | {"subject": CONFIG | {part: value}}).encode()
    try:
        parse_manifest(raw)
    except ContentError:
        return


@given(st.sampled_from(["os", "architecture", "variant", "os.version", "os.features"]), VALUES)
def test_any_platform_is_read_or_refused(part: str, value: Any) -> None:
    platform = {"os": "linux", "architecture": "amd64", part: value}
    index = {"schemaVersion": 2, "manifests": [CONFIG | {"platform": platform}]}
    try:
        parse_manifest(json.dumps(index).encode())
    except ContentError:
        return


@pytest.mark.parametrize(
    "raw",
    [
        json.dumps(IMAGE).encode("utf-16"),
        json.dumps(IMAGE).encode("utf-8-sig"),
        json.dumps(IMAGE | {"x": float("nan")}).encode(),
        json.dumps(IMAGE | {"x": float("inf")}).encode(),
        json.dumps(IMAGE).encode() + b"{}",
        json.dumps(IMAGE | {"annotations": {"half": "\ud800"}}).encode(),
        json.dumps(IMAGE | {"Layers": []}).encode(),
        json.dumps(IMAGE | {"MANIFESTS": []}).encode(),
        json.dumps(IMAGE | {"layer\u017f": []}).encode(),
    ],
)
def test_11_what_readers_take_differently_is_refused(raw: bytes) -> None:
    """RFC 8259 for the encoding; Go reads names of fields in any case (as in CVE-2021-41190)."""
    with pytest.raises(ContentError):
        parse_manifest(raw)


@pytest.mark.parametrize("field", ["artifactType", "subject", "annotations", "mediaType"])
def test_null_is_as_if_it_were_not_there(field: str) -> None:
    found = parse_manifest(json.dumps(IMAGE | {field: None}).encode())
    assert (found.artifact_type, found.subject, dict(found.annotations)) == ("", None, {})
    assert found.media_type == media.OCI_MANIFEST


def test_pairs_of_surrogates_and_other_spellings_below_are_fine() -> None:
    notes = {"smile": "\U0001f600", "a": "1", "A": "2", "Layers": "3"}
    raw = json.dumps(IMAGE | {"annotations": notes}).encode()
    assert parse_manifest(raw).annotations == notes


@pytest.mark.parametrize(
    "run",
    [
        {"Env": [1]},
        {"Env": "A=1"},
        {"Labels": ["a"]},
        {"Labels": {"a": 1}},
        {"Entrypoint": "sh"},
        {"OnBuild": "RUN id"},
        {"User": 5},
        {"WorkingDir": []},
        {"Volumes": ["/a"]},
    ],
)
def test_35_the_settings_of_an_image_have_the_types_of_the_specification(run: Any) -> None:
    raw = json.dumps({"architecture": "amd64", "os": "linux", "config": run}).encode()
    with pytest.raises(ContentError, match="ill-typed"):
        ImageConfig.parse(raw)
    nulls = dict.fromkeys((*run, "Healthcheck", "AnyOther"))
    raw = json.dumps({"architecture": "amd64", "os": "linux", "config": nulls}).encode()
    assert ImageConfig.parse(raw).run == nulls
