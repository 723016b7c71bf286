"""Licences as they are written, and the SPDX expressions that they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from license_expression import get_spdx_licensing

from shipline.sbom.licenses import expression, joined, references

SPDX = get_spdx_licensing()


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("MIT", "MIT"),
        ("Expat", "MIT"),
        ("GPL-2+", "GPL-2.0-or-later"),
        ("GPL-2", "GPL-2.0-only"),
        ("GPL-2.0", "GPL-2.0-only"),
        ("GPLv2+ and MIT", "GPL-2.0-or-later AND MIT"),
        ("LGPL-2.1+ or Artistic", "LGPL-2.1-or-later OR Artistic-1.0-Perl"),
        ("GPL-2+ with OpenSSL exception", "(GPL-2.0-or-later AND LicenseRef-with-OpenSSL)"),
        ("GPL-2.0-only WITH Linux-syscall-note", "GPL-2.0-only WITH Linux-syscall-note"),
        ("MIT OR (Apache-2.0 AND X)", "MIT OR (Apache-2.0 AND LicenseRef-X)"),
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("BSD", "LicenseRef-BSD"),
        ("GFDL-1.3+", "GFDL-1.3-or-later"),
        ("Apache-2.0 AND (MIT", "LicenseRef-Apache-2.0-AND-MIT"),
        ("", ""),
        ("UNKNOWN", ""),
        ("Permission is hereby granted " * 30, ""),
    ],
)
def test_licences_are_expressions_of_spdx(written: str, meant: str) -> None:
    assert expression(written) == meant


@given(st.text(max_size=60))
def test_any_text_is_a_valid_expression_or_none(text: str) -> None:
    found = expression(text)
    unknown = SPDX.unknown_license_keys(found) if found else []
    assert all(name in references(found) for name in unknown)


def test_licences_are_joined_once() -> None:
    texts = ["MIT and ISC", "ISC", "GPL-2 or MIT", "GPL-2 or MIT", ""]
    assert joined(texts) == "MIT AND ISC AND (GPL-2.0-only OR MIT)"
    assert joined(["GPL-2 or MIT"]) == "GPL-2.0-only OR MIT"
    assert joined([]) == ""
