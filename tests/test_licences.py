"""What shipline depends on may be shipped with a program under Apache-2.0."""

from __future__ import annotations

from importlib.metadata import Distribution, distribution

import pytest
from license_expression import get_spdx_licensing
from packaging.requirements import Requirement

LICENSING = get_spdx_licensing()  # reads a list of 2,500 licences
PERMISSIVE = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MIT-0"),
    *("PSF-2.0", "Unlicense", "Zlib"),
}
SPOKEN = {
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "Python Software Foundation License": "PSF-2.0",
    "The MIT License (MIT)": "MIT",
}
"""Names from before SPDX expressions in metadata."""


def dependencies() -> dict[str, Distribution]:
    """shipline and all that an installation without extras brings, by name."""
    found: dict[str, Distribution] = {}
    names = ["shipline"]
    while names:
        name = names.pop()
        if name in found:
            continue
        found[name] = distribution(name)
        wanted = map(Requirement, found[name].requires or ())
        names += [
            one.name.lower()
            for one in wanted
            if one.marker is None or one.marker.evaluate({"extra": ""})
        ]
    return found


def expression(found: Distribution) -> str:
    """Its licence as an SPDX expression; empty if it says none."""
    metadata = found.metadata
    if "License-Expression" in metadata:
        return metadata["License-Expression"]
    text = "\n".join(metadata.get_all("License") or ())
    classified = [
        line.rpartition("::")[2].strip()
        for line in metadata.get_all("Classifier") or ()
        if line.startswith("License ::")
    ]
    names = [text.partition("\n")[0].partition("  ")[0].strip(), *classified]
    return next((SPOKEN.get(name, name) for name in names if name), "")


@pytest.mark.parametrize("name", sorted(dependencies()))
def test_a_dependency_has_a_permissive_licence(name: str) -> None:
    stated = LICENSING.parse(expression(distribution(name)), validate=True)
    assert stated is not None
    options = str(stated.simplify()).split(" OR ")
    permissive = [set(one.strip("() ").split(" AND ")) <= PERMISSIVE for one in options]
    assert any(permissive), f"{name}: {stated}"
