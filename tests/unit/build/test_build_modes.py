"""--chmod means what chmod(1) means, but that `X` looks at the mode that was there first."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipline.build.placing import parse_mode
from shipline.errors import DockerfileError

_WHO = st.sampled_from(["", "u", "g", "o", "a", "ug", "go", "ugo"])
_LETTERS = st.sampled_from(["", "r", "w", "x", "rw", "rwx", "u", "g", "o"])
_CLAUSE = st.builds("{}{}{}".format, _WHO, st.sampled_from("+-="), _LETTERS)
_EXECUTABLE = st.builds(
    "{}{}{}".format, _WHO, st.sampled_from("+-="), st.sampled_from(["X", "rwX"])
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("modes")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(_CLAUSE, min_size=1, max_size=3).map(",".join) | _EXECUTABLE,
    st.integers(0, 0o777),
    st.booleans(),
)
def test_symbolic_modes_are_those_of_chmod(
    place: Path, text: str, mode: int, is_directory: bool
) -> None:
    victim = place / "victim"
    if is_directory:
        victim.mkdir()
    else:
        victim.touch()
    victim.chmod(mode)
    old = os.umask(0)
    subprocess.run(["chmod", "--", text, victim], check=True)
    os.umask(old)
    expected = victim.stat().st_mode & 0o7777
    if is_directory:
        victim.rmdir()
    else:
        victim.unlink()
    change = parse_mode(text)
    assert change is not None
    assert oct(change(mode, is_directory)) == oct(expected)


def test_octal_modes_replace() -> None:
    change = parse_mode("4755")
    assert change is not None and change(0o600, False) == 0o4755


@pytest.mark.parametrize("text", ["8", "77777", "u", "z+x", "u+q", "rwx", "u=rw,"])
def test_other_text_is_no_mode(text: str) -> None:
    with pytest.raises(DockerfileError):
        parse_mode(text)
