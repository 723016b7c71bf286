"""DSSE: no two pairs of type and payload are signed as the same bytes."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.errors import ContentError
from shipline.supply import Bundle, Envelope, pae

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"


def unpae(data: bytes) -> tuple[str, bytes]:
    """The inverse, by the lengths."""
    found = re.match(rb"DSSEv1 (\d+) ", data)
    assert found is not None
    kind, rest = data[found.end() :][: int(found[1])], data[found.end() + int(found[1]) :]
    found = re.match(rb" (\d+) ", rest)
    assert found is not None
    payload = rest[found.end() :]
    assert len(payload) == int(found[1])
    return kind.decode(), payload


def test_the_example_of_the_specification() -> None:
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pae("http://example.com/HelloWorld", b"hello world") == expected


@given(st.text(), st.binary())
def test_the_encoding_is_injective(kind: str, payload: bytes) -> None:
    assert unpae(pae(kind, payload)) == (kind, payload)


@given(
    st.binary(min_size=1),
    st.lists(st.binary(min_size=1), min_size=1, max_size=4),
    st.text(alphabet="abc/+.", min_size=1),
)
def test_an_envelope_is_read_as_it_was_written(
    payload: bytes, signatures: list[bytes], kind: str
) -> None:
    envelope = Envelope(payload, tuple(signatures), kind)
    assert Envelope.parse(envelope.to_bytes()) == envelope
    assert Bundle.parse(Bundle(envelope, "hint").to_bytes()) == Bundle(envelope, "hint")


def test_both_alphabets_of_base64_are_read() -> None:
    document = {"payloadType": "t", "payload": "-_8=", "signatures": [{"sig": "+/8="}]}
    found = Envelope.parse(json.dumps(document).encode())
    assert found.payload == found.signatures[0] == b"\xfb\xff"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"payloadType":"t","payload":"YQ==","signatures":[]}',
        '{"payloadType":"t","payload":"YQ==","signatures":null}',
        '{"payloadType":"t","payload":"YQ==","signatures":[null]}',
        '{"payloadType":"t","payload":"YQ==","signatures":[{"sig":""}]}',
        '{"payloadType":"t","payload":"YQ==","signatures":[{"sig":7}]}',
        '{"payloadType":"t","payload":"Y","signatures":[{"sig":"YQ=="}]}',
        '{"payloadType":"t","payload":"\\u00e9","signatures":[{"sig":"YQ=="}]}',
        '{"payloadType":3,"payload":"YQ==","signatures":[{"sig":"YQ=="}]}',
        '{"payload":"YQ==","signatures":[{"sig":"YQ=="}]}',
        '{"payloadType":"t","payloadType":"u","payload":"YQ==","signatures":[{"sig":"YQ=="}]}',
        "[" * 100_000,
    ],
)
def test_what_is_no_envelope_is_refused(text: str) -> None:
    with pytest.raises(ContentError):
        Envelope.parse(text.encode())


def test_an_envelope_of_many_signatures_is_refused() -> None:
    with pytest.raises(ContentError, match="17 signatures"):
        Envelope.parse(Envelope(b"a", (b"s",) * 17).to_bytes())


ENVELOPE = '"dsseEnvelope":{"payloadType":"t","payload":"YQ==","signatures":[{"sig":"YQ=="}]}'
MATERIAL = '"verificationMaterial":{"publicKey":{"hint":""}}'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{{{ENVELOPE},{MATERIAL}}}", "not a sigstore bundle"),
        (f'{{"mediaType":"application/json",{ENVELOPE},{MATERIAL}}}', "not a sigstore bundle"),
        (f'{{"mediaType":["x"],{ENVELOPE},{MATERIAL}}}', "not a sigstore bundle"),
        (f'{{"mediaType":"{BUNDLE}",{MATERIAL}}}', "no DSSE envelope"),
        (f'{{"mediaType":"{BUNDLE}",{ENVELOPE}}}', "no verification material"),
        (
            f'{{"mediaType":"{BUNDLE}",{ENVELOPE},"verificationMaterial":{{"certificate":{{}}}}}}',
            "certificate",
        ),
    ],
)
def test_what_is_no_bundle_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ContentError, match=reason):
        Bundle.parse(text.encode())
