"""USER and --chown mean inside an image what Docker makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.errors import UsageError
from shipline.sandbox import ProcessUser, find_owner, find_user, needs_files, owner_of, user_of

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
# a comment
broken
app:x:1000:100:App:/home/app:/bin/sh
app:x:2000:200:second of the name:/second:/bin/sh
nohome:x:7:8:::
"""
GROUP = "root:x:0:\nwheel:x:10:root,app\nusers:x:100:app\nbroken:x\nstaff:x:50:app,other\n"
MOST = 2**32 - 2


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("", ProcessUser(0, 0, (0, 10), "/root")),
        ("root", ProcessUser(0, 0, (0, 10), "/root")),
        ("0", ProcessUser(0, 0, (0, 10), "/root")),
        ("app", ProcessUser(1000, 100, (100, 10, 50), "/home/app")),
        ("1000", ProcessUser(1000, 100, (100, 10, 50), "/home/app")),
        ("app:", ProcessUser(1000, 100, (100, 10, 50), "/home/app")),
        ("app:staff", ProcessUser(1000, 50, (50,), "/home/app")),
        ("app:77", ProcessUser(1000, 77, (77,), "/home/app")),
        ("4242", ProcessUser(4242, 0, (0,), "/")),
        ("4242:staff", ProcessUser(4242, 50, (50,), "/")),
        (":staff", ProcessUser(0, 50, (50,), "/root")),
        ("nohome", ProcessUser(7, 8, (8,), "/")),
        (str(MOST), ProcessUser(MOST, 0, (0,), "/")),
    ],
)
def test_a_user_is_ids_groups_and_home(text: str, user: ProcessUser) -> None:
    assert user_of(text, PASSWD, GROUP) == user


def owner(text: str, passwd: str = PASSWD, group: str = GROUP) -> tuple[tuple[int, int], str]:
    """The ids, and what is taken instead of names that are not known."""
    told: list[str] = []
    ids = owner_of(text, passwd, group, lambda error, instead: told.append(instead))
    return ids, ", ".join(told)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("app", (1000, 100)),
        ("app:staff", (1000, 50)),
        ("app:", (1000, 0)),
        ("5", (5, 5)),
        ("5:", (5, 0)),
        ("5:6", (5, 6)),
        ("5:staff", (5, 50)),
        ("app:6", (1000, 6)),
        (":6", (0, 6)),
        ("root:6", (0, 6)),
    ],
)
def test_an_owner_is_two_ids(text: str, ids: tuple[int, int]) -> None:
    assert owner(text) == (ids, "")


@pytest.mark.parametrize(
    ("text", "ids", "instead"),
    [
        ("ghost", (0, 0), "root"),
        ("ghost:6", (0, 6), "root"),
        ("-1", (0, 0), "root"),
        ("²", (0, 0), "root"),
        ("app:ghosts", (1000, 100), "the user's own group"),
        ("5:ghosts", (5, 5), "the user's own group"),
        ("ghost:ghosts", (0, 0), "root, the user's own group"),
    ],
)
def test_an_owner_that_the_image_does_not_know_is_replaced(
    text: str, ids: tuple[int, int], instead: str
) -> None:
    assert owner(text) == (ids, instead)


def test_only_names_need_the_files_of_an_image() -> None:
    assert not any(map(needs_files, ("5", "5:6", "root", "root:root", ":5", "5:", "")))
    assert all(map(needs_files, ("app", "5:app", "app:5")))
    assert owner("root:root", "", "") == ((0, 0), "")


@pytest.mark.parametrize("text", ["ghost", "app:ghosts", "-1", "4294967295", "1:4294967295", "²"])
def test_what_the_image_does_not_know_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        user_of(text, PASSWD, GROUP)


@pytest.mark.parametrize("text", ["4294967295", "1:4294967295", "9" * 5000])
def test_an_id_that_is_too_large_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="the highest is 4294967294") as caught:
        owner(text)
    assert "lower number" in caught.value.hint


@given(st.integers(0, MOST), st.integers(0, MOST))
def test_numbers_need_no_files(uid: int, gid: int) -> None:
    assert owner(f"{uid}:{gid}", "", "") == ((uid, gid), "")
    assert user_of(f"{uid}:{gid}", "", "") == ProcessUser(uid, gid, (gid,), "/")


@given(st.text(), st.text())
def test_no_content_of_the_files_breaks_the_lookup(passwd: str, group: str) -> None:
    assert user_of("0:0", passwd, group).uid == 0


@pytest.mark.parametrize("number", ["²", "9" * 5000, "4294967295", "-1", ""])
def test_lines_with_ids_that_are_none_do_not_count(number: str) -> None:
    passwd = f"app:x:{number}:1::/:\napp:x:1:{number}::/:\napp:x:3:4::/app:\n"
    group = f"one:x:{number}:app\none:x:5:app\n"
    assert user_of("app", passwd, group) == ProcessUser(3, 4, (4, 5), "/app")
    assert user_of("app:one", passwd, group).gid == 5


def test_the_files_are_those_of_the_root_whatever_its_links_say(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "real").mkdir(parents=True)
    outside.mkdir()
    (outside / "passwd").write_text("app:x:666:666::/:\n")
    (root / "real/passwd").write_text(PASSWD)
    (root / "real/group").write_text(GROUP)
    (root / "etc").symlink_to("/real")
    assert find_user(root, "app").uid == 1000 and find_owner(root, "app:staff", print) == (1000, 50)
    (root / "etc").unlink()
    (root / "etc").symlink_to("../outside")
    with pytest.raises(UsageError):
        find_user(root, "app")
    assert find_owner(root, "app", print) == (0, 0)
