"""shipline.yaml: found, read with places, decoded into the sections that each feature owns."""

from shipline.config.encode import encode
from shipline.config.load import NAMES, find, load, loads
from shipline.config.problems import InvalidConfig, Mark, Problem
from shipline.config.reference import reference
from shipline.config.schema import file_schema
from shipline.config.sections import Config

__all__ = [
    "NAMES",
    "Config",
    "InvalidConfig",
    "Mark",
    "Problem",
    "encode",
    "file_schema",
    "find",
    "load",
    "loads",
    "reference",
]
