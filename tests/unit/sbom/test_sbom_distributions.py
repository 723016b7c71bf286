"""Databases of distributions: what their own programs list is what is read."""

from __future__ import annotations

import shutil
import sqlite3
import struct
import subprocess
from pathlib import Path

import pytest

from shipline.layer import scan
from shipline.sbom import Inventory, read_tree, take_inventory
from shipline.sbom.distributions import read_apk, read_copyright, read_dpkg, read_release, read_rpm
from shipline.sbom.packages import OsRelease, Unreadable


def listed(root: Path) -> Inventory:
    return take_inventory((facts, "") for facts in read_tree(scan(root).items()))


def write(root: Path, path: str, content: bytes | str) -> None:
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content if isinstance(content, bytes) else content.encode())


STATUS = """\
Package: libc6
Status: install ok installed
Maintainer: GNU Libc Maintainers <debian-glibc@lists.debian.org>
Architecture: amd64
Source: glibc
Version: 2.41-12
Description: GNU C Library
 Package: not-one

Package: gone
Status: deinstall ok config-files
Version: 1

Package: g++
Status: install ok half-configured
Architecture: amd64
Source: gcc-defaults (1.220)
Version: 4:14.2.0-1
"""


def test_dpkg_lists_what_is_there(tmp_path: Path) -> None:
    write(tmp_path, "var/lib/dpkg/status", STATUS)
    write(tmp_path, "etc/os-release", 'NAME="Debian"\nVERSION_ID="13"\nID=debian\n')
    write(tmp_path, "usr/share/doc/libc6/copyright", "Format: x\n\nLicense: LGPL-2.1+\n text\n")
    packages = listed(tmp_path).packages
    assert [one.purl for one in packages] == [
        "pkg:deb/debian/g%2B%2B@4:14.2.0-1?arch=amd64&distro=debian-13&upstream=gcc-defaults%401.220",
        "pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=debian-13&upstream=glibc",
    ]
    assert [one.license for one in packages] == ["", "LGPL-2.1-or-later"]


def test_a_stanza_of_distroless_needs_no_status() -> None:
    facts = read_dpkg("var/lib/dpkg/status.d/base", b"Package: base\nVersion: 1\n")
    assert [(one.name, one.version) for one in facts.packages] == [("base", "1")]


@pytest.mark.skipif(not shutil.which("dpkg-query"), reason="needs dpkg")
def test_this_machine_has_the_packages_that_dpkg_lists() -> None:
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package} ${Version} ${Architecture}\n"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    wanted = {
        tuple(words[1:]) for words in lines if words[0] not in ("config-files", "not-installed")
    }
    facts = read_dpkg("var/lib/dpkg/status", Path("/var/lib/dpkg/status").read_bytes())
    assert {(one.name, one.version, one.architecture) for one in facts.packages} == wanted
    assert facts.problem == ""


@pytest.mark.parametrize(
    ("text", "licenses"),
    [
        ("Format: https://x\n\nFiles: *\nLicense: GPL-2+ or Expat\n x\n\nLicense: Expat\n y\n",
         ("GPL-2+ or Expat", "Expat")),
        ("On Debian systems, see `/usr/share/common-licenses/GPL-2'.", ("GPL-2",)),
        ("version 2, or (at your option) any\nlater version: /usr/share/common-licenses/GPL-2.",
         ("GPL-2+",)),
        ("All rights reserved.", ()),
    ],
)  # fmt: skip
def test_licences_of_debian(text: str, licenses: tuple[str, ...]) -> None:
    assert read_copyright("usr/share/doc/a/copyright", text.encode()).licenses == licenses


APK = """\
C:Q1abc=
P:busybox
V:1.37.0-r18
A:x86_64
L:GPL-2.0-only
o:busybox
m:Sören <s@example>
F:bin
R:busybox

P:ssl_client
V:1.37.0-r18
A:x86_64
L:GPL-2.0-only AND BSD
o:busybox
"""


