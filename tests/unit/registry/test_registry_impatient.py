"""A client for what can be done without tries once to reach a server, and as often as any client
where the server answers.
"""

from __future__ import annotations

import socket

import pytest

from serving import ReceivedRequest, Reply, serving
from shipline.cachestores import open_cache
from shipline.errors import RegistryError
from shipline.registry import Client


def test_a_server_that_refuses_connections_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        pauses: list[float] = []
        monkeypatch.setattr("shipline.registry.retries.sleep", pauses.append)
        with Client() as client:
            for kind, attributes in (
                ("registry", {"ref": f"127.0.0.1:{port}/a:b"}),
                ("azblob", {"account_url": f"http://127.0.0.1:{port}/a", "sas": "sig=a"}),
            ):
                with pytest.raises(RegistryError, match="connection refused"):
                    open_cache(client, {})(kind, attributes).documents()
            assert pauses == []
            with pytest.raises(RegistryError, match="connection refused"):
                client.check(f"127.0.0.1:{port}")
            assert len(pauses) == 4


def test_a_server_that_fails_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shipline.registry.retries.sleep", lambda seconds: None)
    statuses = iter((503, 502, 200))

    def respond(request: ReceivedRequest) -> Reply:
        return next(statuses), {}, b""

    with serving(respond) as served, Client() as client:
        client.impatient.check(served.host)
        assert len(served.requests) == 3
