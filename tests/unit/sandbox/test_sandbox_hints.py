"""What a user is told who cannot use an id."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ASK = """
import ctypes
from shipline.sandbox.rootless import _more_ids
PR_SET_NO_NEW_PRIVS = 38
before = _more_ids()
ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
print("no_new_privs" in before, _more_ids())
"""


def test_where_newuidmap_gains_no_privileges_more_ids_are_no_cure() -> None:
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False newuidmap cannot map more ids, since this process has")
    assert "usermod" not in done.stdout


CHROOT = """
import os, sys
from shipline.errors import SandboxError
from shipline.sandbox import kernel, private_mounts
kernel.capabilities()  # of /proc, which the new root lacks
os.chroot(sys.argv[1])
try:
    private_mounts()
except SandboxError as error:
    print(error.message, error.hint, sep=": ")
"""


@pytest.mark.root
def test_in_a_chroot_the_root_must_be_mounted(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHROOT, tmp_path], capture_output=True, text=True, check=True
    )
    assert done.stdout == (
        "cannot create a private mount namespace: Invalid argument (/): the root directory is not"
        " a mount point, as in a chroot: run `mount --bind DIR DIR` before `chroot DIR`\n"
    )
