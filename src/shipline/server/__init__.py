"""The registry node: the OCI distribution protocol over a data directory; an acknowledged push is
durable.
"""

from shipline.server.app import Application, make_app
from shipline.server.logs import LogSection, logging_to, startup_line
from shipline.server.section import RegistrySection
from shipline.server.serve import serve_registry
from shipline.server.storage import Storage
