"""Pulls over a long line: direct, through an edge, through a CDN, beside docker-registry and nginx.

    make bench-regions                          the table of docs/regions.md, and its plot
    make bench-regions BENCH='--size 50MB'      a quick look

The origin, a node, is 40 Mbit/s and 150 ms away (round trip); the edge is 1 Gbit/s and 2 ms away
and has the same long line to the origin. Each party has an origin, an edge and lines of its own
(links.py), so that cold pulls, which mostly wait for the line, run side by side; warm pulls and
crowds run one after another. Clients verify what they get. Needs root, and the Debian packages
docker-registry and nginx.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from bench.links import Line, Namespace, link, namespace  # noqa: E402
from bench.load import Blob, connected  # noqa: E402
from bench.meter import directory  # noqa: E402
from bench.plot import bars  # noqa: E402
from bench.pull import MANIFEST  # noqa: E402
from nodes import node  # noqa: E402
from peers import nginx, nginx_edge, running  # noqa: E402
from shipline.units import ByteSize  # noqa: E402
from shipline.values import replace  # noqa: E402

REPOSITORY = "bench/image"
SIZE = ByteSize(500_000_000)  # of the README's image
PORT = 5000  # in every namespace
LAYERS, CONFIG = 5, 1024  # number, bytes
KEY = "bench-secret"
FAR, NEAR = Line(40_000_000, 0.150), Line(1_000_000_000, 0.002, mtu=65_000)
_ORIGIN = """version: 1
registry:
  listen: 0.0.0.0:5000
  data: data
  log: {format: json, requests: true}
"""
_CDN = """  cdn-accelerate: true
  cdn: {url: "http://%s:8080", form: nginx, keys: [{id: k1, variable: CDN_KEY}], expiry: 2h}
"""
_CACHE = """proxy_cache_path {work}/cache keys_zone=images:16m max_size=20g use_temp_path=off;
server {{
    listen {port};
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    location / {{ proxy_pass http://{origin}; }}
    location ~ /blobs/ {{
        proxy_pass http://{origin};
        proxy_cache images;
        proxy_cache_lock on;
        proxy_cache_lock_age 1h;
        proxy_cache_lock_timeout 1h;
    }}
}}
"""


@dataclass(frozen=True)
class Site:
    """The places of one party: where its clients, its edge and its origin are."""

    work: Path
    client: Namespace
    edge: Namespace
    origin: Namespace
    origin_of_client: str  # addresses
    origin_of_edge: str
    edge_of_client: str


@dataclass(frozen=True)
class Party:
    """A way to pull; `url` is what clients are given."""

    name: str
    site: Site
    url: str

    def pull(self, tag: str, clients: int = 1) -> Pull:
        before, lines = self.site.origin.sent_bytes(), len(self._requests())
        command = self.site.client.command(sys.executable, "-m", "bench.pull")
        command += [self.url, REPOSITORY, tag, str(clients)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{self.name}: {done.stderr}")
        seconds: list[float] = json.loads(done.stdout)
        fetches = Counter(
            request["path"]
            for request in self._requests()[lines:]
            if request["method"] == "GET"
            and "/blobs/" in request["path"]
            and request["sent"] > CONFIG  # a layer, not a redirect to one
        )
        sent = self.site.origin.sent_bytes() - before
        return Pull(
            max(seconds), statistics.median(seconds), max(fetches.values(), default=0), sent
        )

    def _requests(self) -> list[dict[str, Any]]:
        text = (self.site.work / "origin.log").read_text()
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        return [line for line in lines if "method" in line]


@dataclass(frozen=True)
class Pull:
    """Seconds until the last client had all, and the median; times that the origin was asked for
    the same blob at most; bytes it sent.
    """

    last_s: float
    median_s: float
    fetches: int
    origin_bytes: int


Front = Callable[[Site], Any]
"""A context manager that serves the site's edge, and gives the URL for clients."""


@contextmanager
def direct(site: Site) -> Iterator[str]:
    yield f"http://{site.origin_of_client}:{PORT}"


@contextmanager
def shipline_edge(site: Site) -> Iterator[str]:
    text = _ORIGIN + f"  upstreams: [{{url: 'http://{site.origin_of_edge}:{PORT}'}}]\n"
    with _node(site.edge, site.work, "edge", text):
        yield f"http://{site.edge_of_client}:{PORT}"


@contextmanager
def cdn(site: Site) -> Iterator[str]:
    """nginx with the configuration of docs/cdn; the origin redirects to it."""
    work = site.work / "nginx"
    work.mkdir()
    origin = f"{site.origin_of_edge}:{PORT}"
    edge = nginx_edge(work, 8080, origin, {"k1": KEY}, host="0.0.0.0", inside=site.edge.command())
    with edge:
        yield f"http://{site.origin_of_client}:{PORT}"


@contextmanager
def docker_proxy(site: Site) -> Iterator[str]:
    settings = {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(site.work / "mirror")}},
        "http": {"addr": f"0.0.0.0:{PORT}", "secret": "bench"},
        "proxy": {"remoteurl": f"http://{site.origin_of_edge}:{PORT}"},
    }
    file = site.work / "mirror.json"
    file.write_text(json.dumps(settings))  # JSON is YAML
    with _serving(site.edge, site.work / "mirror.log", "docker-registry", "serve", file):
        yield f"http://{site.edge_of_client}:{PORT}"


