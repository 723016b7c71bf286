"""Root file systems to run steps in: Debian's static busybox, made once per machine.

root = busybox_root("arm64")       # shared: lay an overlay over it, never write into it
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

_PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
app:x:1000:1000:app:/home/app:/bin/sh
"""
_GROUP = "root:x:0:\ndaemon:x:1:\nwheel:x:10:root,app\naudio:x:29:app\napp:x:1000:\n"


@cache
def busybox_root(architecture: str = "amd64") -> Path:
    """A directory with /bin full of busybox, /etc/passwd and /etc/group; without /dev, /proc."""
    store = _store()
    root = store / f"busybox-{architecture}"
    with (store / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            partial = store / f"busybox-{architecture}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            _fill(partial, _package(store, architecture))
            partial.rename(root)
    return root


def _store() -> Path:
    default = Path("~/.cache/shipline-tests").expanduser()
    store = Path(os.environ.get("SHIPLINE_TEST_CACHE", default)) / "roots"
    store.mkdir(parents=True, exist_ok=True)
    return store


def _package(store: Path, architecture: str) -> Path:
    """Debian's package, by an apt of our own: the machine's architectures stay as they are."""
    apt = store / f"apt-{architecture}"
    for name in ("lists/partial", "cache/archives/partial", "downloads"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    options = [
        *("-o", f"Dir::State::lists={apt / 'lists'}", "-o", f"Dir::Cache={apt / 'cache'}"),
        *("-o", f"APT::Architecture={architecture}", "-o", f"APT::Architectures={architecture}"),
        *("-o", "APT::Sandbox::User=root"),
    ]
    subprocess.run(["apt-get", *options, "-q", "update"], check=True, capture_output=True)
    download = ["apt-get", *options, "-q", "download", f"busybox-static:{architecture}"]
    subprocess.run(download, check=True, capture_output=True, cwd=apt / "downloads")
    return next((apt / "downloads").glob("busybox-static_*.deb"))


def _fill(root: Path, package: Path) -> None:
    subprocess.run(["dpkg", "-x", str(package), str(root)], check=True)
    shutil.rmtree(root / "usr/share")
    found = next(path for path in (root / "bin/busybox", root / "usr/bin/busybox") if path.exists())
    for name in ("bin", "etc", "tmp", "root", "home/app"):
        (root / name).mkdir(parents=True, exist_ok=True)
    busybox = found.rename(root / "bin/busybox")
    shutil.rmtree(root / "usr")
    for applet in _APPLETS.split():
        os.link(busybox, root / "bin" / applet)
    (root / "tmp").chmod(0o1777)
    (root / "etc/passwd").write_text(_PASSWD)
    (root / "etc/group").write_text(_GROUP)


_APPLETS = """
    ash awk base64 basename cat chgrp chmod chown chroot cmp cp cut date dd df dirname dmesg du echo
    egrep env expr false find free grep groups gunzip gzip head hostname id ifconfig ip kill killall
    ln ls md5sum mkdir mkfifo mknod mktemp more mount mv nc nice nohup nslookup nproc ping pgrep ps
    pwd readlink realpath rm rmdir route sed seq setsid sh sha256sum sleep sort stat sync tail tar
    tee test time timeout top touch tr true truncate tty umount uname uniq unshare uptime usleep vi
    wc wget which whoami xargs yes
"""
