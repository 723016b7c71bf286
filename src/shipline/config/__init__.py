"""shipline.yaml: finding it, parsing it with positions, and decoding it into each feature's
section.
"""

from shipline.config.document import InvalidConfig
from shipline.config.json_schema import file_schema, reference
from shipline.config.loading import NAMES, Config, find, load, load_document, loads
from shipline.config.shape import encode
