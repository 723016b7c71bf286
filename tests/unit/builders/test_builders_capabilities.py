"""What a driver cannot do is refused before anything is sent, with the drivers that can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shipline.build import BuildRequest, parse_request
from shipline.builders.capabilities import CAPABILITIES, Capability, require_capable
from shipline.errors import BuilderError

ROOT = Path(__file__).parents[3]


def asked(*flags: tuple[str, Any], context: str = ".") -> BuildRequest:
    return parse_request(context, {}, **dict(flags))


@pytest.mark.parametrize(
    "driver, flags, what, able",
    [
        ("remote", [("resource", ["memory=1g"])], "--resource", "native"),
        ("docker", [("cache_to", ["type=s3,bucket=b,region=r"])], "type=s3", "remote"),
        ("docker (own image store)", [("platform", ["linux/amd64,linux/arm64"])], "several", ""),
        ("docker (own image store)", [("output", ["type=oci,dest=x"])], "type=oci", "remote"),
        ("docker-container", [("output", ["type=oci,tar=false,dest=x"])], "tar=false", "native"),
        (
            "docker (own image store)",
            [("cache_from", ["type=local,src=x"])],
            "type=local",
            "remote",
        ),
    ],
)
def test_what_a_driver_cannot_do_is_refused(
    driver: str, flags: list[tuple[str, Any]], what: str, able: str
) -> None:
    with pytest.raises(BuilderError, match=what) as raised:
        require_capable("farm", driver, asked(*flags))
    assert "native" in raised.value.hint and able in raised.value.hint
    require_capable("native", "native", asked(*flags))


def test_a_refusal_has_the_words_of_buildx() -> None:
    flags = ("platform", ["linux/amd64,linux/arm64"])
    said = "^Multi-platform build is not supported for the docker driver: the builder farm "
    with pytest.raises(BuilderError, match=said):
        require_capable("farm", "docker (own image store)", asked(flags))


def test_the_documents_have_the_table() -> None:
    head = ["", *(f"`{name}`" if "(" not in name else name for name in CAPABILITIES)]
    rows = [head, ["---"] * len(head)]
    for one in Capability:
        rows.append([one, *("yes" if one in has else "" for has in CAPABILITIES.values())])
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    assert table in (ROOT / "docs/builders.md").read_text(), table
