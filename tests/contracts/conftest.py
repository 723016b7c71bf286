"""Every implementation of the protocols of `content`, by name."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nodes import node
from peers import Registry
from shipline.content import LocalStore, MemoryStore, OciLayout, Repository, Store
from shipline.oci import Reference
from shipline.registry import Client

REPOSITORIES = ("memory", "layout", "docker-registry", "node")
STORES = ("local", *REPOSITORIES)
Open = Callable[[], Store]
OpenRepository = Callable[[], Repository]


@pytest.fixture(scope="session")
def node_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of our own registry node, open to everybody."""
    with node(tmp_path_factory.mktemp("node") / "data") as running:
        yield running.address


@pytest.fixture
def open_by_name(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[[str], Repository]]:
    """Makes a new, empty repository of the implementation that is named."""
    numbers = itertools.count()
    with Client() as client:

        def remote(address: str) -> Repository:
            name = f"contracts/{request.node.nodeid.encode().hex()[-100:]}-{next(numbers)}"
            return client.repository(Reference.parse(f"{address}/{name}"))

        def opened(name: str) -> Repository:
            if name == "memory":
                return MemoryStore()
            if name == "layout":
                return OciLayout(tmp_path / f"layout-{next(numbers)}", create=True)
            if name == "node":
                return remote(request.getfixturevalue("node_address"))
            registry: Registry = request.getfixturevalue("registry")
            return remote(registry.address)

        yield opened


@pytest.fixture(params=STORES)
def store(
    request: pytest.FixtureRequest, open_by_name: Callable[[str], Repository], tmp_path: Path
) -> Store:
    """Every Store, empty."""
    if request.param == "local":
        return LocalStore(tmp_path / "store")
    return open_by_name(request.param)


@pytest.fixture(params=REPOSITORIES)
def repository(
    request: pytest.FixtureRequest, open_by_name: Callable[[str], Repository]
) -> Repository:
    """Every Repository, empty."""
    return open_by_name(request.param)
