"""Packages of programming languages: npm, Python, Java, and the modules in Go programs."""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from email.parser import BytesHeaderParser
from typing import Any

from shipline.content import Reader
from shipline.sbom.packages import FileFacts, Package, Unreadable, text_of

_NPM_NAME = re.compile(r"(?:@[A-Za-z0-9._~-]+/)?[A-Za-z0-9._~-]+")
_LOCKED = 50_000  # packages of a lock file


def read_package_json(path: str, content: bytes) -> FileFacts:
    """A package of npm by its own package.json; one without name and version is none."""
    fields = _json(content)
    name, version = text_of(fields, "name"), text_of(fields, "version")
    if not version or not _NPM_NAME.fullmatch(name):
        return FileFacts(path, "npm")
    author = fields.get("author")
    supplier = text_of(author if isinstance(author, dict) else {"name": author}, "name")
    return FileFacts(
        path,
        "npm",
        packages=(_npm(name, version, license=_npm_license(fields), supplier=supplier),),
    )


def read_installed_lock(path: str, content: bytes) -> FileFacts:
    """node_modules/.package-lock.json: what npm knows of the packages beside it."""
    found = tuple(
        (f"{path.rpartition('node_modules/')[0]}{place}", checksum)
        for place, fields in _locked(content)
        if (checksum := _integrity(text_of(fields, "integrity")))
    )
    return FileFacts(path, "npm-lock", checksums=found)


def read_package_lock(path: str, content: bytes) -> FileFacts:
    """package-lock.json, versions 2 and 3: the packages that a project is built with."""
    packages = []
    for place, fields in _locked(content):
        name = text_of(fields, "name") or place.rpartition("node_modules/")[2]
        version = text_of(fields, "version")
        if place and version and not fields.get("link") and _NPM_NAME.fullmatch(name):
            checksum = _integrity(text_of(fields, "integrity"))
            found = _npm(name, version, license=_npm_license(fields), checksum=checksum)
            packages.append(found)
    return FileFacts(path, "npm-project", packages=tuple(dict.fromkeys(packages)))


def _locked(content: bytes) -> Iterator[tuple[str, Mapping[str, Any]]]:
    packages = _json(content).get("packages")
    entries = list(packages.items()) if isinstance(packages, dict) else []
    if len(entries) > _LOCKED:
        raise Unreadable(f"it has more than {_LOCKED:,} packages")
    return ((place, fields) for place, fields in entries if isinstance(fields, dict))


