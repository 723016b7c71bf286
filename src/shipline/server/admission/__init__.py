"""Rules about what may come in, stay and go out."""

from shipline.server.admission.protocol import Door, NoDoor

__all__ = ["Door", "NoDoor"]
