"""Tokens are accepted only as we signed them: the verification list, item by item (row 24)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from shipline.server.access import keys as access_keys
from shipline.server.access.keys import InvalidToken, Keys, encode, public_jwk, rotate, sign, verify
from shipline.server.access.section import AccessSection
from shipline.server.access.store import AccountStore
from shipline.server.access.tokens import Tokens

NOW = 1_700_000_000.0
KEY = ec.generate_private_key(ec.SECP256R1())
KID = public_jwk(KEY.public_key())["kid"]
CLAIMS: dict[str, Any] = {
    "iss": "us",
    "aud": "us",
    "sub": "me",
    "iat": NOW,
    "nbf": NOW,
    "exp": NOW + 60,
    "access": [],
}


def read(token: str, now: float = NOW) -> dict[str, Any]:
    known = {KID: KEY.public_key()}
    return verify(token, known, issuer="us", audience="us", now=now, longest_s=3600)


def forged(header: dict[str, Any], claims: dict[str, Any] = CLAIMS, key: Any = KEY) -> str:
    """A token with any header, signed with a real key."""
    signed = ".".join(encode(json.dumps(part).encode()) for part in (header, claims))
    signature = sign(claims, key, KID).rpartition(".")[2] if key else ""
    good = _es256(signed, key) if key else signature
    return f"{signed}.{good}"


def _es256(signed: str, key: ec.EllipticCurvePrivateKey) -> str:
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
    from cryptography.hazmat.primitives.hashes import SHA256

    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(SHA256())))
    return encode(r.to_bytes(32, "big") + s.to_bytes(32, "big"))


def test_what_was_signed_is_read_back() -> None:
    assert read(sign(CLAIMS, KEY, KID)) == CLAIMS
    assert read(forged({"alg": "ES256", "kid": KID})) == CLAIMS


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none", "kid": KID},
        {"alg": "ES384", "kid": KID},
        {"alg": "RS256", "kid": KID},
        {"kid": KID},
        {"alg": ["ES256"], "kid": KID},
        {"alg": "ES256"},
        {"alg": "ES256", "kid": "another"},
        {"alg": "ES256", "kid": [KID]},
        {"alg": "ES256", "kid": KID, "crit": ["exp"]},
        {"alg": "ES256", "kid": KID, "crit": []},
        {"alg": "ES256", "kid": KID, "jwk": public_jwk(KEY.public_key())},
        {"alg": "ES256", "kid": KID, "x5c": ["MIIB"]},
        {"alg": "ES256", "kid": KID, "jku": "https://192.0.2.1/keys"},
        {"alg": "ES256", "kid": KID, "b64": False},
        {"alg": "ES256", "kid": KID, "typ": "JWE"},
    ],
)
def test_a_header_that_misleads_is_refused(header: dict[str, Any]) -> None:
    with pytest.raises(InvalidToken):
        read(forged(header))


def test_none_without_a_signature_is_refused() -> None:
    with pytest.raises(InvalidToken):
        read(forged({"alg": "none"}, key=None))


def test_hs256_with_the_public_key_as_secret_is_refused() -> None:
    public = KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    parts = ({"alg": "HS256", "kid": KID}, CLAIMS)
    signed = ".".join(encode(json.dumps(part).encode()) for part in parts)
    for secret in (public, b""):
        mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
        with pytest.raises(InvalidToken):
            read(f"{signed}.{encode(mac)}")


def test_an_embedded_key_signs_nothing() -> None:
    stranger = ec.generate_private_key(ec.SECP256R1())
    jwk = public_jwk(stranger.public_key())
    for header in ({"alg": "ES256", "jwk": jwk}, {"alg": "ES256", "kid": KID}):
        with pytest.raises(InvalidToken):
            read(forged(header, key=stranger))


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "them"},
        {"aud": "them"},
        {"aud": ["them"]},
        {"aud": None},
        {"exp": NOW},
        {"exp": NOW - 1},
        {"exp": None},
        {"exp": True},
        {"exp": "never"},
        {"nbf": NOW + 60},
        {"iat": NOW + 60},
        {"nbf": None},
        {"sub": None},
        {"sub": 7},
        {"access": None},
        {"access": "everything"},
    ],
    ids=str,
)
def test_claims_that_do_not_hold_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidToken):
        read(sign({**CLAIMS, **change}, KEY, KID))


def test_infinity_is_no_time() -> None:
    with pytest.raises(InvalidToken):
        read(sign({**CLAIMS, "exp": float("inf")}, KEY, KID))


def test_any_changed_character_is_noticed() -> None:
    token = sign(CLAIMS, KEY, KID)
    for place in range(0, len(token), 7):
        other = "A" if token[place] != "A" else "B"
        with pytest.raises(InvalidToken):
            read(token[:place] + other + token[place + 1 :])


@pytest.mark.parametrize("token", ["", ".", "..", "a.b", "a.b.c.d", "é.é.é", "A" * 20_000])
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidToken):
        read(token)


def test_a_token_has_one_spelling() -> None:
    head, body, signature = sign(CLAIMS, KEY, KID).split(".")
    padded = signature + "=" * (-len(signature) % 4)
    loose = base64.urlsafe_b64decode(padded)
    assert len(loose) == 64
    with pytest.raises(InvalidToken):
        read(f"{head}.{body}.{padded}")
    with pytest.raises(InvalidToken):
        read(f"{head}.{body}.{signature[:-1]}{'B' if signature[-1] != 'B' else 'C'}")


def test_a_rotated_key_verifies_what_it_signed_and_then_goes(tmp_path: Path) -> None:
    now = [NOW]
    directory = AccountStore(tmp_path, clock=lambda: now[0])
    keys = Keys(directory)
    old = keys.sign(CLAIMS)
    rotate(directory)
    assert keys.verify(old, issuer="us", audience="us") == CLAIMS
    assert len(keys.jwks()["keys"]) == 2
    new = keys.sign(CLAIMS)
    assert _kid(new) != _kid(old)
    now[0] += 3700
    rotate(directory)
    now[0] = NOW
    rotate(directory)
    with pytest.raises(InvalidToken, match="unknown key"):
        keys.verify(old, issuer="us", audience="us")
    directory.close()


def _stolen(directory: AccountStore) -> tuple[str, ec.EllipticCurvePrivateKey]:
    """The key that signs now, as a backup of the accounts has it."""
    ((kid, record),) = directory.view().keys.items()
    key = serialization.load_pem_private_key(json.loads(record)["pem"].encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return kid, key


def _claims(directory: AccountStore, life_s: float) -> dict[str, Any]:
    now, service = directory.clock(), AccessSection().service
    access = [{"type": "repository", "name": "team/app", "actions": ["pull"]}]
    times = {"iat": now, "nbf": now, "exp": now + life_s}
    return {**CLAIMS, **times, "iss": service, "aud": service, "sub": "", "access": access}


def test_a_stolen_key_signs_nothing_an_hour_after_the_rotation(tmp_path: Path) -> None:
    now = [NOW]
    directory = AccountStore(tmp_path, clock=lambda: now[0])
    keys = Keys(directory)
    tokens = Tokens(directory, keys, AccessSection())
    kid, key = _stolen(directory)
    rotate(directory)
    tokens.identify(sign(_claims(directory, 300), key, kid), "")
    with pytest.raises(InvalidToken, match="too long"):
        tokens.identify(sign(_claims(directory, 10 * 365 * 86400), key, kid), "")
    now[0] += 3600
    with pytest.raises(InvalidToken, match="unknown key"):
        tokens.identify(sign(_claims(directory, 300), key, kid), "")
    assert len(keys.jwks()["keys"]) == 1
    directory.close()


def test_a_key_ends_at_once_when_that_is_said(tmp_path: Path) -> None:
    directory = AccountStore(tmp_path)
    tokens = Tokens(directory, Keys(directory), AccessSection())
    kid, key = _stolen(directory)
    seen, fresh = (sign(_claims(directory, life), key, kid) for life in (300, 600))
    tokens.identify(seen, "")
    rotate(directory, now=True)
    for token in (seen, fresh):
        with pytest.raises(InvalidToken, match="unknown key"):
            tokens.identify(token, "")
    directory.close()


def test_of_a_retired_key_nothing_is_kept_that_signs(tmp_path: Path) -> None:
    directory = AccountStore(tmp_path)
    Keys(directory)
    kid, _ = _stolen(directory)
    rotate(directory)
    kept = json.loads(directory.view().keys[kid])
    assert "PRIVATE" not in kept["pem"] and kept["retired"]
    directory.close()


def test_private_keys_are_closed_to_others_and_never_published(tmp_path: Path) -> None:
    directory = AccountStore(tmp_path)
    keys = Keys(directory)
    for file in (tmp_path / "access").iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
    assert set(keys.jwks()["keys"][0]) == {"kty", "crv", "x", "y", "kid", "alg", "use"}
    directory.close()


def test_a_check_is_one_check_of_a_signature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys are read once, not for each token."""
    accounts = AccountStore(tmp_path)
    keys, calls = Keys(accounts), Counter[str]()
    for name in ("_check_signature", "_load"):
        monkeypatch.setattr(access_keys, name, counted(name, getattr(access_keys, name), calls))
    token = keys.sign({**CLAIMS, "iat": time.time(), "nbf": time.time(), "exp": time.time() + 60})
    for _ in range(100):
        keys.verify(token, issuer="us", audience="us")
    accounts.close()
    assert calls["_check_signature"] == 100 and calls["_load"] <= 1


def counted(name: str, work: Callable[..., Any], calls: Counter[str]) -> Callable[..., Any]:
    def count(*arguments: Any) -> Any:
        calls[name] += 1
        return work(*arguments)

    return count


def _kid(token: str) -> str:
    head = token.partition(".")[0]
    kid: str = json.loads(base64.urlsafe_b64decode(head + "==="))["kid"]
    return kid
