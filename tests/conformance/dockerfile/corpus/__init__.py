"""Small Dockerfiles, built by two builders, and what differs between the two images."""

from corpus.builders import Builder, BuildKit, Outcome, Shipline
from corpus.case import Case, load, load_all
from corpus.difference import CONFIG, GRAVE, HISTORY, LAYERS, LINKS, SLIGHT, TREE, Difference
from corpus.recorded import due, outcome_digest, read_record, recordable, write_record
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
    "due",
    "load",
    "load_all",
    "outcome_digest",
    "read_record",
    "recordable",
    "verdict",
    "write_record",
]
