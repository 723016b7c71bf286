"""Endpoints that lead somewhere; who answers no call is not a builder, and is not waited for."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shipline.buildkit.connecting import open_buildkit, parse_endpoint
from shipline.errors import BuilderError

SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
PING = b"\0\0\x08\x06\0\0\0\0\0" + bytes(8)


@contextmanager
def server(said: bytes, *, again: bool = False) -> Iterator[str]:
    """The endpoint of one that says `said`, and nothing else; `again` says it without end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    connection.sendall(said)
                    while again:
                        connection.sendall(PING)
                    while connection.recv(1 << 16):
                        pass
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(60)


@pytest.mark.parametrize(
    "said, message",
    [
        (b"", "no answer within 0.2 seconds"),
        (SETTINGS, "no answer within 0.2 seconds"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "it does not speak HTTP/2: HTTP/1.1 400"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "no answer within 0.2 seconds"),
        (bytes(100), "the builder at"),
    ],
)
def test_what_is_no_buildkit_is_one_error(said: bytes, message: str) -> None:
    with (
        server(said) as endpoint,
        pytest.raises(BuilderError, match=message) as caught,
        open_buildkit(endpoint, timeout_s=0.2 if "0.2" in message else 60),
    ):
        pytest.fail("it never answered")
    assert endpoint in caught.value.message


def test_pings_without_end_are_no_answer() -> None:
    with (
        server(SETTINGS, again=True) as endpoint,
        pytest.raises(BuilderError),
        open_buildkit(endpoint, timeout_s=0.2),
    ):
        pytest.fail("it never answered")


def test_a_port_where_nobody_listens_is_one_error() -> None:
    refused = pytest.raises(BuilderError, match="Connection refused")
    with refused, open_buildkit("tcp://127.0.0.1:9", timeout_s=5):
        pytest.fail("nobody listens there")


@pytest.mark.parametrize(
    "text",
    [
        "unix:///run/buildkit.sock",
        "tcp://host",
        "tcp://[::1]:1234",
        "ssh://user@host:22/socket",
        "docker-container://name?context=x",
        "kube-pod://name?namespace=x",
    ],
)
def test_endpoints_of_buildx_are_read(text: str) -> None:
    assert parse_endpoint(text).scheme == text.partition(":")[0]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "name",
            "unix://",
            "tcp://",
            "tcp://[::1",
            "tcp://h:abc",
            "tcp://h:0",
            "tcp://h:99999",
        ),
        *("http://h", "docker-container://-eX=1", "kube-pod://--kubeconfig=/x", "ssh://-oProxy/x"),
    ],
)
def test_what_leads_nowhere_is_refused(text: str) -> None:
    with pytest.raises(BuilderError, match="is not an endpoint of a builder"):
        parse_endpoint(text)


def test_a_password_is_refused_and_never_shown() -> None:
    with pytest.raises(BuilderError, match="has a password") as raised:
        parse_endpoint("ssh://user:PASS@host")
    assert "PASS" not in f"{raised.value.message}{raised.value.hint}"
