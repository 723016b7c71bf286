"""Which ids a user gets, and what is out of reach without them."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.errors import SandboxError
from shipline.sandbox import require_ids
from shipline.sandbox.rootless import free_range, id_map, subordinate_ranges

SUBIDS = "root:1:2\nann:100000:65536\n\n1000:300000:10\nbad:x:1\nann:7\n# ann:5:6\nann:400000:0\n"


@pytest.mark.parametrize(
    ("names", "ranges"),
    [
        (("ann",), ((100000, 65536),)),
        (("ann", "1000"), ((100000, 65536), (300000, 10))),
        (("an",), ()),
        (("bad",), ()),
    ],
)
def test_ranges_are_those_of_the_user(names: tuple[str, ...], ranges: tuple[object, ...]) -> None:
    assert subordinate_ranges(SUBIDS, *names) == ranges


def test_ids_that_are_proposed_belong_to_nobody_in_either_file() -> None:
    assert free_range("", "") == (100_000, 65_536)
    assert free_range("ann:100000:65536\n", "") == (165_536, 65_536)
    assert free_range("ann:100000:65536\n", "bob:165536:65536\nbad\n") == (231_072, 65_536)
    assert free_range("ann:500000:65536\nbob:120000:10\n", "") == (120_010, 65_536)


RANGES = st.lists(st.tuples(st.integers(1, 2**31), st.integers(1, 2**20)), max_size=5)


@given(st.integers(1, 2**31), RANGES)
def test_ids_have_no_gap_and_begin_with_the_user(own: int, ranges: list[tuple[int, int]]) -> None:
    numbers = id_map(own, ranges)
    lines = [(numbers[i], numbers[i + 1], numbers[i + 2]) for i in range(0, len(numbers), 3)]
    assert lines[0] == (0, own, 1)
    assert [(outside, count) for _, outside, count in lines[1:]] == ranges
    ends = [inside + count for inside, _, count in lines]
    assert [inside for inside, _, _ in lines] == [0, *ends[:-1]]


def test_a_process_with_threads_stays_as_it_is() -> None:
    program = """
        import os, threading
        from shipline.errors import SandboxError
        from shipline.sandbox import enter_user_namespace
        if os.geteuid() == 0:
            os.setgroups([]); os.setgid(65534); os.setuid(65534)
        wait = threading.Event()
        threading.Thread(target=wait.wait).start()
        before = open("/proc/self/uid_map").read()
        try:
            enter_user_namespace()
        except SandboxError as error:
            print(open("/proc/self/uid_map").read() == before, error)
        wait.set()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("True a process with several threads")


def test_the_error_of_an_id_is_a_sandbox_error() -> None:
    with pytest.raises(SandboxError, match="uid 4294967295"):
        require_ids(uids=(2**32 - 1,))
