"""The declared chain: from a commit to a signed image whose names come last."""

from shipline.ship.section import Build, Pipeline, Sign, Step, When

__all__ = ["Build", "Pipeline", "Sign", "Step", "When"]
