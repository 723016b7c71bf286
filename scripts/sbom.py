"""Usage: sbom.py MODULES FILE...

Write FILE.spdx.json for each package: the Python packages in the directory MODULES, which the
package has in it, or which pip installs with it. SOURCE_DATE_EPOCH is the time of the documents.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from shipline.layer import scan
from shipline.sbom import Described, read_tree, spdx, take_inventory


def main(modules: Path, *files: Path) -> None:
    inventory = take_inventory((facts, "") for facts in read_tree(scan(modules).items()))
    when = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
    for file in files:
        version = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
        described = Described(file.name, version, "source", f"{when:%Y-%m-%dT%H:%M:%SZ}")
        document = json.dumps(spdx(inventory, described), indent=1)
        file.with_name(f"{file.name}.spdx.json").write_text(f"{document}\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
