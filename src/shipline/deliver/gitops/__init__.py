"""Images in GitOps repositories: where they stand, and commits that set them."""

from shipline.deliver.gitops.deployment import (
    RECORDS,
    Action,
    Deployed,
    Deployment,
    Superseded,
    deploy,
    history,
    prepare,
    record,
)
from shipline.deliver.gitops.section import GitOpsSection
from shipline.deliver.gitops.updates import Tree, Update
from shipline.deliver.gitops.yaml_text import UnsuitableFile

__all__ = [
    "RECORDS",
    "Action",
    "Deployed",
    "Deployment",
    "GitOpsSection",
    "Superseded",
    "Tree",
    "UnsuitableFile",
    "Update",
    "deploy",
    "history",
    "prepare",
    "record",
]
