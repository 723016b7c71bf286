"""Whoever asks for a build is refused the same things: the command line, `ship`, the API."""

from __future__ import annotations

from pathlib import Path

import pytest

from shipline import api
from shipline.errors import UsageError

CONTEXT = api.Context(api.ContextKind.LOCAL, ".")


@pytest.mark.parametrize(
    ("request_", "named"),
    [(api.BuildRequest(CONTEXT, outputs=(api.Output("image", push=True),)), "--push")],
)
def test_the_api_refuses_what_the_command_line_refuses(
    request_: api.BuildRequest, named: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=named):
        api.build(request_, home=tmp_path)
    assert list(tmp_path.iterdir()) == []
