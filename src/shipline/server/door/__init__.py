"""Rules at the door: what may enter and leave beyond who asks."""

from shipline.server.door.protocol import Door, NoDoor

__all__ = ["Door", "NoDoor"]
