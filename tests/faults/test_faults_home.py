"""The state directory is a cache: whatever is broken in it, the next build gives the right image.

Each kind of file and directory there is broken in each way, and each kind of system call fails. A
run takes a sample with something of each kind, whose seed it prints; SHIPLINE_TEST_SEED repeats
one, SHIPLINE_TEST_ALL=1 takes everything (40 minutes).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import chdir, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from builds import Done, Shipline, command, context, leftovers
from forks import Forks, forking
from peers import Registry

pytestmark = [pytest.mark.peers, pytest.mark.root]

ALL = bool(os.environ.get("SHIPLINE_TEST_ALL"))
KILLS, CALLS = (200, 120) if ALL else (5, 4)
DOCKERFILE = """
FROM busybox
WORKDIR /app
COPY page /app/page
RUN --mount=type=cache,target=/c cat /app/page > /copy && touch /c/used && seq 300000 > /noise
COPY big /big/
COPY --from=busybox /bin/busybox /second
RUN wc -c /noise /big/* > /size && rm /copy
"""
LAST = "RUN sha256sum /noise /second /big/* /size > /sums\n"

ENTRIES = (
    *("content", "content/blobs", "content/blobs/sha256", "content/blobs/sha512"),
    *("content/blobs/sha256/*", "cache.db", "cache.db-wal", "cache.db-shm"),
    *("layers", "layers/.locks", "layers/.locks/*", "layers/[0-9a-f]*"),
    *("layers/*/fs", "layers/*/layer.tar", "layers/*/index.erofs", "layers/*/complete"),
    *("layers/*/base.tar", "layers/*/base.erofs", "layers/*/extents"),
    *("layers/*/synced", "layers/*/size", "toc", "toc/*", "stat", "stat/*"),
    *("mounts", "mounts/*", "mounts/*/0", "mounts/*/0.lock", "mounts/*/0.size"),
    *("tmp", "use.lock", "work.lock", "."),
)


def wipe(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)


def empty(path: Path) -> None:
    is_directory = path.is_dir()
    wipe(path)
    path.mkdir() if is_directory else path.touch()


