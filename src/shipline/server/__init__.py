"""The registry node: the OCI distribution protocol over a data directory; an acknowledged push is
durable.
"""

from shipline.server.app import Application, make_app
from shipline.server.logs import LogSection, logging_to, startup_line
from shipline.server.section import LimitsSection, RegistrySection
from shipline.server.serve import serve_registry
from shipline.server.storage import Storage

__all__ = [
    "Application",
    "LimitsSection",
    "LogSection",
    "RegistrySection",
    "Storage",
    "logging_to",
    "make_app",
    "serve_registry",
    "startup_line",
]
