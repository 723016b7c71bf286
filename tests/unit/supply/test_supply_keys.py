"""Keys: cosign's files are read and written, others read, and nothing weak or wrong is used."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa, utils
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from shipline.errors import ConfigError
from shipline.supply import (
    PrivateKey,
    PublicKey,
    encrypted_pem,
    generate_key,
    parse_private_key,
    read_private_key,
    read_public_key,
    write_key_pair,
)

pytestmark = pytest.mark.usefixtures("cheap_hashes")

# A pair that cosign 2.5.0 made with COSIGN_PASSWORD=secret.
COSIGN_KEY = b"""\
-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----
eyJrZGYiOnsibmFtZSI6InNjcnlwdCIsInBhcmFtcyI6eyJOIjo2NTUzNiwiciI6
OCwicCI6MX0sInNhbHQiOiJBN3VFajg5bzRhOGpnVlBwMGRJTldmcGEzZVRERDk1
VS9YdDZveUpnd2wwPSJ9LCJjaXBoZXIiOnsibmFtZSI6Im5hY2wvc2VjcmV0Ym94
Iiwibm9uY2UiOiJ0WGhmZy9zNjJUVEtRNXBwL0hkVTJTVWVldDFjbmVpNCJ9LCJj
aXBoZXJ0ZXh0Ijoiem1iNFBPUVRWUnFaZVF4dk5NRDJvWVgrOGpVVG15STBlZ1BY
MlpDUFlRaUNzTUJRaVMrL0FWUXdEdlhFb08xTWpBMWJjTDhjR0lGS00xWFF3cGV5
QWpHOTEvUzU5RVBMdVNxd2RaeXI2Z0hKeUszV0dBU1F6RDEycmM4RFZvQ1hKb3Vi
YnZoeSs0VkVrMXBjV3dLWXVGTzRoditxc3oxcjA1aGZMU0J2SXk0engxSEg0OFJ2
QzVMSE40YzJKakh1UFdvem5vQkwvNXFGWUE9PSJ9
-----END ENCRYPTED SIGSTORE PRIVATE KEY-----
"""
COSIGN_PUB = b"""\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEFST+oB9/JJ5ZOi6Ebb3VwuCqhQtI
AyH3O0mBC4ppGnplI3D/CT0CAZ4TPAogJqX1o0hE/R+s4GIxq/SffKqakw==
-----END PUBLIC KEY-----
"""
KINDS: dict[str, Any] = {
    "ECDSA P-256": ec.generate_private_key(ec.SECP256R1()),
    "ECDSA P-384": ec.generate_private_key(ec.SECP384R1()),
    "ECDSA P-521": ec.generate_private_key(ec.SECP521R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
    "RSA 2048": rsa.generate_private_key(65537, 2048),
}


def secret() -> bytes:
    return b"secret"


def nobody() -> bytes:
    raise AssertionError("no password should be needed")


def test_cosigns_key_file_is_read() -> None:
    key = parse_private_key(COSIGN_KEY, "cosign.key", secret)
    assert key.public == PublicKey.parse(COSIGN_PUB, "cosign.pub")
    assert key.public.pem == COSIGN_PUB
    assert key.public.hint == "Wbv9ote6pTHwqpXaYxZqrboQ6xNE1R/HKeJC3M+rAF8="


def test_the_old_label_of_cosign_is_read() -> None:
    old = COSIGN_KEY.replace(b"SIGSTORE", b"COSIGN")
    assert parse_private_key(old, "k", secret).public.pem == COSIGN_PUB


def test_a_wrong_password_is_told() -> None:
    with pytest.raises(ConfigError, match="wrong password"):
        parse_private_key(COSIGN_KEY, "cosign.key", lambda: b"guess")


@pytest.mark.parametrize("password", [b"", b"pass word", "Schlüssel".encode(), b"x" * 1000])
def test_what_is_written_is_read(password: bytes) -> None:
    key = generate_key()
    pem = encrypted_pem(key, password)
    assert key.pkcs8() not in base64.b64decode(b"".join(pem.split(b"\n")[1:-2]))
    assert parse_private_key(pem, "k", lambda: password).public == key.public


def test_a_guess_costs_as_much_as_with_cosign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    ours, theirs = (
        json.loads(base64.b64decode(b"".join(pem.split(b"\n")[1:-2])))["kdf"]["params"]
        for pem in (encrypted_pem(generate_key(), b"p"), COSIGN_KEY)
    )
    assert ours == theirs


def test_two_files_of_one_key_have_nothing_in_common() -> None:
    key = generate_key()
    boxes = [
        json.loads(base64.b64decode(b"".join(encrypted_pem(key, b"p").split(b"\n")[1:-2])))
        for _ in range(2)
    ]
    assert boxes[0]["kdf"]["salt"] != boxes[1]["kdf"]["salt"]
    assert boxes[0]["cipher"]["nonce"] != boxes[1]["cipher"]["nonce"]


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        (kind, form)
        for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL)
        for kind in KINDS
        if (kind, form) != ("Ed25519", PrivateFormat.TraditionalOpenSSL)  # there is no such form
    ],
)
def test_plain_pem_of_every_kind_is_read(kind: str, form: PrivateFormat) -> None:
    pem = KINDS[kind].private_bytes(Encoding.PEM, form, NoEncryption())
    key = parse_private_key(pem, "k", nobody)
    assert key.public.algorithm == kind
    signature = key.sign(b"message")
    assert key.public.verify(signature, b"message")
    assert not key.public.verify(signature, b"Message")
    assert not generate_key().public.verify(signature, b"message")


def test_encrypted_pkcs8_asks_for_its_password() -> None:
    key = KINDS["ECDSA P-256"]
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    assert parse_private_key(pem, "k", secret).public.algorithm == "ECDSA P-256"
    with pytest.raises(ConfigError, match="wrong password"):
        parse_private_key(pem, "k", lambda: b"guess")


WEAK: dict[str, Callable[[], Any]] = {
    "a short RSA key": lambda: rsa.generate_private_key(65537, 1024),
    "another curve": lambda: ec.generate_private_key(ec.SECP256K1()),
    "DSA": lambda: dsa.generate_private_key(1024),
}


@pytest.mark.parametrize("kind", WEAK)
def test_weak_and_foreign_keys_are_refused(kind: str) -> None:
    key = WEAK[kind]()
    with pytest.raises(ConfigError, match="is of an unsupported kind"):
        PrivateKey(key, "k")
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(ConfigError, match="is of an unsupported kind"):
        PublicKey.parse(pem, "k")


def test_each_half_is_named_where_the_other_is_needed() -> None:
    with pytest.raises(ConfigError, match="is a private key"):
        PublicKey.parse(COSIGN_KEY, "k")
    with pytest.raises(ConfigError, match="is a public key"):
        parse_private_key(COSIGN_PUB, "k", nobody)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\xff\xfe",
        b"-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n",
        b"-----BEGIN CERTIFICATE-----\nMFkw\n-----END CERTIFICATE-----\n",
    ],
)
def test_what_is_no_key_is_told(content: bytes) -> None:
    with pytest.raises(ConfigError):
        PublicKey.parse(content, "k")
    with pytest.raises(ConfigError):
        parse_private_key(content, "k", nobody)


def boxed(**changes: object) -> bytes:
    """A key file with other scrypt parameters or fields."""
    document = json.loads(base64.b64decode(b"".join(COSIGN_KEY.split(b"\n")[1:-2])))
    for path, value in changes.items():
        place = document
        *way, last = path.split("__")
        for part in way:
            place = place[part]
        place[last] = value
    body = base64.b64encode(json.dumps(document).encode()).decode()
    label = "ENCRYPTED SIGSTORE PRIVATE KEY"
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n".encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"kdf__params__N": 1 << 30},
        {"kdf__params__r": 1 << 20},
        {"kdf__params__p": 1000},
        {"kdf__params__N": -1},
        {"kdf__params__N": "65536"},
        {"kdf__params__N": 65535},
        {"kdf__params": None},
        {"kdf__name": "none"},
        {"kdf__salt": "?"},
        {"cipher__name": "aes"},
        {"cipher__nonce": "AAAA"},
        {"ciphertext": ""},
        {"ciphertext": None},
    ],
)
def test_a_hostile_key_file_is_refused_at_once(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        parse_private_key(boxed(**changes), "k", secret)


def test_a_signature_is_the_same_each_time() -> None:
    key = generate_key()
    assert key.sign(b"message") == key.sign(b"message")


def test_the_hash_of_the_curves_size_is_accepted() -> None:
    key = KINDS["ECDSA P-384"]
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signature = key.sign(b"m", ec.ECDSA(hashes.SHA384()))
    assert PublicKey.of(key.public_key(), "k").verify(signature, b"m")
    weak = key.sign(b"m", ec.ECDSA(hashes.SHA224()))
    assert not PublicKey.of(key.public_key(), "k").verify(weak, b"m")


def test_a_raw_signature_is_not_accepted() -> None:
    key = generate_key()
    r, s = utils.decode_dss_signature(key.sign(b"m"))
    assert not key.public.verify(r.to_bytes(32, "big") + s.to_bytes(32, "big"), b"m")
    assert not key.public.verify(b"", b"m")


def test_a_key_is_its_bytes_and_not_its_name_or_its_form() -> None:
    key = KINDS["ECDSA P-256"].public_key()
    compressed = ec.EllipticCurvePublicKey.from_encoded_point(
        ec.SECP256R1(), key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    )
    assert PublicKey.of(key, "a") == PublicKey.of(compressed, "b")
    assert len({PublicKey.of(key, "a"), PublicKey.of(compressed, "b")}) == 1


def test_a_pair_is_written_closed_and_whole(tmp_path: Path) -> None:
    key = generate_key()
    files = write_key_pair(key, tmp_path / "release", b"secret")
    assert files.private.stat().st_mode & 0o777 == 0o600
    assert read_private_key(files.private, secret).public == key.public
    assert read_public_key(files.public) == key.public
    assert sorted(path.name for path in tmp_path.iterdir()) == ["release.key", "release.pub"]


@pytest.mark.parametrize("existing", ["release.key", "release.pub"])
def test_no_file_is_overwritten(tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).write_text("precious")
    with pytest.raises(ConfigError, match="already exists"):
        write_key_pair(generate_key(), tmp_path / "release", b"p")
    assert [path.name for path in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_text() == "precious"


def test_files_are_replaced_where_that_is_said(tmp_path: Path) -> None:
    write_key_pair(generate_key(), tmp_path / "k", b"p")
    key = generate_key()
    files = write_key_pair(key, tmp_path / "k", b"p", replace=True)
    assert read_public_key(files.public) == key.public
    assert files.private.stat().st_mode & 0o777 == 0o600


def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write"):
        write_key_pair(generate_key(), tmp_path / "none" / "k", b"p")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too large"):
        (tmp_path / "k").write_bytes(COSIGN_PUB + b"\n" * (1 << 20))
        read_public_key(tmp_path / "k")


def test_nothing_secret_is_in_the_repr() -> None:
    key = generate_key()
    assert key.pkcs8().hex() not in repr(key) and "Private" not in repr(key.public)


def test_pairs_that_are_replaced_at_once_are_not_mixed(tmp_path: Path) -> None:
    keys = [generate_key() for _ in range(4)]
    for _ in range(20):
        ready = threading.Barrier(len(keys))

        def begin(key: PrivateKey, ready: threading.Barrier = ready) -> None:
            ready.wait()
            write_key_pair(key, tmp_path / "k", b"p", replace=True)

        with ThreadPoolExecutor(len(keys)) as pool:
            list(pool.map(begin, keys))
        found = read_private_key(tmp_path / "k.key", lambda: b"p").public.pem
        assert (tmp_path / "k.pub").read_bytes() == found
