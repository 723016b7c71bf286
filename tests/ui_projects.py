"""A project for pages of which only the histories of its environments are asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest

from histories import GITOPS, NOW
from shipline.deliver.delivery import Delivery
from shipline.deliver.environments import EnvironmentSection
from shipline.git import Git
from shipline.oci import Reference
from shipline.registry.http import HttpClient


def delivery(place: Path, **sections: Mapping[str, object]) -> Delivery:
    """A project with these environments; nothing but their histories is asked."""
    return Delivery(
        git=Git(place, {}),
        root=place,
        home=place,
        environ={},
        repositories=lambda image: pytest.fail("no registry is asked"),
        http=cast(HttpClient, None),
        image=Reference.parse("registry.example/app"),
        environments={
            name: EnvironmentSection(gitops=GITOPS, **keys)  # type: ignore[arg-type]
            for name, keys in sections.items()
        },
        clock=NOW.timestamp,
    )
