"""The readers that are fuzzed take what they are to take, and what was found once."""

from __future__ import annotations

import random
import tarfile
from typing import Any

import pytest

from fuzz.seeds import SEEDS
from fuzz.targets import TARGETS


def tar_header(name: str, **fields: Any) -> bytes:
    """The header of a member, with numbers in base 256 where they are large."""
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT)


FOUND = [
    ("ignore", b"*a" * 40 + b"b\0" + b"a" * 120),
    ("tar", b"\0" + tar_header("f", uid=1 << 32)),
    ("tar", b"\0" + tar_header("f", gid=(1 << 32) - 1)),
    ("tar", b"\0" + tar_header("f", devmajor=1 << 31, type=tarfile.CHRTYPE)),
    ("tar", b"\0" + tar_header("f", devminor=1 << 20, type=tarfile.BLKTYPE)),
    ("words", b"${a%b" + b"a*" * 40 + b"}\0" + b"a" * 120),
]
_MUTANTS = 60  # of each target


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_and_a_few_mutants_of_them(target: str) -> None:
    chance = random.Random(0)
    seeds = list(SEEDS[target]())
    for seed in seeds:
        TARGETS[target](seed)
    for _ in range(_MUTANTS):
        mutant = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(1, 5)):
            at = chance.randrange(len(mutant))
            mutant[at : at + chance.choice((0, 1, 8))] = chance.randbytes(chance.choice((0, 1, 4)))
        TARGETS[target](bytes(mutant))


@pytest.mark.parametrize(("target", "raw"), FOUND)
def test_what_the_fuzzer_found_is_mended(target: str, raw: bytes) -> None:
    TARGETS[target](raw)
