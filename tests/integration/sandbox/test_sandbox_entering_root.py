"""Which ids a user gets, and what is out of reach without them."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from shipline.sandbox import enter_user_namespace, require_ids
from shipline.sandbox.rootless import owners_suffix


@pytest.mark.root
def test_root_stays_and_gives_every_id() -> None:
    enter_user_namespace()
    assert owners_suffix() == ""
    require_ids(uids=(0, 2**32 - 2), gids=(5,))


@pytest.mark.root
def test_in_a_namespace_only_mapped_ids_are_in_reach() -> None:
    program = """
        from shipline.errors import SandboxError
        from shipline.sandbox import owners_suffix, require_ids
        require_ids(uids=(0, 9), gids=(0, 4))
        for ids in ({"uids": (10,)}, {"gids": (5,)}):
            try:
                require_ids(**ids)
            except SandboxError as error:
                print(error, error.hint, sep=" | ")
        print(owners_suffix())
    """
    maps = ("--map-users=0:0:10", "--map-groups=0:0:5")
    command = ("unshare", "--user", *maps, sys.executable, "-c", textwrap.dedent(program))
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    uid, gid, suffix = done.stdout.splitlines()
    assert "uid 10 " in uid and "gid 5 " in gid and "usermod --add-sub" in uid and len(suffix) == 9
