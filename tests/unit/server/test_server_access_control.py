"""Access control: open on loopback, otherwise TLS and accounts; certificates."""

from __future__ import annotations

import hashlib
import os
import signal
import ssl
import time
from pathlib import Path

import pytest
from cryptography import x509

from commands import run_shipline
from guarded import guarded
from shipline.errors import ConfigError, UsageError
from shipline.server.access import (
    AccessSection,
    TlsSection,
    check_access,
    open_access_control,
    watch_certificates,
)
from shipline.server.access.certificates import Certificates, open_certificates
from shipline.tasks import TaskGroup
from shipline.units import Duration

pytestmark = pytest.mark.usefixtures("cheap_hashes")

LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"


def served(certificates: Certificates, name: str) -> ssl.SSLSocket | ssl.SSLObject:
    """A handshake in memory: the client trusts the CA alone and checks the name."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificates.cert, certificates.key)
    client = ssl.create_default_context(cafile=certificates.ca)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    far = server.wrap_bio(there, back, server_side=True)
    client_network = client.wrap_bio(back, there, server_hostname=name)
    for _ in range(4):
        for side in (client_network, far):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return client_network


def test_loopback_is_open_and_says_so(tmp_path: Path) -> None:
    with open_access_control(tmp_path, LOOPBACK, AccessSection()) as access_control:
        assert not access_control.authenticator.accounts and access_control.certificates is None
        assert (
            len(access_control.notices) == 1 and "without an account" in access_control.notices[0]
        )
    assert not (tmp_path / "access").exists()


def test_other_addresses_get_tls_and_accounts(tmp_path: Path) -> None:
    with open_access_control(tmp_path, EVERYWHERE, AccessSection()) as access_control:
        assert access_control.authenticator.accounts and access_control.certificates is not None
        told = "\n".join(access_control.notices)
        assert "password:" in told and access_control.certificates.fingerprint in told
    with open_access_control(tmp_path, EVERYWHERE, AccessSection()) as again:
        assert "password:" not in "\n".join(again.notices)


def test_open_to_others_must_be_said(tmp_path: Path) -> None:
    section = AccessSection(mode="open")
    check_access(section, LOOPBACK, insecure_open=False)
    check_access(section, EVERYWHERE, insecure_open=True)
    with pytest.raises(UsageError, match="open to everyone"):
        check_access(section, EVERYWHERE, insecure_open=False)
    with open_access_control(
        tmp_path, EVERYWHERE, AccessSection(), insecure_open=True
    ) as access_control:
        assert "anyone who reaches it" in access_control.notices[0]


def test_accounts_over_plain_http_must_be_said(tmp_path: Path) -> None:
    with open_access_control(
        tmp_path, EVERYWHERE, AccessSection(), insecure_http=True
    ) as access_control:
        assert access_control.authenticator.accounts and access_control.certificates is None
        assert any("plain HTTP" in line for line in access_control.notices)


def test_the_certificate_is_good_for_its_names_alone(tmp_path: Path) -> None:
    section = TlsSection(names=("reg.test", "192.0.2.5", "not a name"))
    certificates = open_certificates(tmp_path, section, "192.0.2.1")
    for name in ("reg.test", "localhost", "192.0.2.5", "192.0.2.1"):
        assert served(certificates, name).version() == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError):
        served(certificates, "other.test")


def test_the_fingerprint_is_of_the_file_that_clients_install(tmp_path: Path) -> None:
    certificates = open_certificates(tmp_path, TlsSection(), LOOPBACK)
    assert certificates.ca is not None
    der = ssl.PEM_cert_to_DER_cert(certificates.ca.read_text())
    assert certificates.fingerprint.replace(":", "") == hashlib.sha256(der).hexdigest().upper()


def test_files_stay_and_only_the_certificate_follows_names(tmp_path: Path) -> None:
    first = open_certificates(tmp_path, TlsSection(), LOOPBACK)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "tls").iterdir()}
    assert open_certificates(tmp_path, TlsSection(), LOOPBACK) == first
    assert kept == {path.name: path.read_bytes() for path in (tmp_path / "tls").iterdir()}
    renamed = open_certificates(tmp_path, TlsSection(names=("new.test",)), LOOPBACK)
    assert renamed.fingerprint == first.fingerprint
    assert renamed.cert.read_bytes() != kept["server.crt"]
    for name in ("ca.key", "server.key"):
        assert (tmp_path / "tls" / name).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", [b"", b"nonsense"])
def test_a_damaged_certificate_is_made_anew(tmp_path: Path, damage: bytes) -> None:
    first = open_certificates(tmp_path, TlsSection(), LOOPBACK)
    first.cert.write_bytes(damage)
    served(open_certificates(tmp_path, TlsSection(), LOOPBACK), "localhost")


def test_the_server_certificate_signs_nothing(tmp_path: Path) -> None:
    certificates = open_certificates(tmp_path, TlsSection(), LOOPBACK)
    leaf = x509.load_pem_x509_certificate(certificates.cert.read_bytes())
    basic = leaf.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical and not basic.value.ca
    assert leaf.not_valid_after_utc.timestamp() - time.time() < 398 * 86400


def test_own_files_are_taken_and_checked(tmp_path: Path) -> None:
    made = open_certificates(tmp_path / "made", TlsSection(), LOOPBACK)
    section = TlsSection(cert=str(made.cert), key=str(made.key))
    taken = open_certificates(tmp_path / "data", section, EVERYWHERE)
    assert (taken.cert, taken.key, taken.ca) == (made.cert, made.key, None)
    other = open_certificates(tmp_path / "other", TlsSection(), LOOPBACK)
    for wrong in (other.key, tmp_path / "missing"):
        bad = TlsSection(cert=str(made.cert), key=str(wrong))
        with pytest.raises(ConfigError, match="certificate"):
            open_certificates(tmp_path / "data", bad, EVERYWHERE)
    with pytest.raises(ConfigError):
        TlsSection(cert=str(made.cert))


def test_renewed_files_are_noticed_and_broken_ones_are_not_taken(tmp_path: Path) -> None:
    certificates = open_certificates(tmp_path, TlsSection(), LOOPBACK)
    section = TlsSection(cert=str(certificates.cert), key=str(certificates.key))
    reloads: list[float] = []

    def renew() -> Certificates:
        return open_certificates(tmp_path, section, LOOPBACK)

    def reload() -> None:
        reloads.append(time.monotonic())

    def wait(number: int) -> bool:
        end = time.monotonic() + 60
        while len(reloads) < number and time.monotonic() < end:
            time.sleep(0.01)
        return len(reloads) == number

    with TaskGroup() as group:
        group.start(lambda: watch_certificates(certificates, renew, reload, every_s=0.02))
        good = certificates.cert.read_bytes()
        certificates.cert.write_bytes(b"half of it")
        time.sleep(0.2)
        assert not reloads
        certificates.cert.write_bytes(good)
        assert wait(1)
        group.scope.cancel()


def test_a_hangup_takes_new_certificates_and_drops_nobody(tmp_path: Path) -> None:
    with guarded(tmp_path / "data", listen="127.0.0.1:0") as first:
        assert first.call("GET", "/v2/").status == 200  # open: loopback without --accounts
    made = open_certificates(tmp_path / "made", TlsSection(), LOOPBACK)
    options = ("--accounts", "--tls-cert", str(made.cert), "--tls-key", str(made.key))
    with guarded(tmp_path / "data", *options) as node:
        assert node.url.startswith("https://") and made.ca is not None
        before = _serial(node.address)
        (made.cert.parent / "server.crt").unlink()
        renewed = open_certificates(tmp_path / "made", TlsSection(), LOOPBACK)
        os.kill(node.process.pid, signal.SIGHUP)
        leaf = x509.load_pem_x509_certificate(renewed.cert.read_bytes())
        end, row = time.monotonic() + 60, 0
        while row < 5 and time.monotonic() < end:  # for a moment both workers take connections
            row = row + 1 if _serial(node.address) == leaf.serial_number else 0
            time.sleep(0.1)
        assert row == 5 and leaf.serial_number != before
        assert node.process.poll() is None


def test_a_node_without_a_certificate_for_its_key_does_not_start(tmp_path: Path) -> None:
    words = ("registry", "serve", "--listen", "0.0.0.0:0", "--data", str(tmp_path / "data"))
    done = run_shipline(*words, "--tls-cert", "/nowhere", "--tls-key", "/nowhere")
    assert done.returncode == 3 and "certificate" in done.stderr
    assert "Traceback" not in done.stderr


def test_sections_that_make_no_sense_are_refused() -> None:
    for wrong in ("30s", "2h"):
        with pytest.raises(ConfigError):
            AccessSection(token_lifetime=Duration.parse(wrong))
    with pytest.raises(ConfigError):
        AccessSection(url="reg.test")
    with pytest.raises(ConfigError):
        AccessSection(audit_files=0)


def _serial(address: str) -> int:
    host, _, port = address.rpartition(":")
    pem = ssl.get_server_certificate((host, int(port)))
    return x509.load_pem_x509_certificate(pem.encode()).serial_number
