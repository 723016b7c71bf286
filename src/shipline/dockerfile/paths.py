"""Paths in instructions: relative to the working directory, and those of Windows."""

from __future__ import annotations

import posixpath

from shipline.errors import DockerfileError

_WINDOWS = "windows"


def system_path(path: str, os: str) -> str:
    """`path` as a layer has it: one of Windows is on drive C:, and written with `/`.

    Raises DockerfileError for one of Windows that is elsewhere.
    """
    if os != _WINDOWS:
        return path
    drive, colon, rest = (path := path.replace("\\", "/")).partition(":")
    if path.startswith("//"):
        raise DockerfileError("UNC paths are not supported", hint="write a path on drive C:")
    if not colon:
        return path
    if drive.lower() != "c":
        raise DockerfileError(
            "removing drive letter: The specified path is not on the system drive (C:)",
            hint=f"write C:{rest}",
        )
    if not rest:
        raise DockerfileError(
            f'removing drive letter: No relative path specified in "{path}"', hint="write C:/"
        )
    return rest


def is_absolute(path: str, platform: str) -> bool:
    """Whether `path` is absolute on `platform`; one that it cannot have is not."""
    try:
        return system_path(path, platform.partition("/")[0].partition("(")[0]).startswith("/")
    except DockerfileError:
        return False


def shown_path(path: str, os: str) -> str:
    """`path` of a layer as a configuration has it."""
    return path.replace("/", "\\") if os == _WINDOWS else path


def resolve_path(workdir: str, path: str, *, keep_slash: bool = False) -> str:
    """`path` relative to `workdir`, absolute and normalised.

    `keep_slash` keeps the final `/` or `.` that makes a destination of COPY a directory.
    """
    clean = posixpath.normpath("/" + posixpath.join(workdir, path).lstrip("/"))
    wanted = path.endswith("/") or posixpath.basename(path) in ("", ".")
    return clean + "/" if keep_slash and wanted and clean != "/" else clean


def working_directory(workdir: str, path: str) -> str:
    """The WorkingDir that WORKDIR sets; an absolute path is kept as written."""
    return path if path.startswith("/") else resolve_path(workdir, path)
