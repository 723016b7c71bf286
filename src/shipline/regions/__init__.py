"""Copies between regions: replication along a journal, and mirrors of other registries."""

from shipline.regions.replication import open_replications

__all__ = ["open_replications"]
