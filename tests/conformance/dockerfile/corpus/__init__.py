"""Small Dockerfiles, built by two builders, and what differs between the two images."""

from corpus.builders import Builder, BuildKit, Outcome, Shipline
from corpus.case import Case, load, load_all
from corpus.difference import CONFIG, GRAVE, HISTORY, LAYERS, LINKS, SLIGHT, TREE, Difference
from corpus.verdict import verdict

__all__ = [
    "CONFIG",
    "GRAVE",
    "HISTORY",
    "LAYERS",
    "LINKS",
    "SLIGHT",
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
