"""Debian's nginx and Varnish as edges of a CDN, with the configurations of docs/cdn."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from peers.process import PeerFailed, listening, running

_DOCS = Path(__file__).resolve().parents[2] / "docs" / "cdn"
_NGINX = """
daemon off;
user root;
pid {work}/nginx.pid;
error_log {work}/nginx-errors.log;
events {{ worker_connections 2048; }}
http {{
    log_format cached '$upstream_cache_status $request_method $uri';
    access_log {work}/nginx-access.log cached;
    client_body_temp_path {work}/body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    include {work}/edge.conf;
}}
"""


@dataclass(frozen=True)
class Edge:
    """A running edge at `url`."""

    name: str
    url: str
    work: Path

    def counts(self) -> tuple[int, int]:
        """Hits and misses of content until now."""
        if self.name == "nginx":
            found = [line.split()[0] for line in (self.work / "nginx-access.log").open()]
            return found.count("HIT"), found.count("MISS")
        command: list[str | Path] = ["varnishstat", "-n", self.work / "varnish", "-j"]
        raw = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        # each request looks up its permission, then the content
        counters = raw["counters"]
        return counters["MAIN.cache_hit"]["value"], counters["MAIN.cache_miss"]["value"]


@contextmanager
def nginx_edge(
    work: Path,
    port: int,
    origin: str,
    keys: Mapping[str, str],
    *,
    host: str = "127.0.0.1",
    inside: Sequence[str] = (),
) -> Iterator[Edge]:
    """nginx on `port` in front of `origin` (HOST:PORT); `keys` by id. `inside` is a command that
    runs programs in another network namespace.
    """
    lines = "\n".join(f'    {key} "{secret}";' for key, secret in keys.items())
    text = _edited(
        (_DOCS / "nginx.conf").read_text(),
        {
            r'    k1 "SECRET-OF-K1";': lines,
            r"listen 80;": f"listen {host}:{port};",
            r"http://registry\.example\.com:5000": f"http://{origin}",
            r"Host registry\.example\.com": f"Host {origin}",
            r"/var/lib/nginx/blobs": f"{work}/cache",
        },
    )
    with nginx(work, text, inside=inside):
        yield Edge("nginx", f"http://{host}:{port}", work)


@contextmanager
def nginx(work: Path, servers: str, *, inside: Sequence[str] = ()) -> Iterator[None]:
    """nginx with these servers; `inside` is as for `nginx_edge`."""
    _need("nginx")
    (work / "edge.conf").write_text(servers)
    (work / "nginx.conf").write_text(_NGINX.format(work=work))
    command = [*inside, "nginx", "-p", str(work), "-c", str(work / "nginx.conf")]
    with running(command, ready=(work / "nginx.pid").exists, log=work / "nginx.log"):
        yield


@contextmanager
def varnish_edge(work: Path, port: int, origin: str) -> Iterator[Edge]:
    """Varnish on `port` of the loopback address in front of `origin` (HOST:PORT)."""
    _need("varnishd")
    host, _, number = origin.rpartition(":")
    text = _edited(
        (_DOCS / "varnish.vcl").read_text(),
        {r"registry\.example\.com": host, r'port = "5000"': f'port = "{number}"'},
    )
    (work / "edge.vcl").write_text(text)
    command: list[str | Path] = [
        "varnishd",
        "-F",
        "-j",
        "none",
        "-n",
        work / "varnish",
        "-f",
        work / "edge.vcl",
    ]
    command += ["-a", f"127.0.0.1:{port}", "-s", "malloc,256m"]
    with running(command, ready=partial(listening, port), log=work / "varnish.log"):
        yield Edge("varnish", f"http://127.0.0.1:{port}", work)


def _edited(text: str, changes: Mapping[str, str]) -> str:
    """The text with each pattern replaced; it must be there."""
    for pattern, new in changes.items():
        text, number = re.subn(pattern, new.replace("\\", r"\\"), text)
        assert number, f"{pattern} is not in the configuration"
    return text


def _need(program: str) -> None:
    if shutil.which(program) is None:
        raise PeerFailed(f"{program} is not installed (Debian packages nginx-light and varnish)")
