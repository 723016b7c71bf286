#!/usr/bin/env python3
"""Build examples/hello for two architectures, push it to the embedded registry, look at it.

Everything happens in .demo/ and on a loopback port; run it twice to see what the cache does.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shipline import api

HERE = Path(__file__).resolve().parent
STATE = HERE.parent / ".demo"
IMAGE = "demo/hello:1.0"


def shipline(*words: str, **environment: str) -> None:
    """Show a command, then run it; the demo ends where one fails."""
    print(f"\n$ {' '.join(['shipline', *words])}", flush=True)
    command = [sys.executable, "-m", "shipline", *words]
    done = subprocess.run(command, env=os.environ | environment, check=False)
    if done.returncode:
        sys.exit(done.returncode)


@contextmanager
def registry(place: Path = STATE) -> Iterator[str]:
    """The embedded registry on a free port, until the block ends."""
    address = f"127.0.0.1:{_port()}"
    place.mkdir(exist_ok=True)
    log = place / "registry.log"
    command = [sys.executable, "-m", "shipline", "registry", "serve"]
    command += ["--listen", address, "--data", str(place / "registry")]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        _wait(address, process, log)
        yield address
    finally:
        process.terminate()
        process.wait()


def _port() -> int:
    """5000 if it is free."""
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", 5000))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    host, _, port = address.partition(":")
    for _ in range(200):
        if process.poll() is not None:
            break
        try:
            socket.create_connection((host, int(port)), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"the registry did not start:\n{log.read_text()}")


def print_sizes(image: str) -> None:
    """What a client downloads for each platform, asked through the Python API."""
    index = api.inspect(image)
    assert isinstance(index, api.Index)
    print(f"\n{image}@{index.descriptor.digest}")
    for entry in index.manifests:
        manifest = api.inspect(f"{image}@{entry.digest}")
        assert isinstance(manifest, api.Manifest)
        total = sum(layer.size for layer in manifest.layers)
        print(f"  {entry.platform!s:<14}{len(manifest.layers)} layers{total / 1e6:>8.2f} MB")


def main() -> None:
    home = {"SHIPLINE_HOME": str(STATE / "home")}
    with registry() as address:
        print(f"registry on {address}, state in {STATE.name}/")
        command = [sys.executable, str(HERE / "base_images.py"), "--registry", address]
        command += ["--cache", str(STATE / "base-images"), "busybox"]
        subprocess.run(command, check=True)
        image = f"{address}/{IMAGE}"
        shipline(
            *("build", "--platform", "linux/amd64,linux/arm64", "-t", image, "--push"),
            str(HERE / "hello"),
            SHIPLINE_MIRRORS=f"docker.io=http://{address}",
            **home,
        )
        shipline("imagetools", "inspect", image)
        print_sizes(image)
    print(f"""
Try next:
  make demo                                        again: every step says CACHED
  edit examples/hello/site/index.html, make demo   only the COPY and what follows runs
  shipline registry serve --listen 127.0.0.1:5000 --data .demo/registry
  open http://127.0.0.1:5000/                      what is in it
  shipline key generate && shipline sign --key shipline.key 127.0.0.1:5000/{IMAGE}
  docker run --rm -p 8080:8080 127.0.0.1:5000/{IMAGE}
  skopeo inspect --tls-verify=false docker://127.0.0.1:5000/{IMAGE}
  shipline ship --plan                             in examples/node-app: the whole pipeline""")


if __name__ == "__main__":
    main()
