"""Generated CI: workflow files that call shipline, and the action that this repository is."""

from shipline.deliver.ci.action import INPUTS, Invocation, invocation
from shipline.deliver.ci.buildx import LEFT_OUT, buildx, left_out
from shipline.deliver.ci.document import FileState, Freshness, freshness, kind_of
from shipline.deliver.ci.github import github
from shipline.deliver.ci.gitlab import gitlab
from shipline.deliver.ci.section import CiSection
from shipline.deliver.ci.steps import Pin, Pins
from shipline.deliver.ci.workflow import Login, Signing, Unread, Workflow, with_variables

__all__ = [
    "INPUTS",
    "LEFT_OUT",
    "CiSection",
    "FileState",
    "Freshness",
    "Invocation",
    "Login",
    "Pin",
    "Pins",
    "Signing",
    "Unread",
    "Workflow",
    "buildx",
    "freshness",
    "github",
    "gitlab",
    "invocation",
    "kind_of",
    "left_out",
    "with_variables",
]
