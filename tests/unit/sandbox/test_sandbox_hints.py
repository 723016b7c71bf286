"""What a user is told who cannot use an id."""

from __future__ import annotations

import subprocess
import sys

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
