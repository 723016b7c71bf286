"""Small Dockerfiles, built by two builders, and what differs between the two images."""

from corpus.builders import Builder, BuildKit, Outcome, Shipline
from corpus.case import Case, load, load_all
from corpus.difference import CONFIG, HISTORY, LAYERS, TREE, Difference
from corpus.verdict import verdict

__all__ = [
    "CONFIG",
    "HISTORY",
    "LAYERS",
    "TREE",
    "BuildKit",
    "Builder",
    "Case",
    "Difference",
    "Outcome",
    "Shipline",
    "load",
    "load_all",
    "verdict",
]
