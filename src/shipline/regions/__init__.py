"""Copies between regions: replication along a journal, and mirrors of other registries."""

from shipline.regions.mirror import (
    Comparison,
    MirrorDiffers,
    MirrorPlan,
    compare,
    read_lock,
    synchronise,
    write_lock,
)
from shipline.regions.replication import open_replications
