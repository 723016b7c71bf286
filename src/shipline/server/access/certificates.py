"""The node's TLS certificate: configured, or generated and signed by its own CA; renewed without a
restart.

  DIR/tls/ca.crt        the CA for clients to trust; generated once, valid ten years
  DIR/tls/ca.key        its key, readable by the owner only
  DIR/tls/server.crt    the node's certificate, renewed before it expires or when names change
  DIR/tls/server.key    its key
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from shipline.errors import ConfigError, ShiplineError
from shipline.files import write_durably
from shipline.server.access.section import TlsSection
from shipline.server.layout import sync_directory
from shipline.tasks import repeat

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate, CertificateBuilder, GeneralName, KeyUsage, Name


_CA_LIFE = timedelta(days=3650)
_LIFE = timedelta(days=397)  # the most that browsers accept
_RENEW = timedelta(days=30)
_HOST = re.compile(
    r"(?:\*\.)?[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*"
)


@dataclass(frozen=True, slots=True)
class Certificates:
    """The server's files. `ca` is for clients to trust, None for a configured certificate;
    `fingerprint` is the SHA-256 of the DER form of the CA, or of the configured certificate.
    """

    cert: Path
    key: Path
    fingerprint: str
    ca: Path | None = None
    client_ca: Path | None = None
    minimum: str = "1.2"


def open_certificates(data: Path, section: TlsSection, host: str) -> Certificates:
    """The configured certificate, else a generated one for `host` (the listening address) and the
    configured names.

    Raises ConfigError for files that are not a certificate with its key.
    """
    client_ca = Path(section.client_ca) if section.client_ca else None
    if client_ca is not None:
        _read_fingerprint(client_ca)
    if section.cert:
        cert, key = Path(section.cert), Path(section.key)
        fingerprint = _check_pair(cert, key)
        return Certificates(cert, key, fingerprint, None, client_ca, section.minimum)
    root = data / "tls"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca, ca_key = _open_ca(root)
    names = _names(section.names, host)
    if not _is_valid(root, ca, names):
        _make_server(root, ca, ca_key, names)
    return Certificates(
        root / "server.crt",
        root / "server.key",
        _fingerprint(ca),
        root / "ca.crt",
        client_ca,
        section.minimum,
    )


def _names(configured: tuple[str, ...], host: str) -> list[str]:
    """All names of this machine, in a fixed order."""
    names = ["localhost", "127.0.0.1", "::1", *configured]
    own = socket.gethostname().lower()
    for name in (own, host.lower()):
        if name not in ("", "0.0.0.0", "::"):
            names.append(name)
    if host in ("0.0.0.0", "::"):
        names += _addresses(own)
    return list(dict.fromkeys(name for name in names if _general_names([name])))


def _addresses(host: str) -> list[str]:
    try:
        entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return sorted({str(entry[4][0]).partition("%")[0] for entry in entries})


def _general_names(names: list[str]) -> list[GeneralName]:
    from cryptography.x509 import DNSName, IPAddress

    general_names: list[GeneralName] = []
    for name in names:
        try:
            general_names.append(IPAddress(ipaddress.ip_address(name.strip("[]"))))
        except ValueError:
            if len(name) < 254 and _HOST.fullmatch(name):
                general_names.append(DNSName(name))
    return general_names


def _open_ca(root: Path) -> tuple[Certificate, EllipticCurvePrivateKey]:
    from cryptography import x509

    path = root / "ca.crt"
    if not path.exists():
        _make_ca(root)
    return x509.load_pem_x509_certificate(path.read_bytes()), _read_key(root / "ca.key")


def _make_ca(root: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256

    key = _new_key()
    name = _subject(f"shipline registry CA {os.urandom(4).hex()}")
    builder = _builder(name, name, key, _CA_LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs=True), critical=True)
    _write_key(root / "ca.key", key)
    _write(root / "ca.crt", _pem(builder.sign(key, SHA256())), 0o644)


def _make_server(
    root: Path, ca: Certificate, ca_key: EllipticCurvePrivateKey, names: list[str]
) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256

    key = _new_key()
    builder = _builder(_subject(names[-1][:64]), ca.subject, key, _LIFE)
    server_auth = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    builder = builder.add_extension(
        x509.BasicConstraints(ca=False, path_length=None), critical=True
    )
    builder = builder.add_extension(_usage(signs=False), critical=True)
    builder = builder.add_extension(server_auth, critical=False)
    builder = builder.add_extension(issuer, critical=False)
    alternative = x509.SubjectAlternativeName(_general_names(names))
    builder = builder.add_extension(alternative, critical=False)
    _write_key(root / "server.key", key)
    _write(root / "server.crt", _pem(builder.sign(ca_key, SHA256())) + _pem(ca), 0o644)


def _builder(
    subject: Name, issuer: Name, key: EllipticCurvePrivateKey, life: timedelta
) -> CertificateBuilder:
    from cryptography import x509

    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + life)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return builder.add_extension(identifier, critical=False)


def _usage(*, signs: bool) -> KeyUsage:
    from cryptography.x509 import KeyUsage

    return KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _is_valid(root: Path, ca: Certificate, names: list[str]) -> bool:
    """Whether the existing certificate is from this CA, has these names, and is not about to
    expire.
    """
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate((root / "server.crt").read_bytes())
        key = _read_key(root / "server.key")
        certificate.verify_directly_issued_by(ca)
    except Exception:  # any defect: generate a new one
        return False
    alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return (
        list(alternative) == _general_names(names)
        and certificate.public_key() == key.public_key()
        and certificate.not_valid_after_utc - datetime.now(UTC) > _RENEW
    )


def _check_pair(cert: Path, key: Path) -> str:
    """The fingerprint. Raises ConfigError unless the key is the certificate's."""
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{cert} and {key} are not a certificate with its key: {error}") from None
    return _read_fingerprint(cert)


