"""Memory of a node through which large blobs stream."""

from __future__ import annotations

import http.client
import os
import re
from pathlib import Path

from nodes import node
from spec_client import OCTETS, Target, sha256, with_query


def test_memory_stays_flat_while_blobs_stream(tmp_path: Path) -> None:
    with node(tmp_path / "data") as running:
        target, block = Target(running.url, "x"), os.urandom(1 << 20)
        answer = target.call("PATCH", target.start(), (block for _ in range(300)), OCTETS)
        assert answer.status == 202
        location = answer["Location"]
        assert location
        digest = target.call("PUT", with_query(location, digest=sha256(block * 300)), b"")
        assert digest.status == 201
        host, _, port = running.address.partition(":")
        for _ in range(2):
            connection = http.client.HTTPConnection(host, int(port))
            connection.request("GET", digest["Location"] or "")
            with connection.getresponse() as response:
                assert (
                    sum(len(part) for part in iter(lambda: response.read(1 << 20), b""))
                    == 300 << 20
                )
            connection.close()
        status = Path(f"/proc/{running.process.pid}/status").read_text()
        peak = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert peak
        assert int(peak[1]) < 150 * 1024
