"""NaCl's secretbox, in which cosign keeps private keys: XSalsa20 with Poly1305.

Bernstein, "Cryptography in NaCl" (2009) and "Extending the Salsa20 nonce" (2011). `cryptography`
has Poly1305 but not Salsa20; a key is a few hundred bytes, so plain Python is fast enough.
"""

from __future__ import annotations

import struct

from shipline.errors import ContentError

KEY_SIZE = 32  # bytes
NONCE_SIZE = 24  # bytes
_TAG_SIZE = 16  # bytes
_BLOCK = 64  # bytes
_SIGMA = struct.unpack("<4I", b"expand 32-byte k")
_COLUMNS = ((0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11))
_ROWS = ((0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14))
_WORD = 0xFFFFFFFF


def seal(message: bytes, nonce: bytes, key: bytes) -> bytes:
    """Encrypt and authenticate; a pair of nonce and key must be used once only."""
    mac_key, stream = _streams(len(message), nonce, key)
    sealed = _xor(message, stream)
    return _mac(mac_key, sealed) + sealed


def unseal(box: bytes, nonce: bytes, key: bytes) -> bytes:
    """The message in `box`. Raises ContentError for a wrong key or altered bytes."""
    import hmac

    tag, sealed = box[:_TAG_SIZE], box[_TAG_SIZE:]
    mac_key, stream = _streams(len(sealed), nonce, key)
    if not hmac.compare_digest(tag, _mac(mac_key, sealed)):
        raise ContentError("the box does not open with this key")
    return _xor(sealed, stream)


def _streams(size: int, nonce: bytes, key: bytes) -> tuple[bytes, bytes]:
    """The key of the authenticator, and `size` bytes to encrypt with."""
    if len(key) != KEY_SIZE or len(nonce) != NONCE_SIZE:
        raise ContentError("a box has a key of 32 bytes and a nonce of 24")
    derived = _derive(key, nonce[:16])
    blocks = range((KEY_SIZE + size + _BLOCK - 1) // _BLOCK)
    stream = b"".join(_salsa20(derived, nonce[16:], block) for block in blocks)
    return stream[:KEY_SIZE], stream[KEY_SIZE : KEY_SIZE + size]


def _derive(key: bytes, nonce: bytes) -> bytes:
    """HSalsa20: the key for the second half of the long nonce."""
    mixed = _mix(_state(key, struct.unpack("<4I", nonce)))
    return struct.pack("<8I", *(mixed[place] for place in (0, 5, 10, 15, 6, 7, 8, 9)))


def _salsa20(key: bytes, nonce: bytes, block: int) -> bytes:
    state = _state(key, (*struct.unpack("<2I", nonce), block & _WORD, block >> 32))
    words = ((a + b) & _WORD for a, b in zip(state, _mix(state), strict=True))
    return struct.pack("<16I", *words)


def _state(key: bytes, middle: tuple[int, ...]) -> list[int]:
    k, (s0, s1, s2, s3) = struct.unpack("<8I", key), _SIGMA
    return [s0, *k[:4], s1, *middle, s2, *k[4:], s3]


def _mix(state: list[int]) -> list[int]:
    """Twenty rounds of quarter rounds, by columns and by rows in turn."""
    x = list(state)
    for a, b, c, d in (_COLUMNS + _ROWS) * 10:
        x[b] ^= _rotate(x[a] + x[d], 7)
        x[c] ^= _rotate(x[b] + x[a], 9)
        x[d] ^= _rotate(x[c] + x[b], 13)
        x[a] ^= _rotate(x[d] + x[c], 18)
    return x


def _rotate(word: int, bits: int) -> int:
    word &= _WORD
    return (word << bits | word >> (32 - bits)) & _WORD


def _xor(data: bytes, stream: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(data, stream, strict=True))


def _mac(key: bytes, data: bytes) -> bytes:
    from cryptography.hazmat.primitives.poly1305 import Poly1305

    return Poly1305.generate_tag(key, data)
