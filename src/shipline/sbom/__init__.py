"""The packages in a file tree, and lists of them as documents."""

from shipline.sbom.documents import INCOMPLETE, TOOL, Described, cyclonedx, spdx
from shipline.sbom.files import VERSION, Kind, kind_of, read_file, read_tree
from shipline.sbom.inventory import Inventory, LayerFacts, of_layers, take_inventory
from shipline.sbom.packages import FileFacts
