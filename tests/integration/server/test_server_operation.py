"""Readiness, the end of a node, and what it writes about itself."""

from __future__ import annotations

import http.client
import json
import logging
import signal
import socket
import time
from pathlib import Path

import pytest

from nodes import Node
from served import served
from shipline.server.logs import JsonLines, TextLines
from spec_client import Target


def half_a_patch(running: Node, location: str) -> socket.socket:
    host, _, port = running.address.partition(":")
    connection = socket.create_connection((host, int(port)), timeout=15)
    head = f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nxyz"
    connection.sendall(head.encode())
    return connection


def test_node_with_room_is_ready(tmp_path: Path) -> None:
    with served(tmp_path) as running:
        answer = Target(running.url, "x").call("GET", "/readyz")
        assert (answer.status, answer.body) == (200, b"ok\n")


def test_node_without_room_is_alive_and_not_ready(tmp_path: Path) -> None:
    with served(tmp_path, "limits: {disk-floor: 900TB}") as running:
        answer = Target(running.url, "x").call("GET", "/readyz")
        assert answer.status == 503
        assert b"free" in answer.body
        assert Target(running.url, "x").call("GET", "/healthz").status == 200


def test_running_uploads_have_the_drain_timeout_and_no_more(tmp_path: Path) -> None:
    with served(tmp_path, "drain-timeout: 1s") as running:
        location = Target(running.url, "x").start()
        with half_a_patch(running, location):
            time.sleep(0.3)
            began = time.monotonic()
            assert running.stop(signal.SIGTERM) == 0
            assert 0.9 < time.monotonic() - began < 30
    with served(tmp_path) as again:
        assert Target(again.url, "x").call("GET", location)["Range"] == "0-2"


def test_stopping_node_closes_idle_connections_at_once(tmp_path: Path) -> None:
    """Also while a request runs: nobody would answer what a client sends there."""
    with served(tmp_path, "drain-timeout: 60s") as running:
        host, _, port = running.address.partition(":")
        kept = http.client.HTTPConnection(running.address, timeout=20)
        kept.request("GET", "/v2/")
        kept.getresponse().read()
        unused = socket.create_connection((host, int(port)), timeout=20)
        with half_a_patch(running, Target(running.url, "x").start()) as connection:
            time.sleep(0.3)
            running.process.send_signal(signal.SIGTERM)
            assert kept.sock.recv(1) == unused.recv(1) == b""
            connection.sendall(b"1234567")
            assert b" 202 " in connection.recv(4096)
        assert running.process.wait(30) == 0


def test_stopping_node_is_not_ready_and_takes_nobody_new(tmp_path: Path) -> None:
    with served(tmp_path, "drain-timeout: 30s") as running:
        kept = http.client.HTTPConnection(running.address, timeout=10)
        with half_a_patch(running, Target(running.url, "x").start()) as connection:
            host, _, port = running.address.partition(":")
            time.sleep(0.3)
            kept.request("GET", "/readyz")
            assert kept.getresponse().read() == b"ok\n"
            running.process.send_signal(signal.SIGTERM)
            end = time.monotonic() + 20
            with pytest.raises(OSError):  # soon
                while time.monotonic() < end:
                    socket.create_connection((host, int(port)), timeout=1).close()
            connection.sendall(b"1234567")
            assert b" 202 " in connection.recv(4096)
        assert running.process.wait(30) == 0


def test_requests_are_logged_as_json_without_secrets(tmp_path: Path) -> None:
    with served(tmp_path, "log: {format: json, requests: true}") as running:
        trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        Target(running.url, "a").call(
            "GET",
            "/v2/a/tags/list?token=in-the-query",
            headers={
                "Authorization": "Basic in-the-header",
                "Traceparent": trace,
                "X-Request-Id": "abc-1",
                "User-Agent": 'skopeo "quoted"',
            },
        )
        assert running.stop() == 0
    text = running.log.read_text()
    assert "in-the-query" not in text
    assert "in-the-header" not in text
    every = [json.loads(one) for one in text.splitlines()]
    assert any(one["message"].startswith("serving ") for one in every)
    (line,) = [one for one in every if one.get("path") == "/v2/a/tags/list"]
    assert (line["method"], line["path"], line["status"]) == ("GET", "/v2/a/tags/list", 404)
    assert (line["traceparent"], line["request_id"], line["actor"]) == (trace, "abc-1", "anonymous")
    assert line["at"].endswith("Z")
    assert line["seconds"] >= 0


def _record(message: str, **fields: object) -> logging.LogRecord:
    return logging.makeLogRecord({"levelname": "INFO", "name": "n", "msg": message, **fields})


def test_line_of_text_is_one_line() -> None:
    line = TextLines().format(_record("a\nb", path="/x\ny", agent='says "hi"', status=200))
    assert "\n" not in line
    assert 'path="/x\\ny" agent="says \\"hi\\"" status=200' in line


def test_line_of_text_commands_no_terminal() -> None:
    line = TextLines().format(_record("a\x1b[2J\x85\u2028b \N{EURO SIGN}", path="/\x1b]0;x\x07"))
    assert line.isprintable() and line.count("\N{EURO SIGN}") == 1


def test_json_lines_carry_exceptions() -> None:
    try:
        raise OSError("no space")
    except OSError as error:
        record = _record("failed", exc_info=(OSError, error, error.__traceback__))
    assert "no space" in json.loads(JsonLines().format(record))["exception"]


def test_refusal_names_its_request(tmp_path: Path) -> None:
    with served(tmp_path) as running:
        answer = Target(running.url, "a").call(
            "GET", "manifests/none", headers={"X-Request-Id": "mine-7"}
        )
        assert (answer.status, answer["X-Request-Id"]) == (404, "mine-7")
        made = Target(running.url, "a").call("GET", "manifests/none")["X-Request-Id"]
        assert made
        assert len(made) == 16
