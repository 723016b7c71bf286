"""An image in a registry, read into plain values: its file tree, configuration and history.

Written apart from the program under test, on the standard library: layers are applied in memory
in the order of the manifest (OCI image specification, "Image Layer Filesystem Changeset").
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import json
import os
import stat
import tarfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from shipline.values import replace

_ACCEPT = ", ".join(
    f"application/vnd.{name}+json"
    for name in (
        "oci.image.index.v1",
        "oci.image.manifest.v1",
        "docker.distribution.manifest.list.v2",
        "docker.distribution.manifest.v2",
    )
)
RECENT_S = 12 * 3600  # an mtime this close to the present was made by the build itself

HEAD = 400  # bytes
_LAYERS = 16  # as many are kept, of base images in the main: each image of a case has them


@dataclass(frozen=True, slots=True)
class Node:
    """One path of a file tree. `mtime` is None for times that the build itself made."""

    kind: str  # file dir symlink fifo char block
    mode: int
    uid: int
    gid: int
    mtime: int | None
    size: int = 0
    sha256: str = ""
    link: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[str, str] = field(default_factory=dict)
    linked: tuple[str, ...] = field(default=(), compare=False)  # all paths of the inode, if several
    head: str = field(default="", compare=False)  # what of the content a person may look at


@dataclass(frozen=True, slots=True)
class Image:
    """What one platform's manifest stands for. `layers` holds the names in each layer."""

    files: Mapping[str, Node]
    layers: tuple[tuple[str, ...], ...]
    config: Mapping[str, Any]


class RegistryReader:
    """Reads manifests and blobs from a plain HTTP registry."""

    def __init__(self, address: str, repository: str) -> None:
        self._address = address
        self._repository = repository

    def get(self, kind: str, name: str) -> bytes:
        connection = http.client.HTTPConnection(self._address, timeout=30)
        path = f"/v2/{self._repository}/{kind}/{name}"
        connection.request("GET", path, headers={"Accept": _ACCEPT})
        response = connection.getresponse()
        body = response.read()
        connection.close()
        if response.status != 200:
            raise LookupError(f"GET {path} gave {response.status}: {body[:200]!r}")
        return body


def read_images(address: str, repository: str, tag: str) -> dict[str, Image]:
    """The images behind a tag by platform (`linux/arm64`); attestations are left out."""
    reader = RegistryReader(address, repository)
    top = json.loads(reader.get("manifests", tag))
    if "manifests" not in top:
        image = _read_image(reader, top)
        return {f"{image.config['os']}/{image.config['architecture']}": image}
    return {
        "{os}/{architecture}".format(**child["platform"]): _read_image(
            reader, json.loads(reader.get("manifests", child["digest"]))
        )
        for child in top["manifests"]
        if child["platform"]["os"] != "unknown"
    }


def _read_image(reader: RegistryReader, manifest: Mapping[str, Any]) -> Image:
    config = json.loads(reader.get("blobs", manifest["config"]["digest"]))
    tree, layers = Tree(), []
    diff_ids = config["rootfs"]["diff_ids"] or []  # null where there is no layer
    for layer, diff_id in zip(manifest["layers"] or [], diff_ids, strict=True):
        blob = reader.get("blobs", layer["digest"])
        layers.append(tree.apply(_tar(blob, layer["mediaType"], layer["digest"], diff_id)))
    return Image(tree.nodes(), tuple(layers), config)


@lru_cache(_LAYERS)
def _tar(blob: bytes, media_type: str, digest: str, diff_id: str) -> bytes:
    _check(blob, digest)
    tar = gzip.decompress(blob) if "gzip" in media_type else blob
    _check(tar, diff_id)
    return tar


def _check(data: bytes, digest: str) -> None:
    if "sha256:" + hashlib.sha256(data).hexdigest() != digest:
        raise LookupError(f"the bytes are not those of {digest}")