def _read_fingerprint(path: Path) -> str:
    from cryptography import x509

    try:
        return _fingerprint(x509.load_pem_x509_certificate(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a certificate: {error}") from None


def _fingerprint(certificate: Certificate) -> str:
    from cryptography.hazmat.primitives.hashes import SHA256

    return certificate.fingerprint(SHA256()).hex(":").upper()


def _subject(text: str) -> Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, text)])


def _new_key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _read_key(path: Path) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path} is not an elliptic curve key")
    return key


def _write_key(path: Path, key: EllipticCurvePrivateKey) -> None:
    from cryptography.hazmat.primitives import serialization

    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(path, pem, 0o600)


def _pem(certificate: Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Atomic and durable."""
    write_durably(path, content, mode)
    sync_directory(path.parent)


_log = logging.getLogger(__name__)
_CHECK_INTERVAL_S = 60.0
Renew = Callable[[], Certificates]


def watch_certificates(
    certificates: Certificates,
    renew: Renew,
    reload: Callable[[], None],
    *,
    every_s: float = _CHECK_INTERVAL_S,
) -> None:
    """Call `reload` whenever the files change, until cancelled. `renew` regenerates own
    certificates before they expire; if it raises ShiplineError, the current ones stay in use.
    """
    seen = _file_stamps(certificates)

    def check() -> None:
        nonlocal seen
        if try_renew(renew) and _file_stamps(certificates) != seen:
            seen = _file_stamps(certificates)
            reload()

    repeat(every_s, check)


def try_renew(renew: Renew | None) -> bool:
    """Renew if due; False, logged, if the files are unusable."""
    if renew is None:
        return True
    try:
        renew()
    except (ShiplineError, OSError) as error:
        _log.error("keeping the current certificate: %s", error)
        return False
    return True


def _file_stamps(certificates: Certificates) -> list[tuple[int, int, int]]:
    return [_stamp(path) for path in (certificates.cert, certificates.key)]


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return (0, 0, 0)
    return (status.st_ino, status.st_size, status.st_mtime_ns)