@contextmanager
def nginx_cache(site: Site) -> Iterator[str]:
    work = site.work / "cache"
    work.mkdir()
    origin = f"{site.origin_of_edge}:{PORT}"
    text = _CACHE.format(work=work, port=PORT, origin=origin)
    with nginx(work, text, inside=site.edge.command()):
        yield f"http://{site.edge_of_client}:{PORT}"


FRONTS: dict[str, Front] = {
    "direct": direct,
    "shipline edge": shipline_edge,
    "shipline + CDN (nginx)": cdn,
    "docker-registry proxy": docker_proxy,
    "nginx proxy_cache": nginx_cache,
}


@contextmanager
def site(work: Path, number: int, images: Path, far: Line, *, with_cdn: bool) -> Iterator[Site]:
    """Three places with their lines, and an origin that has the images."""
    with ExitStack() as stack:
        enter = stack.enter_context
        client, edge, origin = (
            enter(namespace(work, name)) for name in ("client", "edge", "origin")
        )
        network = f"10.{number}"
        to_client, _ = enter(link(work, "far0", far, origin, client, f"{network}.0"))
        to_edge, _ = enter(link(work, "far1", far, origin, edge, f"{network}.1"))
        near, _ = enter(link(work, "near", NEAR, edge, client, f"{network}.2"))
        data = work / "origin" / "data"
        shutil.copytree(images / "data", data)
        enter(_node(origin, work, "origin", _ORIGIN + (_CDN % near if with_cdn else "")))
        yield Site(work, client, edge, origin, to_client, to_edge, near)


@contextmanager
def _node(place: Namespace, work: Path, name: str, text: str) -> Iterator[None]:
    root = work / name
    root.mkdir(exist_ok=True)
    file = root / "shipline.yaml"
    file.write_text(text)
    words = ("registry", "serve", "--config", file, "--insecure-open", "--insecure-http")
    with _serving(place, work / f"{name}.log", sys.executable, "-m", "shipline", *words):
        yield


@contextmanager
def _serving(place: Namespace, log: Path, *command: str | Path) -> Iterator[None]:
    ready = partial(place.listens, PORT)
    environment = {"CDN_KEY": KEY}
    with running(place.command(*command), ready=ready, log=log, environment=environment):
        yield


@contextmanager
def parties(work: Path, names: Sequence[str], images: Path, far: Line) -> Iterator[list[Party]]:
    with ExitStack() as stack:
        found = []
        for number, name in enumerate(names, 1):
            place = work / str(number)
            place.mkdir()
            with_cdn = FRONTS[name] is cdn
            here = stack.enter_context(site(place, number, images, far, with_cdn=with_cdn))
            found.append(Party(name, here, stack.enter_context(FRONTS[name](here))))
        yield found


