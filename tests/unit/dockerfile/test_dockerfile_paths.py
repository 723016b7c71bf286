"""Paths in instructions, of Linux and of Windows."""

from __future__ import annotations

import pytest

from shipline.dockerfile import resolve_path, shown_path, system_path
from shipline.errors import DockerfileError


@pytest.mark.parametrize(
    ("workdir", "path", "expected"),
    [
        ("/", "a", "/a"),
        ("/a", "../../b", "/b"),
        ("/a", "/b//c/.", "/b/c"),
        ("/a", ".", "/a"),
        ("a", "b", "/a/b"),
        ("//a", "b", "/a/b"),
    ],
)
def test_paths_are_absolute_and_clean(workdir: str, path: str, expected: str) -> None:
    assert resolve_path(workdir, path) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [("b/", "/a/b/"), (".", "/a/"), ("", "/a/"), ("b", "/a/b"), ("/", "/"), ("b/.", "/a/b/")],
)
def test_a_destination_keeps_the_mark_of_a_directory(path: str, expected: str) -> None:
    assert resolve_path("/a", path, keep_slash=True) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [("C:\\a\\b\\", "/a/b/"), ("c:/a", "/a"), ("c:a", "a"), ("a\\b", "a/b"), ("/a", "/a")],
)
def test_a_path_of_windows_is_that_on_drive_c(path: str, expected: str) -> None:
    assert system_path(path, "windows") == expected
    assert system_path(path, "linux") == path


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("D:\\a", "not on the system drive"),
        ("C:", "No relative path specified"),
        ("\\\\host\\share", "UNC paths are not supported"),
    ],
)
def test_a_path_of_windows_elsewhere_is_refused(path: str, message: str) -> None:
    with pytest.raises(DockerfileError, match=message):
        system_path(path, "windows")


def test_a_configuration_of_windows_has_backslashes() -> None:
    assert shown_path("/a/b", "windows") == "\\a\\b"
    assert shown_path("/a/b", "linux") == "/a/b"
