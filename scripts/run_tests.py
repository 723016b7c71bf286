"""All tests, in two halves side by side: those with real peers wait a lot for them.

What the half with peers says is shown when both have ended.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

PEERS = ("tests/conformance", "tests/contracts", "tests/faults", "tests/integration")


def main() -> int:
    pytest = [sys.executable, "-m", "pytest", *sys.argv[1:]]
    with tempfile.TemporaryFile("w+") as log:
        peers = subprocess.Popen([*pytest, *PEERS], stdout=log, stderr=log)
        try:
            alone = subprocess.run([*pytest, *(f"--ignore={path}" for path in PEERS)])
            peers.wait()
        finally:
            if peers.poll() is None:
                peers.terminate()
                peers.wait()
            log.seek(0)
            print(log.read(), flush=True)
    return alone.returncode or peers.returncode


if __name__ == "__main__":
    sys.exit(main())