def _json(content: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(content.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        raise Unreadable("it is not JSON") from None
    return value if isinstance(value, dict) else {}


def _npm(name: str, version: str, **more: str) -> Package:
    scope, _, last = name.rpartition("/")
    return Package("npm", last, version, namespace=scope, **more)


def _npm_license(fields: Mapping[str, Any]) -> str:
    """`license` is a text, or an object, or a list of either in old packages."""
    value = fields.get("license", fields.get("licenses"))
    values = value if isinstance(value, list) else [value]
    texts = [text_of(one if isinstance(one, dict) else {"type": one}, "type") for one in values]
    texts = [*filter(None, texts)]
    return texts[0] if len(texts) == 1 else " OR ".join(f"({text})" for text in texts)


def _integrity(text: str) -> str:
    """The strongest hash of a Subresource Integrity value, as `algorithm:hex`."""
    for algorithm in ("sha512", "sha256", "sha1"):
        for word in text.split():
            if word.startswith(f"{algorithm}-"):
                try:
                    raw = base64.b64decode(word.partition("-")[2], validate=True)
                except (binascii.Error, ValueError):
                    continue
                return f"{algorithm}:{raw.hex()}"
    return ""


_PYTHON_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_CLASSIFIED = "License :: "
_UNKNOWN = ("", "UNKNOWN")


def read_python(path: str, content: bytes) -> FileFacts:
    """A distribution of Python: METADATA or PKG-INFO (packaging.python.org, core metadata)."""
    headers = BytesHeaderParser().parsebytes(content)

    def field(name: str) -> str:
        return text_of({"": str(headers.get(name) or "")}, "")

    name, version = field("Name"), field("Version")
    if not version or not _PYTHON_NAME.fullmatch(name):
        raise Unreadable("it has no name and version of a distribution")
    license = field("License-Expression") or _classified(headers.get_all("Classifier") or [])
    written = field("License")
    if not license and written not in _UNKNOWN and "\n" not in written:
        license = written
    normal = re.sub(r"[-_.]+", "-", name).lower()
    supplier = field("Author") if field("Author") not in _UNKNOWN else ""
    found = Package("pypi", normal, version, license=license, supplier=supplier)
    return FileFacts(path, "python", packages=(found,))


def read_requirements(path: str, content: bytes) -> FileFacts:
    """requirements.txt: the distributions whose version is fixed."""
    pinned = re.compile(
        r"\s*([A-Za-z0-9][\w.-]*)(?:\[[^]]*\])?\s*===?\s*([^\s;#,*]+)\s*(?:[;#\\]|--|$)"
    )
    found = [
        Package("pypi", re.sub(r"[-_.]+", "-", match[1]).lower(), match[2])
        for line in content.decode("utf-8", "replace").splitlines()
        if (match := pinned.match(line))
    ]
    return FileFacts(path, "python-project", packages=tuple(found))


def _classified(classifiers: list[Any]) -> str:
    """The licences that trove classifiers name, joined: which of them holds is not said."""
    found = [
        str(one).rpartition(" :: ")[2].strip()
        for one in classifiers
        if str(one).startswith(_CLASSIFIED) and not str(one).endswith("OSI Approved")
    ]
    return (
        " AND ".join(f"({one})" for one in dict.fromkeys(found))
        if len(found) > 1
        else (found[0] if found else "")
    )


_DEPTH = 2  # archives in archives
_INNER = 128 << 20  # bytes of an archive in an archive
_BUDGET = 512 << 20  # bytes of all of them together
_MEMBERS = 100_000
_PROPERTIES = 64 << 10  # bytes
_ARCHIVES = (".jar", ".war", ".ear")


def read_java(path: str, content: bytes) -> FileFacts:
    """An archive of Java: Maven's pom.properties, else the manifest; and archives in it."""
    budget = [_BUDGET]
    try:
        packages = [*_archive(path, content, 0, budget)]
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise Unreadable(f"it is not a valid archive: {error}") from None
    except (OSError, ValueError, struct.error, MemoryError) as error:
        raise Unreadable(f"it is damaged: {error}") from None
    return FileFacts(path, "java", packages=tuple(dict.fromkeys(packages)))


def _archive(path: str, content: bytes, depth: int, budget: list[int]) -> Iterator[Package]:
    _check_directory(content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        poms = []
        for info in archive.infolist():
            inner = info.filename
            if inner.startswith("META-INF/maven/") and inner.endswith("/pom.properties"):
                poms.append(_properties(_member(archive, info, _PROPERTIES)))
            elif inner.endswith(_ARCHIVES) and depth < _DEPTH:
                budget[0] -= info.file_size
                if budget[0] < 0:
                    raise Unreadable("the archives in it are too big")
                yield from _archive(inner, _member(archive, info, _INNER), depth + 1, budget)
        known = [one for one in map(_maven, poms) if one]
        yield from known
        if not known and (own := _manifested(path, archive)):
            yield own


def _check_directory(content: bytes) -> None:
    """Refuse an archive with an absurd central directory before it is read (APPNOTE.TXT 4.3.16)."""
    end = content.rfind(b"PK\5\6", max(0, len(content) - 65_557))
    if end < 0 or len(content) - end < 22:
        raise Unreadable("it is not a ZIP archive")
    total, size = struct.unpack_from("<HI", content, end + 10)
    if total > _MEMBERS or (size > (32 << 20) and size != 0xFFFFFFFF):
        raise Unreadable("it has too many files")


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    with archive.open(info) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise Unreadable(f"{info.filename[:200]} in it is too big")
    return content


def _properties(content: bytes) -> dict[str, str]:
    lines = content.decode("latin-1").splitlines()
    pairs = (re.split(r"\s*[=:]\s*", line.strip(), maxsplit=1) for line in lines)
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and pair[0][:1] not in "#!"}


def _maven(fields: Mapping[str, str]) -> Package | None:
    group, name, version = (text_of(fields, key) for key in ("groupId", "artifactId", "version"))
    if not (group and name and version) or "${" in f"{group}{name}{version}":
        return None
    return Package("maven", name, version, namespace=group)


def _manifested(path: str, archive: zipfile.ZipFile) -> Package | None:
    """What the manifest says (JAR File Specification); without a group there is no package URL."""
    try:
        info = archive.getinfo("META-INF/MANIFEST.MF")
    except KeyError:
        return None
    text = re.sub(r"\r?\n ", "", _member(archive, info, 1 << 20).decode("utf-8", "replace"))
    main = re.split(r"\r?\n\r?\n", text, maxsplit=1)[0]
    fields = dict(re.findall(r"^([\w-]+): ?(.*?)\r?$", main, re.MULTILINE))
    version = text_of(fields, "Implementation-Version", "Bundle-Version")
    stem = path.rpartition("/")[2].rpartition(".")[0]
    name = stem.removesuffix(f"-{version}") if version else ""
    group = text_of(fields, "Implementation-Vendor-Id")
    license = text_of(fields, "Bundle-License")
    return Package("maven", name, version, namespace=group, license=license) if name else None


_MAGIC = b"\xff Go buildinf:"
_INLINE = 2  # flag: the strings follow, since Go 1.18
_START, _END = (
    bytes.fromhex("3077af0c9274080241e1c107e6d618e6"),
    bytes.fromhex("f932433186182072008242104116d8f2"),
)
_CHUNK = 1 << 20
_MODULES = 4 << 20  # bytes of the list of modules


def read_go(path: str, content: Reader, seen: Callable[[bytes], object]) -> FileFacts:
    """The modules in a Go program, from its build information (Go, debug/buildinfo); `seen` gets
    all bytes.
    """
    data, start = b"", 0
    found: FileFacts | None = None
    while chunk := content.read(_CHUNK):
        seen(chunk)
        if not start and not data and not chunk.startswith(b"\x7fELF"):
            return FileFacts(path, "go")
        if found is not None:
            continue
        data += chunk
        at = data.find(_MAGIC)
        while at >= 0 and found is None:
            while len(data) < at + _MODULES and (more := content.read(_CHUNK)):
                seen(more)
                data += more
            if (start + at) % 16 == 0:
                found = _build_info(path, data[at : at + _MODULES])
            at = data.find(_MAGIC, at + 1)
        start += max(0, len(data) - 32)
        data = data[-32:]
    return found or FileFacts(path, "go")


def _build_info(path: str, data: bytes) -> FileFacts | None:
    """The facts, None where the magic bytes are only a text of the program."""
    if len(data) < 33 or data[15] > 3:
        return None
    if not data[15] & _INLINE:
        old = data[14] in (4, 8)
        return FileFacts(path, "go", problem="it was built by Go 1.17 or older") if old else None
    version, position = _text(data, 32)
    modules, _ = _text(data, position)
    release = re.match(rb"(?:devel )?go([\w.-]+)", version)
    if not release:
        return None
    packages = [Package("golang", "stdlib", release[1].decode("ascii"))]
    if modules[:16] == _START and modules[-16:] == _END:
        packages += _modules(modules[16:-16].decode("utf-8", "replace"))
    elif modules:
        return None
    return FileFacts(path, "go", packages=tuple(dict.fromkeys(packages)))


def _text(data: bytes, position: int) -> tuple[bytes, int]:
    """A string with its length before it, as a varint; and what follows."""
    length = shift = 0
    while position < len(data) and shift < 35:
        byte = data[position]
        position += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return data[position : position + length], position + length


def _modules(text: str) -> Iterator[Package]:
    """The main module and its dependencies; one that is replaced is named as what replaces it."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        kind, *words = line.split("\t")
        if kind in ("mod", "dep") and len(words) >= 2:
            found.append((words[0], words[1]))
        elif kind == "=>" and len(words) >= 2 and found and words[1]:
            found[-1] = (words[0], words[1])
    for module, version in found[:10_000]:
        namespace, _, name = module.rpartition("/")
        known = text_of({"": version}, "")
        if text_of({"": name}, ""):
            yield Package("golang", name, known, namespace=namespace)
