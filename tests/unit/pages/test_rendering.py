"""Pages are escaped, complete, and may load nothing from elsewhere."""

from __future__ import annotations

import gzip
import re

import pytest
from jinja2 import UndefinedError

from shipline.pages import SECURITY_HEADERS, Frame, Link, asset, render, render_part
from shipline.values import replace

FRAME = Frame(
    "registry.example", 1_764_000_000.0, navigation=(Link("Images", "/", True),), account="<alice>"
)


def page(frame: Frame = FRAME, message: str = "") -> str:
    return render("problem.html", frame=frame, title="Not found", message=message).decode()


def test_what_is_shown_is_escaped() -> None:
    html = page(message="""<script>alert(1)</script>"'""")
    assert "&lt;script&gt;" in html and "<script>alert" not in html
    assert "&lt;alice&gt;" in html and "<alice>" not in html


def test_commands_in_messages_are_code_and_escaped() -> None:
    html = page(message="run `shipline <init>` & see `")
    assert "<p>run <code>shipline &lt;init&gt;</code> &amp; see <code></code></p>" in html


def test_a_missing_value_is_an_error_not_a_blank() -> None:
    with pytest.raises(UndefinedError):
        render("problem.html", frame=FRAME)


def test_pages_have_nothing_inline_and_the_policy_forbids_it() -> None:
    html = page()
    assert "<style" not in html and " style=" not in html and not re.search(r"\son\w+=", html)
    assert re.findall(r"<script(?! src=)", html) == []
    policy = dict(SECURITY_HEADERS)["Content-Security-Policy"]
    assert "unsafe" not in policy and "frame-ancestors 'none'" in policy


def test_a_page_that_stands_alone_loads_nothing() -> None:
    html = page(replace(FRAME, standalone=True, navigation=()))
    assert "<script" not in html and "<link" not in html and "--ground:" in html
    assert not re.search(r"""(?:href|src|action)=["']/""", html.partition("<main")[0])


def test_assets_are_kept_for_ever_under_their_fingerprint_and_asked_for_otherwise() -> None:
    path, fingerprint = re.findall(r'href="/-/assets/(style\.css)\?v=([0-9a-f]+)"', page())[0]
    found = asset(path)
    assert found is not None and b"--ground:" in gzip.decompress(found.content)
    assert "immutable" in dict(found.headers(fingerprint))["Cache-Control"]
    assert dict(found.headers("0"))["Cache-Control"] == "no-cache"
    assert asset("../rendering.py") is None and asset("nothing.css") is None


def test_a_part_is_what_the_page_has_in_its_place() -> None:
    part = render_part("macros.html", "when", {"moment": FRAME.made - 7200}, frame=FRAME)
    assert "2\u00a0h ago" in part
