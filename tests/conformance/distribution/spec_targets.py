"""The implementations that every test of this directory runs against, as fixtures.

A known deviation of Debian's registry must fail: one that passes has left the table behind.
SHIPLINE_CONFORMANCE_URL names one more registry, for example http://127.0.0.1:5000.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator

import pytest
from deviations import DEVIATIONS

from nodes import node
from spec_client import Target

_OURS, _DEBIAN, _OTHER = "shipline", "docker-registry", "other"
_NUMBERS = itertools.count()
_URL = os.environ.get("SHIPLINE_CONFORMANCE_URL", "")
_IMPLEMENTATIONS = [
    pytest.param(_OURS),
    pytest.param(_DEBIAN, marks=pytest.mark.peers),
    *([pytest.param(_OTHER)] if _URL else []),
]


@pytest.fixture(scope="session")
def our_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with node(tmp_path_factory.mktemp("node") / "data") as running:
        yield running.url


@pytest.fixture(params=_IMPLEMENTATIONS)
def target(request: pytest.FixtureRequest) -> Target:
    """A repository that nobody else uses, in the implementation under test."""
    if request.param == _OURS:
        url = request.getfixturevalue("our_url")
    elif request.param == _DEBIAN:
        url = request.getfixturevalue("registry").url
        if reason := _deviation(request.node):
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    else:
        url = _URL.rstrip("/")
    name = re.sub("[^a-z0-9]+", "-", request.node.originalname.lower()).strip("-")
    return Target(url, f"conformance/{name}-{os.getpid()}-{next(_NUMBERS)}")


def _deviation(node: pytest.Function) -> str | None:
    one = re.sub(f"{_DEBIAN}-?", "", node.name).replace("[]", "")
    return DEVIATIONS.get(node.originalname) or DEVIATIONS.get(one)