def prepare(images: Path, sizes: dict[str, tuple[int, int]]) -> None:
    """A data directory with an image of random bytes for each tag: bytes, and number of layers."""
    images.mkdir()
    noise = images / "noise"
    with noise.open("wb") as file:
        for _ in range(max(size // layers for size, layers in sizes.values()) // (1 << 20) + 1):
            file.write(os.urandom(1 << 20))
    with node(images / "data") as running_node, connected(running_node.address) as connection:
        for tag, (size, layers) in sizes.items():
            blobs = [Blob.make(noise, size // layers) for _ in range(layers)]
            config = Blob.make(noise, CONFIG)
            for blob in (config, *blobs):
                connection.push(blob, REPOSITORY)
            document = {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": _described(config, "application/vnd.oci.image.config.v1+json"),
                "layers": [
                    _described(blob, "application/vnd.oci.image.layer.v1.tar+gzip")
                    for blob in blobs
                ],
            }
            path = f"/v2/{REPOSITORY}/manifests/{tag}"
            connection.put(path, json.dumps(document).encode(), MANIFEST)
    noise.unlink()


def _described(blob: Blob, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": blob.digest, "size": blob.size}


def measure(
    names: Sequence[str], sizes: dict[str, tuple[int, int]], clients: int, far: Line, work: Path
) -> dict[str, dict[str, Pull]]:
    """For each party: `cold` and `warm` pulls of the image `one`, `eight` clients of the image of
    that name, and `crowd`, of `clients`.
    """
    images = work / "images"
    prepare(images, sizes)
    with parties(work, names, images, far) as found, ThreadPoolExecutor(len(found)) as pool:
        results: dict[str, dict[str, Pull]] = {name: {} for name in names}

        def record(what: str, pulls: Iterator[Pull]) -> None:
            for party, pull in zip(found, pulls, strict=True):
                results[party.name][what] = pull
                print(f"{what:<6} {party.name:<24} {_line(pull)}", flush=True)

        record("cold", pool.map(lambda party: party.pull("one"), found))
        record("warm", (_again(party, results[party.name]["cold"]) for party in found))
        record("eight", pool.map(lambda party: party.pull("eight", 8), found))
        record("crowd", (party.pull("crowd", clients) for party in found))
    return results


def _again(party: Party, cold: Pull) -> Pull:
    """Without an edge, every pull is as the first."""
    return cold if party.name == "direct" else party.pull("one")


def _line(pull: Pull) -> str:
    return (
        f"{pull.last_s:7.1f} s, median {pull.median_s:7.1f} s, {pull.fetches:3} fetches of a blob, "
        f"{pull.origin_bytes / 1e6:7.1f} MB from the origin"
    )


def table(
    results: dict[str, dict[str, Pull]], sizes: dict[str, tuple[int, int]], clients: int
) -> str:
    """Markdown."""
    one, eight, crowd = (ByteSize(sizes[tag][0]) for tag in ("one", "eight", "crowd"))
    head = f"| | {one} cold | warm | 8 cold clients, {eight} | fetches, bytes from the origin "
    head += f"| {clients} cold clients, {crowd} | fetches, bytes from the origin |"
    rows = [head, "|---|---|---|---|---|---|---|"]
    base = results["direct"]
    for name, pulls in results.items():
        cells = [
            f"{pulls[what].last_s:.1f} s ({base[what].last_s / pulls[what].last_s:.2f}x)"
            for what in ("cold", "warm", "eight", "crowd")
        ]
        origin = [
            f"{pulls[what].fetches}, {pulls[what].origin_bytes / 1e6:,.0f} MB"
            for what in ("eight", "crowd")
        ]
        cold, warm, by_eight, by_crowd = cells
        rows.append(
            f"| {name} | {cold} | {warm} | {by_eight} | {origin[0]} | {by_crowd} | {origin[1]} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench-regions")
    parser.add_argument("--size", type=ByteSize.parse, default=SIZE)
    parser.add_argument("--eight", type=ByteSize.parse, default=ByteSize(50_000_000))
    parser.add_argument("--crowd", type=ByteSize.parse, default=ByteSize(2_000_000))
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--only", nargs="+", choices=list(FRONTS), default=list(FRONTS))
    parser.add_argument("--round-trip", type=float, default=FAR.round_trip_s, help="in seconds")
    parser.add_argument("--work", type=directory, help="a directory on the disk to use")
    parser.add_argument("--results", type=Path, default=ROOT / "bench/results/regions.json")
    options = parser.parse_args()
    names = ["direct", *(name for name in options.only if name != "direct")]
    sizes = {
        "one": (options.size.bytes, LAYERS),
        "eight": (options.eight.bytes, 1),
        "crowd": (options.crowd.bytes, 1),
    }
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        far = replace(FAR, round_trip_s=options.round_trip)
        results = measure(names, sizes, options.clients, far, Path(work))
    print(table(results, sizes, options.clients))
    options.results.parent.mkdir(exist_ok=True)
    found = {
        name: {what: asdict(pull) for what, pull in one.items()} for name, one in results.items()
    }
    options.results.write_text(json.dumps({"sizes": sizes, "results": found}, indent=2) + "\n")
    print(f"written to {options.results}")
    if names == list(FRONTS) and options.size == SIZE:
        title = f"Pull of {options.size} over 40 Mbit/s and 150 ms, and from an edge: seconds"
        rows = [
            (f"{name}, {what}", pulls[what].last_s)
            for name, pulls in results.items()
            for what in (("cold",) if name == "direct" else ("cold", "warm"))
        ]
        (ROOT / "docs" / "regions.svg").write_text(bars(title, rows))


if __name__ == "__main__":
    main()
