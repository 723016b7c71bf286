"""`shipline copy` beside `skopeo copy --all` and `oras cp`: same run, registries and images.

    make bench-copy
    make bench-copy BENCH='--rows copy,list --mib 256 --repeats 3'

Two of Debian's docker-registry on loopback. The destination is emptied before each run, and who
goes first changes from round to round. Prints medians of seconds and of CPU seconds of the
command, and ratios to shipline: 2.0x is twice as long. Needs the Debian packages docker-registry,
skopeo and oras.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from bench.meter import Cost, measure  # noqa: E402
from peers import Registry, docker_registry  # noqa: E402

MIB = 1 << 20
LAYERS = 10  # of both platforms together
IMAGES, SMALL = 200, 32 << 10  # bytes of each small image
_OCI = "application/vnd.oci.image"
_SHIPLINE = (sys.executable, "-m", "shipline", "copy", "--quiet")
_SKOPEO = ("skopeo", "--insecure-policy", "copy", "--quiet", "--all")
_PLAIN = ("--src-tls-verify=false", "--dest-tls-verify=false")


def write_image(layout: Path, tag: str, size: int, layers: int) -> None:
    """Add an index for two platforms to a layout, of `size` random bytes in `layers`."""
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def put(content: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"mediaType": f"{_OCI}.{kind}", "digest": f"sha256:{digest}", "size": len(content)}

    def document(kind: str, **fields: object) -> dict[str, Any]:
        found = {"schemaVersion": 2, "mediaType": f"{_OCI}.{kind}", **fields}
        return put(json.dumps(found).encode(), kind)

    images = []
    for architecture in ("amd64", "arm64"):
        parts = [
            put(os.urandom(size // layers), "layer.v1.tar+gzip") for _ in range(max(layers // 2, 1))
        ]
        platform = {"os": "linux", "architecture": architecture}
        rootfs = {"type": "layers", "diff_ids": [one["digest"] for one in parts]}
        config = put(json.dumps({**platform, "rootfs": rootfs}).encode(), "config.v1+json")
        image = document("manifest.v1+json", config=config, layers=parts)
        images.append({**image, "platform": platform})
    entry = document("index.v1+json", manifests=images)
    entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
    index = layout / "index.json"
    before = json.loads(index.read_bytes())["manifests"] if index.exists() else []
    index.write_text(json.dumps({"schemaVersion": 2, "manifests": [*before, entry]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


@dataclass(frozen=True)
class Bench:
    """Where images are copied from and to; `layouts` has `big` and `small`."""

    layouts: Path
    source: Registry
    target: Registry

    def run(self, *words: str) -> Cost:
        hosts = f"{self.source.address},{self.target.address}"
        home = str(self.layouts)  # for skopeo's memory of blobs, which is emptied
        return measure(words, {**os.environ, "SHIPLINE_INSECURE": hosts, "XDG_DATA_HOME": home})

    def shell(self, commands: list[list[str]]) -> Cost:
        """One command for each image, one after the other: they take no lists."""
        return self.run("sh", "-ec", "\n".join(map(shlex.join, commands)))

    def empty(self) -> None:
        shutil.rmtree(self.target.data / "docker", ignore_errors=True)
        shutil.rmtree(self.layouts / "containers", ignore_errors=True)

    def copy(self) -> Mapping[str, Callable[[], Cost]]:
        """An image of two platforms from registry to registry."""
        source, target = (f"{one.address}/bench/big:v1" for one in (self.source, self.target))
        oras = ("oras", "cp", "--no-tty", "--from-plain-http", "--to-plain-http")
        return {
            "shipline": lambda: self.run(*_SHIPLINE, source, target),
            "skopeo": lambda: self.run(
                *_SKOPEO, *_PLAIN, f"docker://{source}", f"docker://{target}"
            ),
            "oras": lambda: self.run(*oras, source, target),
        }

    def push(self) -> Mapping[str, Callable[[], Cost]]:
        """An image in a layout to a registry."""
        layout, target = self.layouts / "big", f"{self.target.address}/bench/big:v1"
        oras = ("oras", "cp", "--no-tty", "--from-oci-layout", "--to-plain-http")
        return {
            "shipline": lambda: self.run(*_SHIPLINE, f"oci:{layout}:v1", target),
            "skopeo": lambda: self.run(*_SKOPEO, *_PLAIN, f"oci:{layout}:v1", f"docker://{target}"),
            "oras": lambda: self.run(*oras, f"{layout}:v1", target),
        }

    def list(self) -> Mapping[str, Callable[[], Cost]]:
        """Many small images."""
        pairs = [
            tuple(f"{one.address}/bench/small{number}:v1" for one in (self.source, self.target))
            for number in range(IMAGES)
        ]
        file = self.layouts / "pairs"
        file.write_text("".join(f"{source} {target}\n" for source, target in pairs))
        skopeo = [
            [*_SKOPEO, *_PLAIN, f"docker://{source}", f"docker://{target}"]
            for source, target in pairs
        ]
        oras = [
            ["oras", "cp", "--no-tty", "--from-plain-http", "--to-plain-http", source, target]
            for source, target in pairs
        ]
        return {
            "shipline": lambda: self.run(*_SHIPLINE, "--from-file", str(file)),
            "skopeo": lambda: self.shell(skopeo),
            "oras": lambda: self.shell(oras),
        }

    def fill(self, row: str) -> None:
        """Push what a row copies to the source."""
        host = self.source.address
        if row in ("copy", "no-op"):
            self.run(*_SHIPLINE, f"oci:{self.layouts / 'big'}:v1", f"{host}/bench/big:v1")
        if row in ("list", "no-op list"):
            file = self.layouts / "fill"
            layout = self.layouts / "small"
            numbers = range(IMAGES)
            lines = (f"oci:{layout}:v{one} {host}/bench/small{one}:v1\n" for one in numbers)
            file.write_text("".join(lines))
            self.run(*_SHIPLINE, "--from-file", str(file))


ROWS: dict[str, tuple[Callable[[Bench], Mapping[str, Callable[[], Cost]]], bool]] = {
    "copy": (Bench.copy, True),
    "no-op": (Bench.copy, False),
    "push": (Bench.push, True),
    "list": (Bench.list, True),
    "no-op list": (Bench.list, False),
}
"""What is run, and whether the destination is empty before."""


def measured(bench: Bench, row: str, repeats: int) -> None:
    """Run a row and print its line."""
    make, fresh = ROWS[row]
    bench.fill(row)
    bench.empty()
    parties = make(bench)
    costs: dict[str, list[Cost]] = {name: [] for name in parties}
    for number in range(repeats + (not fresh)):
        order = list(parties) if number % 2 else list(reversed(parties))
        for name in order:
            if fresh:
                bench.empty()
            cost = parties[name]()
            if fresh or number:  # the first run of a no-op is none
                costs[name].append(cost)
    seconds = {
        name: statistics.median(one.wall_s for one in found) for name, found in costs.items()
    }
    cells = [
        f"{name} {seconds[name]:7.2f} s ({statistics.median(one.cpu_s for one in found):6.2f} CPU)"
        + (f" {seconds[name] / seconds['shipline']:5.2f}x" if name != "shipline" else "")
        for name, found in costs.items()
    ]
    print(f"{row:10}  " + "   ".join(cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default=",".join(ROWS), help="of " + ", ".join(ROWS))
    parser.add_argument("--mib", type=int, default=1024, help="of the big image")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rows = options.rows.split(",")
    if unknown := set(rows) - ROWS.keys():
        parser.error(f"no such rows: {', '.join(unknown)}")
    with tempfile.TemporaryDirectory(prefix="shipline-bench-") as place:
        work = Path(place)
        write_image(work / "big", "v1", options.mib * MIB, LAYERS)
        if any("list" in row for row in rows):
            for number in range(IMAGES):
                write_image(work / "small", f"v{number}", SMALL, 2)
        with (
            docker_registry(work, name="source") as source,
            docker_registry(work, name="target") as target,
        ):
            for row in rows:
                measured(Bench(work, source, target), row, options.repeats)


if __name__ == "__main__":
    main()