class Tree:
    """A file tree made by applying layers. Inodes are shared by the names that are hard links."""

    def __init__(self) -> None:
        self._inodes: dict[str, list[Node]] = {}  # a list of one, so that links share it

    def apply(self, tar: bytes) -> tuple[str, ...]:
        """Apply one layer; the names in it, sorted, as they stand in the archive."""
        added: set[str] = set()
        names = []
        for path, found in _members(tar):
            names.append(path + "/" * _is_directory(found))
            directory, base = os.path.split(path)
            if base == ".wh..wh..opq":
                self._remove_below(directory, added)
            elif base.startswith(".wh."):
                self._remove(os.path.join(directory, base.removeprefix(".wh.")), added)
            else:
                self._put(path, found)
                added.add(path)
        if len(set(names)) != len(names):
            raise LookupError(f"a layer has names twice: {sorted(names)}")
        return tuple(sorted(names))

    def nodes(self) -> dict[str, Node]:
        """Every path, with the groups of hard links filled in."""
        groups: dict[int, list[str]] = {}
        for path, inode in self._inodes.items():
            groups.setdefault(id(inode), []).append(path)
        return {
            path: replace(inode[0], linked=tuple(sorted(groups[id(inode)])))
            if len(groups[id(inode)]) > 1
            else inode[0]
            for path, inode in self._inodes.items()
        }

    def _put(self, path: str, found: Node | str) -> None:
        """Put a node, or a hard link to the path `found`."""
        if isinstance(found, str):
            if found not in self._inodes:
                raise LookupError(f"{path} is a hard link to {found}, which does not exist")
            self._inodes[path] = self._inodes[found]
            return
        old = self._inodes.get(path)
        if old and old[0].kind == "dir" and not _is_directory(found):
            self._remove(path, set())
        self._inodes[path] = [found]

    def _remove(self, path: str, added: set[str]) -> None:
        self._remove_below(path, added)
        if path not in added:
            self._inodes.pop(path, None)

    def _remove_below(self, path: str, added: set[str]) -> None:
        for name in [n for n in self._inodes if n.startswith(f"{path}/") and n not in added]:
            del self._inodes[name]


_KINDS = {
    tarfile.DIRTYPE: "dir",
    tarfile.SYMTYPE: "symlink",
    tarfile.FIFOTYPE: "fifo",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
}


@lru_cache(_LAYERS)
def _members(tar: bytes) -> tuple[tuple[str, Node | str], ...]:
    """The paths of an archive, in its order, each with its node or the path of its hard link."""
    with tarfile.open(
        fileobj=io.BytesIO(tar), encoding="utf-8", errors="surrogateescape"
    ) as archive:
        return tuple(
            (
                os.path.normpath(member.name.lstrip("/")),
                os.path.normpath(member.linkname.lstrip("/"))
                if member.islnk()
                else _node(member, archive),
            )
            for member in archive
        )


def _is_directory(found: Node | str) -> bool:
    return isinstance(found, Node) and found.kind == "dir"


def _node(member: tarfile.TarInfo, archive: tarfile.TarFile) -> Node:
    kind = _KINDS.get(member.type, "file")
    content = archive.extractfile(member) if member.isreg() else None
    data = content.read() if content else b""
    mtime = int(member.mtime)
    return Node(
        kind=kind,
        mode=0o777 if kind == "symlink" else stat.S_IMODE(member.mode),
        uid=member.uid,
        gid=member.gid,
        mtime=None if abs(mtime - time.time()) < RECENT_S else mtime,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest() if kind == "file" else "",
        head=data[:HEAD].decode(errors="replace"),
        link=member.linkname if kind == "symlink" else "",
        device=(member.devmajor, member.devminor) if kind in ("char", "block") else (0, 0),
        xattrs=dict(_xattrs(member)),
    )


def _xattrs(member: tarfile.TarInfo) -> Iterator[tuple[str, str]]:
    for key, value in member.pax_headers.items():
        if key.startswith("SCHILY.xattr."):
            yield key.removeprefix("SCHILY.xattr."), os.fsencode(value).hex()


def describe(image: Image) -> Iterator[str]:
    """The image as lines for a person: layers with the state of each name, configuration."""
    for number, names in enumerate(image.layers):
        yield f"layer {number}" + (f": {len(names)} names" if len(names) > 100 else "")
        for name in names if len(names) <= 100 else ():
            node = image.files.get(name.rstrip("/"))
            yield f"  {name!r} " + (_describe(node) if node else "")
    for entry in image.config["history"]:
        yield f"history {entry}"
    yield f"config {json.dumps({k: v for k, v in image.config.items() if k != 'history'})}"


def _describe(node: Node) -> str:
    extra = [f"-> {node.link}"] * bool(node.link) + [f"= {node.linked}"] * bool(node.linked)
    extra += [str(dict(node.xattrs))] * bool(node.xattrs) + [str(node.device)] * any(node.device)
    time_text = "now" if node.mtime is None else str(node.mtime)
    return f"{node.kind} {node.mode:o} {node.uid}:{node.gid} {node.size} {time_text} " + " ".join(
        extra
    )
