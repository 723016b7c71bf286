"""shipline.yaml: found, read with places, decoded into the sections that each feature owns."""

from shipline.config.document import ConfigProblem, InvalidConfig, Mark
from shipline.config.json_schema import file_schema, reference
from shipline.config.loading import NAMES, Config, find, load, loads
from shipline.config.shape import encode

__all__ = [
    "NAMES",
    "Config",
    "ConfigProblem",
    "InvalidConfig",
    "Mark",
    "encode",
    "file_schema",
    "find",
    "load",
    "loads",
    "reference",
]
