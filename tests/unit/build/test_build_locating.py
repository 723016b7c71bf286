"""Where the Dockerfile of a build is, and what is said of one that is not there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from shipline.build import BuildRequest, Context, ContextKind
from shipline.build.locating import unreadable_dockerfile


def test_a_directory_that_may_only_be_listed_hides_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for another user: root may read all."""
    (tmp_path / "api.Dockerfile").touch()

    real = os.stat

    def refuse(path: Path, **options: bool) -> os.stat_result:
        if Path(path).name == "api.Dockerfile":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, **options)

    request = BuildRequest(context=Context(ContextKind.LOCAL, str(tmp_path)))
    monkeypatch.setattr(os, "stat", refuse)
    error = unreadable_dockerfile(request, tmp_path / "Nofile", "Nofile", "it is not there")
    assert "build in the directory that has it" in error.hint
