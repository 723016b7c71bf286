"""Debian's Prometheus, which scrapes what a test names."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
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


@contextmanager
def pushgateway(work: Path) -> Iterator[int]:
    """Debian's Pushgateway on a free port."""
    port = free_port()
    command = ["prometheus-pushgateway", f"--web.listen-address=127.0.0.1:{port}"]
    command.append("--persistence.file=")
    with running(command, ready=lambda: listening(port), log=work / "pushgateway.log"):
        yield port


@contextmanager
def victoria_metrics(work: Path) -> Iterator[int]:
    """Debian's VictoriaMetrics on a free port; OTLP metrics get the names of Prometheus."""
    port = free_port()
    command = [
        "victoria-metrics",
        f"-httpListenAddr=127.0.0.1:{port}",
        f"-storageDataPath={work / 'victoria'}",
        "-opentelemetry.usePrometheusNaming",
        "-search.latencyOffset=0s",
        "-memory.allowedBytes=128MB",
    ]
    with running(command, ready=lambda: listening(port), log=work / "victoria.log"):
        yield port


def query(port: int, question: str) -> list[dict[str, Any]]:
    """What Prometheus, or what speaks its API, answers now. Raises HTTPError for a bad question."""
    asked = urllib.parse.urlencode({"query": question})
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?{asked}") as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found
