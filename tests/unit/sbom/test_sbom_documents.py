"""Documents about packages: valid, equal for equal inventories, and of bounded size."""

from __future__ import annotations

import json

import pytest

from shipline.sbom import Described, Inventory, cyclonedx, spdx, take_inventory
from shipline.sbom.packages import FileFacts, Package

ABOUT = Described("example.org/a", f"sha256:{'0' * 64}", "image", "2026-01-02T03:04:05.678Z")


def packages(count: int, problem: str = "") -> Inventory:
    facts = (
        FileFacts(
            f"node_modules/p{number}/package.json",
            "npm",
            "1" * 40,
            "2" * 64,
            (Package("npm", f"p{number}", "1.0.0", license="MIT"),),
        )
        for number in range(count)
    )
    gap = [FileFacts("var/lib/rpm/Packages", "files", problem=problem)] if problem else []
    return take_inventory((one, "sha256:layer") for one in [*facts, *gap])


def test_identifiers_are_unique_and_known() -> None:
    document = spdx(packages(50), ABOUT)
    ids = [one["SPDXID"] for key in ("packages", "files") for one in document[key]]
    assert len(ids) == len({*ids}) == 101
    related = {
        relation[key]
        for relation in document["relationships"]
        for key in ("spdxElementId", "relatedSpdxElement")
    }
    assert related == {*ids, "SPDXRef-DOCUMENT"}


def test_equal_inventories_are_equal_documents() -> None:
    for write in (spdx, cyclonedx):
        assert write(packages(5), ABOUT) == write(packages(5), ABOUT)
        assert write(packages(5), ABOUT) != write(packages(6), ABOUT)
    assert spdx(packages(1), ABOUT)["creationInfo"]["created"] == "2026-01-02T03:04:05Z"


def test_a_list_with_gaps_says_so() -> None:
    found = packages(1, "it is damaged")
    comment = spdx(found, ABOUT)["creationInfo"]["comment"]
    assert comment == "incomplete: var/lib/rpm/Packages: it is damaged"
    assert cyclonedx(found, ABOUT)["compositions"] == [{"aggregate": "incomplete"}]
    assert "comment" not in spdx(packages(1), ABOUT)["creationInfo"]


def test_a_big_document_leaves_out_the_files_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shipline.sbom.documents._WITH_FILES", 1 << 20)
    document = spdx(packages(1_200), ABOUT)
    assert len(document["packages"]) == 1_201 and document["files"] == []
    assert len(json.dumps(document)) < 1 << 20
    assert spdx(packages(600), ABOUT)["files"]


def test_more_packages_than_anybody_has_are_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 500
    monkeypatch.setattr("shipline.sbom.inventory.PACKAGES", most)
    found = packages(most + 1)
    assert len(found.packages) == most
    assert "500" in found.gaps[0]