def half(path: Path) -> None:
    """Every second name of a directory, the first half of a file."""
    if path.is_dir():
        for inside in sorted(path.iterdir())[::2]:
            wipe(inside)
    else:
        path.chmod(0o644)
        os.truncate(path, path.stat().st_size // 2)


def garbage(path: Path) -> None:
    if path.is_dir():
        (path / "garbage").write_bytes(b"no")
        (path / ("0" * 64)).write_bytes(b"no")
        (path / ("1" * 64)).mkdir()
    else:
        path.chmod(0o644)
        path.write_bytes(b"garbage" * 1000)


def flip(path: Path) -> None:
    if path.is_file() and path.stat().st_size:
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
            file.write(b"\x10\xef")


def newer(path: Path) -> None:
    """As a later version may write it."""
    if path.name == "cache.db":
        with closing(sqlite3.connect(path)) as records:
            records.execute("PRAGMA user_version = 99")
    elif path.is_file():
        path.write_bytes(path.read_bytes()[:20].replace(b"1", b"9").replace(b"2", b"9") + b"later")


def other_kind(path: Path) -> None:
    is_directory = path.is_dir()
    wipe(path)
    if is_directory:
        path.write_bytes(b"a file")
    else:
        (path / "inside").mkdir(parents=True)


def dangling(path: Path) -> None:
    wipe(path)
    path.symlink_to("/nowhere/at/all")


def loop(path: Path) -> None:
    wipe(path)
    path.symlink_to(path.name)


def elsewhere(path: Path) -> None:
    """What people do when a disk is full: this is not damage."""
    away = Path(f"{os.environ['AWAY']}/{os.urandom(4).hex()}")
    path.rename(away)
    path.symlink_to(away)


def fifo(path: Path) -> None:
    wipe(path)
    os.mkfifo(path)


def bound_socket(path: Path) -> None:
    wipe(path)
    with socket.socket(socket.AF_UNIX) as one, chdir(path.parent):
        one.bind(path.name)


def closed(path: Path) -> None:
    path.chmod(0)


def anothers(path: Path) -> None:
    os.chown(path, 1000, 1000)


Harm = Callable[[Path], None]
HARMS: tuple[Harm, ...] = (
    *(wipe, empty, half, garbage, flip, newer, other_kind, dangling, loop, elsewhere, fifo),
    *(bound_socket, closed, anothers),
)


@dataclass(frozen=True)
class Site:
    """A context, a home that has built it, and the image that comes next."""

    source: Path
    healthy: Path
    work: Path
    mirror: str
    forks: Forks
    wanted: str

    def home(self, name: str, *, copied: bool = True) -> Path:
        place = self.work / name
        wipe(place)
        if copied:
            subprocess.run(["cp", "-a", "--sparse=always", self.healthy, place], check=True)
        return place

    def words(self, home: Path) -> tuple[str, ...]:
        out = f"type=oci,dest={home}.tar,rewrite-timestamp=true"
        epoch = "SOURCE_DATE_EPOCH=1700000000"
        return ("build", "--progress=plain", "--build-arg", epoch, "-o", out,
                "--metadata-file", f"{home}.json", str(self.source))  # fmt: skip

    def environment(self, home: Path) -> dict[str, str]:
        return Shipline(home, self.mirror, {"DOCKER_CONFIG": str(self.work)}).environ()

    def build(self, home: Path) -> tuple[Done, str]:
        """How a build ended, and the digest of its image."""
        metadata = Path(f"{home}.json")
        metadata.unlink(missing_ok=True)
        done = self.forks.run(*self.words(home), environment=self.environment(home))
        found = json.loads(metadata.read_text()) if metadata.exists() else {}
        return done, found.get("containerimage.digest", "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, base_images: Registry) -> Iterator[Site]:
    work = tmp_path_factory.mktemp("homes")
    source = context(work / "context", DOCKERFILE, page="content " * 10_000)
    (source / ".dockerignore").write_text("Dockerfile\n")
    (source / "big").mkdir()
    for number in range(66):  # big enough for a tar that is shared
        (source / f"big/{number}").write_bytes(bytes(1 << 20))
    (source / "big/zz").write_text("first")
    (work / "away").mkdir()
    os.environ["AWAY"] = str(work / "away")
    with forking(work / "commands") as forks:
        site = Site(source, work / "healthy", work, base_images.address, forks, "")
        site.build(site.healthy)[0].ok()
        (source / "big/zz").write_text("second")
        site.build(site.healthy)[0].ok()
        assert len(list(site.healthy.glob("layers/*/base.tar"))) == 1
        (source / "Dockerfile").write_text(DOCKERFILE + LAST)
        done, wanted = site.build(site.home("first"))
        assert "WARN" not in done.ok().err
        yield Site(source, site.healthy, work, base_images.address, forks, wanted)


def seeded() -> random.Random:
    seed = int(os.environ.get("SHIPLINE_TEST_SEED") or random.randrange(1 << 32))
    print("seed", seed)
    return random.Random(seed)


def problems(site: Site, home: Path) -> list[str]:
    """What is wrong with the next two builds: the first repairs, the second has nothing to do."""
    found = []
    for name in ("repair", "after it"):
        done, digest = site.build(home)
        if done.status != 0 or "Traceback" in done.err:
            found.append(f"{name}: exit {done.status}: {done.err[-700:]}")
        elif digest != site.wanted:
            found.append(f"{name}: another image")
        elif name != "repair" and "was damaged" in done.err:
            found.append(f"{name}: {done.err[:500]}")
    return found + [f"left: {one}" for one in leftovers(home) if not found]


def is_repaired(entry: str, harm: Harm) -> bool:
    """Not so, by design: a home of the wrong kind, which may be anything of the user; content
    of files that steps mount, which is not read again (ARCHITECTURE.md); strange files in tmp.
    """
    if entry == ".":
        return harm in (wipe, empty, half, garbage, elsewhere, closed, anothers)
    if entry == "tmp":
        return harm is not garbage
    return harm is not flip or not entry.endswith((".tar", ".erofs"))


Case = tuple[str, Harm]


def _sample(chance: random.Random, cases: list[Case]) -> list[Case]:
    """Each harm once, and something of each part of the home."""
    parts = {entry: entry.partition("/")[0].partition("-")[0] for entry, _ in cases}
    found = [chance.choice([one for one in cases if one[1] is harm]) for harm in HARMS]
    for part in sorted(set(parts.values()) - {parts[entry] for entry, _ in found}):
        found.append(chance.choice([one for one in cases if parts[one[0]] == part]))
    return found


def test_whatever_is_broken_is_repaired(site: Site) -> None:
    chance = seeded()
    cases = [(entry, harm) for entry in ENTRIES for harm in HARMS if is_repaired(entry, harm)]
    failed = {}
    for pattern, harm in cases if ALL else _sample(chance, cases):
        home = site.home("broken")
        paths = [home] if pattern == "." else sorted(home.glob(pattern)) or [home / pattern]
        path = chance.choice(paths)
        if "*" in path.name or not path.parent.exists():
            continue
        if not path.exists():
            path.touch()
        harm(path)
        if found := problems(site, home):
            failed[f"{path.relative_to(home)}: {harm.__name__}"] = found
    assert failed == {}


@pytest.mark.parametrize("harm", [other_kind, dangling, loop, fifo])
def test_what_is_no_directory_at_all_is_named(site: Site, harm: Harm) -> None:
    """It may be anything of the user's: it is not removed."""
    home = site.home("named")
    harm(home)
    said = site.build(home)[0].failed(10)
    assert f"the state directory is {home}: it has to be a directory" in said
    wipe(home)
    assert problems(site, home) == []


@pytest.mark.parametrize("name", [".", "content/blobs/sha256", "toc", "tmp"])
def test_what_cannot_be_changed_is_named_with_its_cure(site: Site, name: str) -> None:
    home = site.home("immutable")
    if subprocess.run(["chattr", "+i", home / name], capture_output=True).returncode:
        pytest.skip("the file system has no immutable files")
    try:
        assert "chattr -R -i" in site.build(home)[0].failed(10)
    finally:
        subprocess.run(["chattr", "-i", home / name], check=True)
    assert problems(site, home) == []


def test_a_home_on_overlayfs_works_as_in_a_container_without_volumes(site: Site) -> None:
    places = {name: site.work / f"overlay-{name}" for name in ("lower", "upper", "work", "root")}
    for place in places.values():
        place.mkdir()
    options = ",".join(f"{name}dir={places[name]}" for name in ("lower", "upper", "work"))
    subprocess.run(["mount", "-t", "overlay", "-o", options, "o", places["root"]], check=True)
    try:
        done, digest = site.build(places["root"] / "home")
        assert "steps change files in memory" in done.ok().err
        assert digest == site.wanted
        done, digest = site.build(places["root"] / "home")
        assert (digest, done.ok().err.count("CACHED")) == (site.wanted, 8)
    finally:
        subprocess.run(["umount", places["root"]], check=True)


def test_a_build_after_a_killed_one_is_right(site: Site) -> None:
    """Killed at any moment, alone, beside another or beside a prune that is killed too, in a new
    home or one that is known.
    """
    chance = seeded()
    failed = {}
    for number in range(KILLS):
        home = site.home("killed", copied=number % 2 == 1)
        after_s = chance.uniform(0.0, 0.4 if number % 2 else 1.5)
        first = site.forks.start(
            *site.words(home), environment=site.environment(home), kill_s=after_s
        )
        if number % 4 == 1:
            prune, at_s = ("prune", "--all", "--force"), chance.uniform(0.0, 0.2)
            site.forks.run(*prune, environment=site.environment(home), killed_after_s=at_s)
        if number % 3 == 0:  # in the middle of one that goes on
            found = problems(site, home)
            site.forks.result(first)
        else:
            site.forks.result(first)
            found = problems(site, home)
        if found:
            failed[f"{number}: killed after {after_s:.4f} s"] = found
    assert failed == {}


FAILING = {
    "write,pwrite64,writev": ("ENOSPC", "EIO"),
    "fsync,fdatasync": ("EIO", "ENOSPC"),
    "rename,renameat,renameat2": ("EIO", "ENOSPC", "EROFS"),
    "link,linkat": ("EIO", "ENOSPC", "EROFS"),
    "mkdir,mkdirat": ("EIO", "ENOSPC", "EROFS"),
    "unlink,unlinkat,rmdir": ("EIO", "EROFS"),
    "ftruncate,fallocate": ("EIO", "ENOSPC"),
    "sendfile,copy_file_range": ("EIO", "ENOSPC"),
    "setxattr,fsetxattr,lsetxattr": ("ENOSPC", "EIO"),
    "fchown,fchownat,lchown,fchmod,fchmodat,utimensat": ("EIO", "EROFS"),
    "mknod,mknodat,symlink,symlinkat": ("ENOSPC", "EIO"),
    "mount,fsmount,move_mount": ("ENOSPC", "EINVAL"),
}
"""System calls that change something, of a build and of all that it starts, and how they fail."""


def test_a_build_after_one_whose_system_call_failed_is_right(site: Site, tmp_path: Path) -> None:
    """It fails, or kills the program, in the first build, which says so in one message."""
    chance = seeded()
    failed = {}
    for number in range(CALLS):
        calls = chance.choice(list(FAILING))
        fault = chance.choice([f"error={one}" for one in FAILING[calls]] + ["signal=KILL"])
        place = f"{calls}:{fault}:when={chance.choice((1, 1, 1, 2, 2, 3, 4, 7, 12))}"
        home = site.home("failing", copied=number % 2 == 1)
        done = subprocess.run(
            ["strace", "-f", "-qqq", "--seccomp-bpf", "-o", tmp_path / "trace", "-e",
             f"trace={calls}", "-e", f"inject={place}", *command(), *site.words(home)[1:]],
            env=site.environment(home), capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        found = []
        if "Traceback" in done.stderr or (done.returncode > 0 and "╭─" not in done.stderr):
            found.append(f"exit {done.returncode}: {done.stderr[-700:]}")
        if found := found + problems(site, home):
            failed[place] = found
    assert failed == {}
