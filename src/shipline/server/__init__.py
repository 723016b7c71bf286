"""The registry node: the OCI distribution protocol over a directory that never loses a push."""

from shipline.server.app import Application, make_app
from shipline.server.logs import LogSection, announcement, logging_to
from shipline.server.section import LimitsSection, RegistrySection
from shipline.server.serve import serve_registry
from shipline.server.storage import Storage

__all__ = [
    "Application",
    "LimitsSection",
    "LogSection",
    "RegistrySection",
    "Storage",
    "announcement",
    "logging_to",
    "make_app",
    "serve_registry",
]
