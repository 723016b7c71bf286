"""Package databases of distributions: dpkg, apk, rpm; os-release and Debian's copyright files."""

from __future__ import annotations

import re
import shlex
import sqlite3
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import closing

from shipline.sbom.packages import FileFacts, OsRelease, Package, Unreadable, text_of

_PRESENT = ("installed", "unpacked", "half-configured", "triggers-awaited", "triggers-pending")
_PACKAGES = 100_000  # of one database
_SOURCE = re.compile(r"(\S+)(?: \((\S+)\))?")


def read_dpkg(path: str, content: bytes) -> FileFacts:
    """The status file of dpkg, deb822(5), or a file of status.d, where all is installed."""
    packages = []
    for fields in _stanzas(content):
        status = fields.get("Status", "install ok installed").split()
        name, version = text_of(fields, "Package"), text_of(fields, "Version")
        if name and version and status[-1:] and status[-1] in _PRESENT:
            source = _SOURCE.fullmatch(text_of(fields, "Source"))
            origin = "@".join(filter(None, source.groups())) if source else ""
            packages.append(
                Package(
                    "deb",
                    name,
                    version,
                    architecture=text_of(fields, "Architecture"),
                    source=origin,
                    supplier=text_of(fields, "Maintainer"),
                )
            )
    return _facts(path, "dpkg", packages, content)


def _stanzas(content: bytes) -> Iterator[dict[str, str]]:
    """The paragraphs of a control file; continued lines are left out."""
    fields: dict[str, str] = {}
    for line in content.decode("utf-8", "replace").splitlines():
        if not line.strip():
            if fields:
                yield fields
            fields = {}
        elif line[0] not in " \t":
            name, _, value = line.partition(":")
            fields[name.title()] = value.strip()
    if fields:
        yield fields


def _facts(path: str, kind: str, packages: list[Package], content: bytes) -> FileFacts:
    if not packages and content.strip():
        return FileFacts(path, kind, problem="no package can be read from it")
    problem = f"it has more than {_PACKAGES:,} packages" if len(packages) > _PACKAGES else ""
    return FileFacts(path, kind, packages=tuple(packages[:_PACKAGES]), problem=problem)


def read_apk(path: str, content: bytes) -> FileFacts:
    """The database of apk-tools (apk-package(5), "installed")."""
    packages = []
    for block in content.decode("utf-8", "replace").split("\n\n"):
        fields = {line[0]: line[2:] for line in block.splitlines() if line[1:2] == ":"}
        if name := text_of(fields, "P"):
            origin = text_of(fields, "o")
            packages.append(
                Package(
                    "apk",
                    name,
                    text_of(fields, "V"),
                    architecture=text_of(fields, "A"),
                    source=origin if origin != name else "",
                    license=text_of(fields, "L"),
                    supplier=text_of(fields, "m"),
                )
            )
    return _facts(path, "apk", packages, content)


def read_release(path: str, content: bytes) -> FileFacts:
    """os-release(5)."""
    fields = {}
    for line in content.decode("utf-8", "replace").splitlines():
        name, equals, value = line.partition("=")
        if equals:
            try:
                fields[name.strip()] = " ".join(shlex.split(value))
            except ValueError:
                fields[name.strip()] = value.strip()
    release = OsRelease(text_of(fields, "ID").lower(), text_of(fields, "VERSION_ID"))
    return FileFacts(path, "release", release=release)


_COMMON = re.compile(r"/usr/share/common-licenses/([A-Za-z0-9][A-Za-z0-9.+-]*[A-Za-z0-9+])")
_LATER = re.compile(r"any\s+later\s+version|at\s+your\s+option", re.IGNORECASE)
_FIELD = re.compile(r"^License:[ \t]*(\S[^\n]*)", re.IGNORECASE | re.MULTILINE)


