"""Kernel support for running arm64 programs on another architecture (binfmt_misc and QEMU)."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

_MOUNT = Path("/proc/sys/fs/binfmt_misc")
_DEFINITION = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")


def can_run_arm64() -> bool:
    """Register Debian's handler unless one is there; false where that is not possible.

    The handler belongs to the kernel and stays: other programs may have begun to use it.
    """
    if platform.machine() == "aarch64" or (_MOUNT / "qemu-aarch64").exists():
        return True
    try:
        if not (_MOUNT / "register").exists():
            subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", _MOUNT], check=True)
        if not (_MOUNT / "qemu-aarch64").exists():
            (_MOUNT / "register").write_bytes(_DEFINITION.read_bytes().strip())
    except (OSError, subprocess.CalledProcessError):
        return False
    return True
