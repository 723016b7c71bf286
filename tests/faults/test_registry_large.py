"""A large push and pull over a bad line end correct, and send no byte again that had arrived.

64 MiB here; `SHIPLINE_LARGE=1073741824 pytest tests/faults/test_registry_large.py` for a gibibyte.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from images import make_layer
from quirk_registries import Quirky, client_of, quirk_registry

from proxy import (
    Answer,
    CutRequest,
    CutResponse,
    Fault,
    FaultProxy,
    FlipBit,
    LoseResponse,
    SetHeader,
    Stall,
    StallRequest,
)
from served import served
from shipline.content import CHUNK, LocalStore
from shipline.oci import Descriptor, Reference
from shipline.registry import Client, HostSettings, RemoteRepository

SIZE = int(os.environ.get("SHIPLINE_LARGE", 64 << 20))
EVERY = SIZE // 12  # bytes from one break to the next
LINE = 64 << 10  # bytes read of a request at a break, and not passed on
QUICK = HostSettings(read_s=1.0)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with served(tmp_path_factory.mktemp("node")) as node:
        yield int(node.url.rpartition(":")[2])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    return LocalStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def layer(store: LocalStore) -> Descriptor:
    return make_layer(store, SIZE)


@pytest.fixture
def proxy(node: int) -> Iterator[FaultProxy]:
    with FaultProxy(node) as proxy:
        yield proxy


def at(client: Client, proxy: FaultProxy, request: pytest.FixtureRequest) -> RemoteRepository:
    name = request.node.name.encode().hex()[-60:]  # a repository for each test
    return client.repository(Reference.parse(f"127.0.0.1:{proxy.port}/large/{name}"))


BREAKS: list[tuple[Fault, int, int]] = [  # how often, and how many bytes are lost with each
    (CutRequest(after=EVERY), 11, 0),
    (StallRequest(after=EVERY), 2, 0),
    (LoseResponse(), 1, 0),
    (Answer(429, (("Retry-After", "1"),), after=EVERY), 1, EVERY),
    (Answer(429, after=EVERY), 2, EVERY),
    (Answer(500, after=EVERY), 1, EVERY),
    (Answer(503, (("Retry-After", "0"),), after=EVERY), 2, EVERY),
    (Answer(504, after=EVERY), 1, EVERY),
    (FlipBit(at=EVERY, request=True), 1, SIZE),
]


@pytest.mark.parametrize(("fault", "times", "lost"), BREAKS)
def test_a_push_ends_correct(
    request: pytest.FixtureRequest,
    proxy: FaultProxy,
    store: LocalStore,
    layer: Descriptor,
    fault: Fault,
    times: int,
    lost: int,
) -> None:
    proxy.break_next(fault, method="PUT", target="uploads")
    if times > 1:
        proxy.break_next(fault, method="P", target="uploads", times=times - 1)
    moved: list[int] = []
    with Client(QUICK) as client:
        repository = at(client, proxy, request)
        repository.push(layer, store, moved.append)
        assert repository.exists(layer)
    assert sum(moved) == SIZE
    assert SIZE <= proxy.uploaded <= SIZE + times * (lost + LINE)


def test_a_push_ends_correct_after_a_wrong_range(
    request: pytest.FixtureRequest, proxy: FaultProxy, store: LocalStore, layer: Descriptor
) -> None:
    """The registry says to have more than it has, less than it has, and more than there is."""
    for wrong in (EVERY // 2, 2 * EVERY, 2 * SIZE):
        proxy.break_next(CutRequest(after=EVERY), method="PUT", target="uploads")
        proxy.break_next(SetHeader("Range", f"0-{wrong}"), method="GET", target="uploads")
    with Client(QUICK) as client:
        repository = at(client, proxy, request)
        repository.push(layer, store)
        assert repository.exists(layer)


PULLS: list[tuple[Fault, int, int]] = [
    (CutResponse(after=EVERY), 11, 0),
    (Stall(after=EVERY), 2, CHUNK),  # what one read waits for
    (Answer(429, (("Retry-After", "1"),)), 1, 0),
    (Answer(429), 2, 0),
    (Answer(502), 2, 0),
    (FlipBit(at=EVERY), 1, SIZE),
    (SetHeader("Content-Length", str(SIZE // 2)), 1, SIZE // 2),
]


@pytest.mark.parametrize(("fault", "times", "lost"), PULLS)
def test_a_pull_ends_correct(
    request: pytest.FixtureRequest,
    proxy: FaultProxy,
    store: LocalStore,
    layer: Descriptor,
    tmp_path: Path,
    fault: Fault,
    times: int,
    lost: int,
) -> None:
    pulled = LocalStore(tmp_path / "pulled")
    with Client(QUICK) as client:
        repository = at(client, proxy, request)
        repository.push(layer, store)
        proxy.downloaded = 0
        proxy.break_next(fault, method="GET", target="sha256", times=times)
        pulled.push(layer, repository)
    assert pulled.path(layer.digest).stat().st_size == SIZE and pulled.exists(layer)
    assert SIZE <= proxy.downloaded <= SIZE + times * (lost + LINE)


def test_a_401_in_the_middle_of_an_upload_goes_on_with_a_new_token(
    store: LocalStore, layer: Descriptor
) -> None:
    quirky = Quirky("", "registry.example.com")
    with (
        quirk_registry(quirky) as (registry, proxy, requests),
        client_of(registry, proxy) as client,
    ):
        refusal = ("WWW-Authenticate", f'Bearer realm="{registry.origin}/token",service="registry"')
        proxy.break_next(Answer(401, (refusal,), after=EVERY), method="PUT", target="uploads")
        proxy.break_next(CutRequest(after=EVERY), method="PUT", target="uploads")
        proxy.break_next(Answer(401, (refusal,), after=EVERY), method="PATCH", target="uploads")
        client.repository(Reference.parse("registry.example.com/team/app")).push(layer, store)
        assert len(registry.blobs["team/app"][str(layer.digest)]) == SIZE
        assert len(requests.to("GET", "/token")) >= 3 and len(registry.sessions) == 1
        assert proxy.uploaded <= SIZE + 2 * EVERY + 3 * LINE
