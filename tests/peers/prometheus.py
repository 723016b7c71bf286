"""Debian's Prometheus, which scrapes what a test names."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peers.process import free_port, listening, running


@contextmanager
def prometheus(
    work: Path,
    scraped: Sequence[Mapping[str, Any]],
    *,
    interval: str = "500ms",
    rules: Sequence[Path] = (),
    port: int = 0,
) -> Iterator[int]:
    """Prometheus on a free port, or on `port`; `scraped` are its scrape_configs."""
    port = port or free_port()
    configuration = {
        "global": {"scrape_interval": interval, "evaluation_interval": "500ms"},
        "rule_files": list(map(str, rules)),
        "scrape_configs": scraped,
    }
    file = work / "prometheus.json"
    file.write_text(json.dumps(configuration))  # JSON is YAML
    command = [
        "prometheus",
        f"--config.file={file}",
        f"--storage.tsdb.path={work / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with running(command, ready=lambda: _is_ready(port), log=work / "prometheus.log"):
        yield port


def _is_ready(port: int) -> bool:
    """It answers 503 while it reads what it has."""
    if not listening(port):
        return False
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready"):
            return True
    except urllib.error.HTTPError:
        return False
