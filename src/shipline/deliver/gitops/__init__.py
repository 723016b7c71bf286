"""Images in GitOps repositories: where they stand, and commits that set them."""

from shipline.deliver.gitops.deployment import (
    RECORDS,
    Action,
    Deployed,
    Deployment,
    HandEdit,
    OnRace,
    PlannedChange,
    Superseded,
    TreeEdit,
    changed_by_hand,
    deploy,
    deployed,
    held,
    history,
    image_edits,
    prepare,
    record,
    require_same_images,
    stopped,
    with_hand_edits,
)
from shipline.deliver.gitops.section import GitOpsSection
from shipline.deliver.gitops.updates import OnePlace, Tree, Update
from shipline.deliver.gitops.yaml_text import UnsuitableFile
