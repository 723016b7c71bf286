"""Generated workflows for CI systems, and the action of this repository."""

from shipline.deliver.ci.action import INPUTS, BuildCommand, invocation
from shipline.deliver.ci.document import FileState, freshness, kind_of
from shipline.deliver.ci.github import (
    UNSUPPORTED_OPTIONS,
    buildx_workflow,
    github_workflow,
    unsupported_options,
)
from shipline.deliver.ci.gitlab import gitlab_pipeline
from shipline.deliver.ci.steps import Pin, Pins
from shipline.deliver.ci.workflow import (
    CiSection,
    Login,
    SigningSecret,
    Unread,
    Workflow,
    with_variables,
)
