"""Peers that a whole test session shares, each started when the first test asks for it; and what
several modules of tests begin with.
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from commands import hash_cheaply
from nodes import Node, node
from peers import (
    ActionsCache,
    Containerd,
    Docker,
    Podman,
    Registry,
    S3Service,
    actions_cache,
    azurite,
    containerd,
    docker_registry,
    dockerd,
    moto_server,
    newest,
    podman,
    push_base_images,
)
from promotions import CHAIN, Delivered, Published, delivered, publish

# Commands that tests run by name are those of this interpreter's environment; and how long one
# example takes says nothing on a machine that does other things too.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
settings.register_profile("tests", deadline=None, max_examples=20)
settings.register_profile("all", deadline=None, max_examples=100)  # make test, and so CI
settings.load_profile("tests")


gc.disable()  # until all tests are collected: they stay, and make a million objects


def pytest_collection_finish() -> None:
    """Collect garbage from here on, and only what tests make."""
    gc.freeze()
    gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what CI may not skip: there, everything that a test needs is to be installed."""
    for report in terminalreporter.stats.get("skipped", []) if os.environ.get("CI") else []:
        terminalreporter.write_line(f"skipped in CI: {report.nodeid}: {report.longrepr}", red=True)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run in which a test was skipped fails in CI."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter is not None and reporter.stats.get("skipped")
    if os.environ.get("CI") and skipped and not exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked `root` where this process is not."""
    if item.get_closest_marker("root") and os.geteuid():
        pytest.skip("needs root")


def _need(*programs: str, root: bool = False) -> None:
    """Skip the test where a peer is not installed or may not run."""
    if missing := [program for program in programs if not shutil.which(program)]:
        pytest.skip(f"needs {', '.join(missing)}")
    if root and os.geteuid():
        pytest.skip("needs root")


@pytest.fixture
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """scrypt costs nothing for what is stored while the test runs."""
    hash_cheaply(monkeypatch.setattr)


@pytest.fixture(scope="session")
def peers_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session's peers keep data and logs."""
    return tmp_path_factory.mktemp("peers")


@pytest.fixture(scope="session")
def registry(peers_directory: Path) -> Iterator[Registry]:
    """Debian's docker-registry over plain HTTP, without authentication."""
    _need("docker-registry")
    with docker_registry(peers_directory) as running:
        yield running


@pytest.fixture(scope="session")
def s3_service() -> Iterator[S3Service]:
    """S3 with the buckets `cache` and `other`."""
    with moto_server("cache", "other") as running:
        yield running


@pytest.fixture(scope="session")
def azure_account(peers_directory: Path) -> Iterator[str]:
    """The URL of Azurite's account."""
    _need("node", "npm")
    with azurite(peers_directory) as url:
        yield url


@pytest.fixture
def github_cache() -> Iterator[ActionsCache]:
    """An empty cache service of GitHub Actions."""
    with actions_cache() as running:
        yield running


@pytest.fixture(scope="module")
def publishing_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """The node that `published` is in."""
    with node(tmp_path_factory.mktemp("publishing") / "data") as started:
        yield started


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, publishing_node: Node) -> Published:
    """A project with two published versions."""
    return publish(tmp_path_factory.mktemp("published"), publishing_node)


@pytest.fixture
def chain(published: Published, tmp_path: Path) -> Delivered:
    """Environments that come one after the other, with nothing in them."""
    return delivered(published, tmp_path, CHAIN)


@pytest.fixture(scope="session")
def base_images(registry: Registry) -> Registry:
    """The registry with library/busybox, library/alpine and library/usrmerge in it."""
    _need("apt-get", "dpkg-deb", "debugfs")
    push_base_images(registry, "busybox", "alpine", "usrmerge")
    return registry


@pytest.fixture(scope="session")
def docker(peers_directory: Path, base_images: Registry) -> Iterator[Docker]:
    """The newest Docker engine; its BuildKit finds the base images in `registry`."""
    _need("apt-get", root=True)
    with dockerd(peers_directory, base_images, programs=newest()) as running:
        yield running


@pytest.fixture(scope="module")
def classic(tmp_path_factory: pytest.TempPathFactory, base_images: Registry) -> Iterator[Docker]:
    """Debian's engine without the containerd image store: with it, 26.1 asks for tokens without
    certs.d.
    """
    _need("dockerd", root=True)
    with dockerd(tmp_path_factory.mktemp("classic"), base_images, containerd=False) as running:
        yield running


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    with podman(tmp_path_factory.mktemp("podman")) as running:
        yield running


@pytest.fixture(scope="session")
def image_store(peers_directory: Path) -> Iterator[Containerd]:
    """containerd without anything above it."""
    _need("containerd", "ctr", root=True)
    with containerd(peers_directory) as running:
        yield running
