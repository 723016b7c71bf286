"""The Python API: its names change on purpose only."""

from __future__ import annotations

import inspect

from shipline import api

NAMES = {
    "LAYOUT",
    "BuildRequest",
    "BuildResult",
    "Context",
    "ContextKind",
    "Index",
    "Manifest",
    "Output",
    "OutputFormat",
    "build",
    "copy",
    "enter_user_namespace",
    "inspect",
    "open_client",
    "parse_request",
    "push",
    "state_directory",
}


def test_public_names_are_locked() -> None:
    assert set(api.__all__) == NAMES


def test_every_public_name_is_there_and_documented() -> None:
    for name in NAMES - {"LAYOUT"}:
        assert inspect.getdoc(getattr(api, name)), name
