"""Who may do what: accounts, projects, robots, tokens."""

from shipline.server.access.guard import Guard, OpenGuard

__all__ = ["Guard", "OpenGuard"]