@pytest.mark.parametrize("place", ["lib/apk/db/installed", "usr/lib/apk/db/installed"])
def test_apk_lists_what_is_there(tmp_path: Path, place: str) -> None:
    write(tmp_path, place, APK)
    write(tmp_path, "etc/os-release", "ID=alpine\nVERSION_ID=3.22.1\n")
    first, second = listed(tmp_path).packages
    assert first.purl == "pkg:apk/alpine/busybox@1.37.0-r18?arch=x86_64&distro=alpine-3.22.1"
    assert second.purl.endswith("&distro=alpine-3.22.1&upstream=busybox")
    assert second.license == "GPL-2.0-only AND LicenseRef-BSD"


def test_releases() -> None:
    facts = read_release("etc/os-release", b"# c\nID='Fedora'\nVERSION_ID=40\nBROKEN=\"\n")
    assert facts.release == OsRelease("fedora", "40")


SPEC = """\
Name: {name}
Version: 1.2.3
Release: 4
Epoch: 2
Summary: x
License: GPLv2+ and MIT
Vendor: Example Corp
BuildArch: noarch
%description
x
%files
"""


@pytest.fixture(scope="module")
def rpms(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    if not shutil.which("rpmbuild"):
        pytest.skip("needs rpm")
    top = tmp_path_factory.mktemp("rpm")
    for name in ("one", "two"):
        (top / "spec").write_text(SPEC.format(name=name))
        command = ["rpmbuild", "-bb", "--define", f"_topdir {top}", str(top / "spec")]
        subprocess.run(command, capture_output=True, check=True)
    return sorted(map(str, top.rglob("*.rpm")))


def install(place: Path, rpms: list[str], backend: str) -> None:
    rpm = ["rpm", "--define", f"_db_backend {backend}", "--dbpath", str(place)]
    subprocess.run([*rpm, "--initdb"], check=True)
    subprocess.run([*rpm, "-i", "--justdb", "--nodeps", *rpms], capture_output=True, check=True)


def berkeley(place: Path, rpms: list[str], order: int) -> None:
    """The database that an older rpm wrote, by Berkeley DB itself, from the headers of the newer:
    the last package stands in the item of a page, as only small ones do.
    """
    if not shutil.which("db5.3_load"):
        pytest.skip("needs db5.3-util")
    install(place.with_name("newer"), rpms, "sqlite")
    with sqlite3.connect(place.with_name("newer") / "rpmdb.sqlite") as made:
        headers = [blob for (blob,) in made.execute("SELECT blob FROM Packages ORDER BY hnum")]
    made.close()
    shutil.rmtree(place.with_name("newer"))
    padded = headers[0][8 + 16 * struct.unpack_from(">I", headers[0])[0] :] + bytes(70_000)
    count = headers[0][:4]
    headers[0] = count + struct.pack(">I", len(padded)) + headers[0][8:][: 16 * count[3]] + padded
    numbers = "<I" if order == 1234 else ">I"
    rows = [(0, struct.pack(numbers, len(headers))), *enumerate(headers, 1)]
    text = f"VERSION=3\nformat=bytevalue\ntype=hash\ndb_pagesize=4096\ndb_lorder={order}\n"
    text += "HEADER=END\n"
    for number, value in rows:
        text += f" {struct.pack(numbers, number).hex()}\n {value.hex()}\n"
    place.mkdir(parents=True)
    load = ["db5.3_load", str(place / "Packages")]
    subprocess.run(load, input=text + "DATA=END\n", text=True, check=True)


@pytest.mark.parametrize("backend", ["sqlite", "ndb", "1234", "4321"])
def test_rpm_lists_what_rpm_installed(tmp_path: Path, rpms: list[str], backend: str) -> None:
    place = tmp_path / "var/lib/rpm"
    if backend.isdigit():
        berkeley(place, rpms, int(backend))
    else:
        install(place, rpms, backend)
    write(tmp_path, "etc/os-release", "ID=fedora\nVERSION_ID=40\n")
    packages = listed(tmp_path).packages
    assert [one.package.name for one in packages] == ["one", "two"]
    upstream = "distro=fedora-40&epoch=2&upstream=one-1.2.3-4.src.rpm"
    assert packages[0].purl == f"pkg:rpm/fedora/one@1.2.3-4?arch=noarch&{upstream}"
    assert packages[0].license == "GPL-2.0-or-later AND MIT"
    assert packages[0].package.supplier == "Example Corp"


def page(kind: int, count: int, *offsets: int, body: bytes = b"") -> bytes:
    head = bytes(20) + struct.pack("<HHBB", count, 0, 1, kind)
    return (head + struct.pack(f"<{len(offsets)}H", *offsets)).ljust(512 - len(body), b"\0") + body


META = (bytes(12) + struct.pack("<III", 0x061561, 9, 512)).ljust(512, b"\0")
CYCLE = struct.pack("<BxxxII", 3, 2, 60 << 20) + b"\1\1\0\0\0"


@pytest.mark.parametrize(
    "pages",
    [
        (),
        (page(13, 400),),
        (page(13, 2, 507, 9000),),
        (page(13, 1, 507),),
        (page(13, 2, 507, 495, body=CYCLE), page(7, 1)),
        (page(13, 2, 507, 495, body=CYCLE), page(7, 1)[:16] + b"\2\0\0\0\0\0\x10\0\1\7"),
    ],
)
def test_damaged_berkeley_databases_end(pages: tuple[bytes, ...]) -> None:
    assert problem_of("Packages", META + b"".join(pages))


def test_what_sqlite_has_not_merged_is_a_gap(tmp_path: Path) -> None:
    write(tmp_path, "var/lib/rpm/rpmdb.sqlite-wal", b"x")
    assert "not in the database" in listed(tmp_path).gaps[0]


def database(path: Path, *statements: str) -> bytes:
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as made:
        for statement in statements:
            made.execute(statement)
    made.close()
    return path.read_bytes()


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"


@pytest.mark.parametrize(
    "statements",
    [
        (f"CREATE VIEW Packages AS {ENDLESS} SELECT zeroblob(i) AS blob FROM n",),
        ("CREATE TABLE Packages (hnum INTEGER, blob TEXT)", "INSERT INTO Packages VALUES (1, 'a')"),
        (
            "CREATE TABLE Packages (hnum INTEGER, blob BLOB AS (zeroblob(1000000000)))",
            "INSERT INTO Packages VALUES (1)",
        ),
        ("CREATE TABLE Other (blob BLOB)",),
    ],
)
def test_hostile_databases_are_refused(tmp_path: Path, statements: tuple[str, ...]) -> None:
    assert problem_of("rpmdb.sqlite", database(tmp_path / "db", *statements))


def problem_of(name: str, content: bytes) -> str:
    try:
        return read_rpm(f"var/lib/rpm/{name}", content).problem
    except Unreadable as error:
        return str(error)


def test_damaged_databases_are_refused(tmp_path: Path) -> None:
    whole = database(tmp_path / "db", "CREATE TABLE Packages (hnum INTEGER, blob BLOB)")
    for content in (whole[:100], whole[:16] + b"\xff" * (len(whole) - 16)):
        assert problem_of("rpmdb.sqlite", content)
    for content in (b"RpmP", b"RpmP" + b"\xff" * 12 + b"Slot" + b"\xff" * 12 + b"\0" * 4096):
        assert problem_of("Packages.db", content)


@pytest.mark.parametrize("path", ["var/lib/dpkg/status", "lib/apk/db/installed"])
def test_what_holds_no_package_says_so(tmp_path: Path, path: str) -> None:
    write(tmp_path, path, b"\xff\xfe\0garbage" * 100)
    assert "no package can be read" in listed(tmp_path).gaps[0]


def test_text_that_is_not_utf_8_breaks_nothing(tmp_path: Path) -> None:
    write(tmp_path, "var/lib/dpkg/status", STATUS.encode().replace(b"GNU Libc", b"\xff\xfe"))
    assert len(listed(tmp_path).packages) == 2


def test_names_that_nobody_has_are_left_out() -> None:
    content = b"P:" + b"a" * 5000 + b"\nV:1\n\nP:b\nV:1\n"
    assert [one.name for one in read_apk("lib/apk/db/installed", content).packages] == ["b"]