def read_copyright(path: str, content: bytes) -> FileFacts:
    """The licences in a copyright file of Debian: of the machine-readable form (copyright-format
    1.0) the short names, of others the common licences that they refer to.
    """
    text = content.decode("utf-8", "replace")
    if re.match(r"\s*(?:Format|Format-Specification):", text, re.IGNORECASE):
        found = [name.strip() for name in _FIELD.findall(text)]
    else:
        later = "+" if _LATER.search(text) else ""
        found = [
            f"{name}{later}" if re.search(r"GPL-[\d.]+$|GFDL-[\d.]+$", name) else name
            for name in _COMMON.findall(text)
        ]
    return FileFacts(path, "copyright", licenses=tuple(dict.fromkeys(found))[:100])


_SQLITE = b"SQLite format 3\0"
_QUERY = "SELECT blob FROM Packages"
_QUERY_S = 20.0  # a database of 5,000 packages takes a tenth of a second
_ROW_LIMIT = 64 << 20  # bytes of the header of one package


def read_rpm(path: str, content: bytes) -> FileFacts:
    """A database of rpm, in SQLite, ndb or Berkeley DB. Raises Unreadable."""
    if content.startswith(_SQLITE):
        blobs = _sqlite_rows(content)
    elif content.startswith(b"RpmP"):
        blobs = _ndb_rows(content)
    elif (order := _byte_order(content)) is not None:
        blobs = _berkeley_rows(content, order)
    else:
        raise Unreadable("it is not a database of rpm")
    packages: list[Package] = []
    for blob in blobs:
        if len(packages) > _PACKAGES:
            break
        tags = _header(blob)
        if tags["name"] and tags["name"] != "gpg-pubkey":
            packages.append(_rpm(tags))
    return _facts(path, "rpm", packages, content)


def read_rpm_log(path: str, content: bytes) -> FileFacts:
    """What SQLite has written and not moved into the database yet. Raises Unreadable: always."""
    raise Unreadable(
        "it has changes that are not in the database: run rpmdb --rebuilddb in the image"
    )


def _rpm(tags: Mapping[str, str]) -> Package:
    return Package(
        "rpm",
        tags["name"],
        f"{tags['version']}-{tags['release']}",
        architecture=tags["arch"],
        epoch=tags["epoch"],
        source=tags["sourcerpm"],
        license=tags["license"],
        supplier=tags["vendor"],
    )


def _sqlite_rows(content: bytes) -> Iterator[bytes]:
    """The column `blob` of the table Packages; nothing else of the database is evaluated."""
    deadline = time.monotonic() + _QUERY_S
    data = bytearray(content)
    data[18:20] = b"\1\1"  # not in the WAL mode, which needs files beside it

    def allowed(action: int, table: str | None, *rest: str | None) -> int:
        known = action == sqlite3.SQLITE_SELECT or (
            action == sqlite3.SQLITE_READ and table in ("Packages", "sqlite_master")
        )
        return sqlite3.SQLITE_OK if known else sqlite3.SQLITE_DENY

    try:
        with closing(sqlite3.connect(":memory:")) as database:
            database.deserialize(bytes(data))
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _ROW_LIMIT)
            database.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
            database.set_authorizer(allowed)
            kinds = database.execute("SELECT type FROM sqlite_master WHERE name = 'Packages'")
            if kinds.fetchall() != [("table",)]:
                raise Unreadable("the database has no table Packages")
            for (blob,) in database.execute(_QUERY):
                if not isinstance(blob, bytes):
                    raise Unreadable("the table Packages is not one of rpm")
                yield blob
    except (sqlite3.Error, OverflowError, MemoryError) as error:
        raise Unreadable(f"the database is damaged: {error}") from None


_PAGE, _SLOT, _BLOCK = 4096, 16, 16  # bytes


def _ndb_rows(content: bytes) -> Iterator[bytes]:
    """The blobs of rpm's own format (rpm, lib/backend/ndb/rpmpkg.c)."""
    try:
        pages = struct.unpack_from("<4I", content)[3]
        for position in range(2 * _SLOT, min(pages * _PAGE, len(content)), _SLOT):
            magic, package, block, _count = struct.unpack_from("<4sIII", content, position)
            if magic != b"Slot" or not block or not package:
                continue
            head = struct.unpack_from("<4sIII", content, block * _BLOCK)
            if head[0] != b"BlbS" or head[1] != package:
                raise Unreadable("the database is damaged")
            start = block * _BLOCK + 16
            yield content[start : start + head[3]]
    except struct.error:
        raise Unreadable("the database is cut off") from None


