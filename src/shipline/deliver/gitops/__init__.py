"""Images in GitOps repositories: where they stand, and commits that set them."""

from shipline.deliver.gitops.deployment import (
    Deployed,
    Deployment,
    Superseded,
    deploy,
    deployments,
    prepare,
)
from shipline.deliver.gitops.section import Environments, EnvironmentSection, GitOpsSection
from shipline.deliver.gitops.updates import Tree, Update
from shipline.deliver.gitops.yaml_text import UnsuitableFile

__all__ = [
    "Deployed",
    "Deployment",
    "EnvironmentSection",
    "Environments",
    "GitOpsSection",
    "Superseded",
    "Tree",
    "UnsuitableFile",
    "Update",
    "deploy",
    "deployments",
    "prepare",
]
