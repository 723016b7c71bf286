"""`python -m fuzz TARGET DIRECTORY [options of libFuzzer]`: what is found is kept in the directory.

Needs atheris, which has wheels for Python 3.11 to 3.13.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

from fuzz.seeds import SEEDS

_ROOMS = ("dockerfile", "globs", "layer", "oci", "build.caching")
with atheris.instrument_imports(include=[f"shipline.{room}" for room in _ROOMS]):
    from fuzz.targets import TARGETS

program, target, place, *options = sys.argv
Path(place).mkdir(parents=True, exist_ok=True)
for number, seed in enumerate(SEEDS[target]()):
    Path(place, f"seed-{number}").write_bytes(seed)
atheris.Setup([program, f"-artifact_prefix={place}-found-", *options, place], TARGETS[target])
atheris.Fuzz()
