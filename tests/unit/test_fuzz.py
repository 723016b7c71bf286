"""The readers that are fuzzed take what they are to take, and what was found once."""

from __future__ import annotations

import random

import pytest

from fuzz.seeds import SEEDS
from fuzz.targets import TARGETS

FOUND = [
    ("ignore", b"*a" * 40 + b"b\0" + b"a" * 120),
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
