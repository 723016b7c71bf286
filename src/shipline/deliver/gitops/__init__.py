"""Images in GitOps repositories: where they stand, and commits that set them."""

from shipline.deliver.gitops.deployment import (
    RECORDS,
    Action,
    Decide,
    Deployed,
    Deployment,
    Held,
    OnRace,
    PlannedChange,
    Superseded,
    TreeEdit,
    deploy,
    deployed,
    held,
    history,
    image_edits,
    newer_only,
    prepare,
    record,
    require_newer,
    stopped,
)
from shipline.deliver.gitops.section import GitOpsSection
from shipline.deliver.gitops.updates import Tree, Update
from shipline.deliver.gitops.yaml_text import UnsuitableFile

__all__ = [
    "RECORDS",
    "Action",
    "Decide",
    "Deployed",
    "Deployment",
    "GitOpsSection",
    "Held",
    "OnRace",
    "PlannedChange",
    "Superseded",
    "Tree",
    "TreeEdit",
    "UnsuitableFile",
    "Update",
    "deploy",
    "deployed",
    "held",
    "history",
    "image_edits",
    "newer_only",
    "prepare",
    "record",
    "require_newer",
    "stopped",
]