_HASH_MAGIC = 0x061561
_PAGE_HEAD = 26  # bytes
_UNSORTED, _OVERFLOW, _SORTED = 2, 7, 13  # types of pages
_INLINE, _OFF_PAGE = 1, 3  # types of items


def _byte_order(content: bytes) -> str | None:
    """That of a hash table of Berkeley DB, as in struct; None for any other file."""
    for order in "<>":
        if content[12:16] == struct.pack(f"{order}I", _HASH_MAGIC):
            return order
    return None


def _berkeley_rows(content: bytes, order: str) -> Iterator[bytes]:
    """The values of a hash table by numbers of packages (Berkeley DB, src/dbinc/db_page.h), which
    rpm wrote before 4.16; that of number 0 is not a package.
    """
    left = len(content)  # bytes: values do not overlap
    try:
        (size,) = struct.unpack_from(f"{order}I", content, 20)
        if not 512 <= size <= 65536 or size & (size - 1) or content[24]:
            raise Unreadable("the database is damaged, or encrypted")
        for start in range(size, len(content) - size + 1, size):
            if content[start + 25] not in (_UNSORTED, _SORTED):
                continue
            (count,) = struct.unpack_from(f"{order}H", content, start + 20)
            offsets = struct.unpack_from(f"{order}{count}H", content[start : start + size], 26)
            ends = (size, *offsets)
            items = [
                content[start + at : start + end] for at, end in zip(offsets, ends, strict=False)
            ]
            for key, item in zip(items[::2], items[1::2], strict=True):
                if key[1:] == bytes(4):
                    continue
                value = _value(content, order, size, item)
                if (left := left - len(value)) < 0:
                    raise Unreadable("the database is damaged")
                yield value
    except (struct.error, IndexError, ValueError):
        raise Unreadable("the database is damaged") from None


def _value(content: bytes, order: str, size: int, item: bytes) -> bytes:
    """The value of an item, from its overflow pages where it has such."""
    if item[0] == _INLINE:
        return item[1:]
    if item[0] != _OFF_PAGE:
        raise Unreadable("the database is damaged")
    number, length = struct.unpack_from(f"{order}II", item, 4)
    value = bytearray()
    while len(value) < length <= _ROW_LIMIT:
        page = content[number * size : (number + 1) * size]
        number, used = struct.unpack_from(f"{order}I2xH", page, 16)
        piece = page[_PAGE_HEAD : _PAGE_HEAD + used]
        if page[25] != _OVERFLOW or not piece:
            raise Unreadable("the database is damaged")
        value += piece
    return bytes(value)


_TAGS = {
    1000: "name",
    1001: "version",
    1002: "release",
    1003: "epoch",
    1011: "vendor",
    1014: "license",
    1022: "arch",
    1044: "sourcerpm",
}
_TEXTS, _INT32 = (6, 8, 9), 4
_ENTRIES = 4096


def _header(blob: bytes) -> dict[str, str]:
    """Tags of an rpm header (rpm, docs/manual/format_header.md), empty for those not there."""
    found = dict.fromkeys(_TAGS.values(), "")
    try:
        count, size = struct.unpack_from(">II", blob)
        if count > _ENTRIES:
            raise Unreadable("a header of a package is damaged")
        store = blob[8 + 16 * count : 8 + 16 * count + size]
        for number in range(count):
            tag, kind, offset, _ = struct.unpack_from(">IIiI", blob, 8 + 16 * number)
            if tag not in _TAGS or not 0 <= offset < len(store):
                continue
            if kind in _TEXTS:
                raw = store[offset : store.find(b"\0", offset)]
                found[_TAGS[tag]] = text_of({"": raw.decode("utf-8", "replace")}, "")
            elif kind == _INT32:
                found[_TAGS[tag]] = str(struct.unpack_from(">I", store, offset)[0])
    except struct.error:
        raise Unreadable("a header of a package is damaged") from None
    return found
