"""Packages of programming languages: those that are installed, and none that is not."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from shipline.layer import scan
from shipline.sbom import Inventory, languages, read_tree, take_inventory
from shipline.sbom.languages import read_go, read_java, read_package_json, read_python
from shipline.sbom.packages import Package, Unreadable


def listed(root: Path, *, source: bool = False) -> Inventory:
    items = scan(root).items()
    return take_inventory((facts, "") for facts in read_tree(items, source=source))


def write(root: Path, path: str, content: bytes | str | object) -> None:
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes | str):
        content = json.dumps(content)
    place.write_bytes(content if isinstance(content, bytes) else content.encode())


def purls(found: Inventory) -> list[str]:
    return [one.purl for one in found.packages]


def test_node_modules_are_its_packages_alone(tmp_path: Path) -> None:
    modules = "app/node_modules"
    for place, name in (("a", "a"), ("@s/b", "@s/b"), ("a/node_modules/c", "c")):
        write(tmp_path, f"{modules}/{place}/package.json", {"name": name, "version": "1.0.0"})
    write(tmp_path, f"{modules}/a/dist/esm/package.json", {"type": "module"})
    write(tmp_path, f"{modules}/a/test/fixture/package.json", {"name": "x", "version": "1"})
    write(tmp_path, "app/package.json", {"name": "app", "version": "2.0.0", "license": "MIT"})
    write(tmp_path, "usr/share/doc/y/package.json", {"name": "y", "version": "1"})
    write(tmp_path, "usr/share/nodejs/z/bin/package.json", {"name": "bin", "version": "1"})
    write(tmp_path, "usr/share/nodejs/@s/z/package.json", {"name": "@s/z", "version": "1.0.0"})
    assert purls(listed(tmp_path)) == [
        *("pkg:npm/a@1.0.0", "pkg:npm/app@2.0.0", "pkg:npm/%40s/b@1.0.0", "pkg:npm/c@1.0.0"),
        "pkg:npm/%40s/z@1.0.0",
    ]


def test_npm_knows_the_hashes_of_its_packages(tmp_path: Path) -> None:
    write(tmp_path, "app/node_modules/a/package.json", {"name": "a", "version": "1.0.0"})
    lock = {"packages": {"node_modules/a": {"version": "1.0.0", "integrity": "sha512-AQI="}}}
    write(tmp_path, "app/node_modules/.package-lock.json", lock)
    (found,) = listed(tmp_path).packages
    assert found.package.checksum == "sha512:0102"


def test_what_a_project_is_built_with_is_listed_for_contexts(tmp_path: Path) -> None:
    entries = {"": {"version": "9"}, "node_modules/@s/a": {"version": "1.0.0", "license": "ISC"}}
    write(tmp_path, "package-lock.json", {"lockfileVersion": 3, "packages": entries})
    pins = "requests[socks]==2.32.0 ; python_version > '3'\nflask>=1\n# x==1\nb == 1.*\n"
    write(tmp_path, "requirements.txt", pins)
    assert purls(listed(tmp_path)) == []
    assert purls(listed(tmp_path, source=True)) == [
        "pkg:npm/%40s/a@1.0.0",
        "pkg:pypi/requests@2.32.0",
    ]


@pytest.mark.parametrize(
    ("fields", "license"),
    [
        ({"license": "MIT"}, "MIT"),
        ({"license": {"type": "ISC"}}, "ISC"),
        ({"licenses": [{"type": "MIT"}, {"type": "GPL-2.0"}]}, "(MIT) OR (GPL-2.0)"),
        ({"license": 7}, ""),
        ({}, ""),
    ],
)
def test_licences_of_npm(fields: dict[str, object], license: str) -> None:
    content = json.dumps({"name": "a", "version": "1", **fields}).encode()
    (found,) = read_package_json("node_modules/a/package.json", content).packages
    assert found.license == license


def test_this_environment_has_its_distributions() -> None:
    place = Path(str(metadata.distribution("pytest").locate_file(""))).resolve()
    wanted = {
        (one.metadata["Name"].lower().replace("_", "-").replace(".", "-"), one.version)
        for one in metadata.distributions(path=[str(place)])
    }
    found = {
        (one.package.name, one.package.version)
        for one in listed(place).packages
        if one.package.type == "pypi"
        and any(evidence.path.count("/") == 1 for evidence in one.evidence)
    }
    assert found == wanted


@pytest.mark.parametrize(
    ("headers", "license"),
    [
        ("License-Expression: MIT OR Apache-2.0\nLicense: x", "MIT OR Apache-2.0"),
        ("License: BSD-3-Clause", "BSD-3-Clause"),
        ("Classifier: License :: OSI Approved :: MIT License\nLicense: long", "MIT"),
        ("Classifier: License :: OSI Approved\nLicense: UNKNOWN", ""),
        ("License: The text\n of a licence\n over lines", ""),
    ],
)
def test_licences_of_python(tmp_path: Path, headers: str, license: str) -> None:
    text = f"Metadata-Version: 2.4\nName: My_Package.x\nVersion: 1.0\n{headers}\n\nreadme"
    write(tmp_path, "lib/site-packages/a.dist-info/METADATA", text)
    (found,) = listed(tmp_path).packages
    assert found.purl == "pkg:pypi/my-package-x@1.0"
    assert found.license == license


def archive(**members: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name.replace("__", "/"), content)
    return made.getvalue()


POM = b"#c\ngroupId=org.example\nartifactId = inner\nversion: 2.0\n"


def test_java_archives_say_what_they_are(tmp_path: Path) -> None:
    inner = archive(**{"META-INF__maven__org.example__inner__pom.properties": POM})
    main = b"Manifest-Version: 1.0\r\nImplementation-Version: 1.5\r\n\r\nName: x\r\n"
    outer = archive(**{"META-INF__MANIFEST.MF": main, "BOOT-INF__lib__inner-2.0.jar": inner})
    write(tmp_path, "app/tool-1.5.jar", outer)
    write(tmp_path, "app/other.jar", archive(**{"META-INF__MANIFEST.MF": main}))
    found = listed(tmp_path)
    assert [(one.package.name, one.package.version, one.purl) for one in found.packages] == [
        ("inner", "2.0", "pkg:maven/org.example/inner@2.0"),
        ("other", "1.5", ""),
        ("tool", "1.5", ""),
    ]


def test_bombs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(languages, "_INNER", 1 << 20)
    zeros = archive(**{"a.jar": b"\0" * ((1 << 20) + 1)})
    with pytest.raises(Unreadable, match="too big"):
        read_java("bomb.jar", zeros)
    many = (
        archive(a=b"")[:-22] + b"PK\5\6" + struct.pack("<4H2IH", 0, 0, 65535, 65535, 1 << 30, 0, 0)
    )
    nested = b"x"
    for _ in range(10):
        nested = archive(**{"a.jar": nested})
    for content in (b"", b"PK", many, os.urandom(100)):
        with pytest.raises(Unreadable):
            read_java("a.jar", content)
    assert read_java("a.jar", nested).packages == ()


def program(modules: str, *, version: str = "go1.22.3", flags: int = 2, at: int = 4096) -> bytes:
    """The bytes of a program that Go built, as far as they matter here."""
    start = bytes.fromhex("3077af0c9274080241e1c107e6d618e6")
    end = bytes.fromhex("f932433186182072008242104116d8f2")
    text = b"".join(
        struct.pack("B" * len(size), *size) + part
        for part in (version.encode(), start + modules.encode() + end)
        for size in [varint(len(part))]
    )
    info = b"\xff Go buildinf:" + bytes([8, flags]) + b"\0" * 16 + text
    return (
        (b"\x7fELF" + b"\xff Go buildinf: is a text, too").ljust(at, b"\0") + info + b"\0" * 300_000
    )


def varint(number: int) -> bytes:
    found = b""
    while number >= 0x80:
        found += bytes([number & 0x7F | 0x80])
        number >>= 7
    return found + bytes([number])


MODULES = (
    "path\texample.org/cmd\nmod\texample.org/cmd\t(devel)\t\ndep\tgolang.org/x/net\tv0.20.0\th1:x\n"
    "dep\texample.org/old\tv1.0.0\n=>\texample.org/new\tv1.1.0\th1:y\nbuild\tCGO_ENABLED=0\n"
)


@pytest.mark.parametrize("at", [4096, (1 << 20) - 16, (1 << 20) - 8 - 8])
def test_go_programs_name_their_modules(tmp_path: Path, at: int) -> None:
    write(tmp_path, "bin/tool", program(MODULES, at=at))
    (tmp_path / "bin/tool").chmod(0o755)
    assert sorted(purls(listed(tmp_path))) == [
        "pkg:golang/example.org/cmd",
        "pkg:golang/example.org/new@v1.1.0",
        "pkg:golang/golang.org/x/net@v0.20.0",
        "pkg:golang/stdlib@1.22.3",
    ]


def test_other_programs_have_no_modules() -> None:
    def modules(content: bytes) -> tuple[Package, ...]:
        return read_go("a", io.BytesIO(content), len).packages

    assert modules(b"#!/bin/sh" + program(MODULES)) == ()
    assert modules(program(MODULES, version="rust1")) == ()
    assert modules(b"\x7fELF" + b"\xff Go buildinf:" * 1000) == ()
    assert read_go("a", io.BytesIO(program(MODULES, flags=0)), len).problem


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("node_modules/a/package.json", b'{"name": "a", "version": ' + b"[" * 100_000),
        ("node_modules/a/package.json", b"\xff\xfe"),
        ("node_modules/.package-lock.json", b'{"packages":'),
        ("s/a.dist-info/METADATA", b"\xff" * 1000),
        ("a.jar", b"PK\3\4" * 1000),
    ],
)
def test_what_cannot_be_read_is_a_gap(tmp_path: Path, path: str, content: bytes) -> None:
    write(tmp_path, path, content)
    found = listed(tmp_path)
    assert not found.packages
    assert found.gaps[0].startswith(path)


def test_a_file_that_is_too_big_is_a_gap(tmp_path: Path) -> None:
    write(tmp_path, "s/a.dist-info/METADATA", b"")
    os.truncate(tmp_path / "s/a.dist-info/METADATA", 1 << 40)
    assert "bigger than" in listed(tmp_path).gaps[0]


def test_metadata_without_a_name_is_refused() -> None:
    with pytest.raises(Unreadable):
        read_python("a", b"Name: ../x\nVersion: 1\n")
