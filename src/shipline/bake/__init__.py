"""Bake: many targets in definition files, in HCL, JSON or as compose files, to build requests.

files -> definitions -> selection -> permissions -> requests. Reference: docs/bake-reference.md of
docker/buildx.
"""

from __future__ import annotations

from shipline.bake.definitions import Definitions, VariableInfo
from shipline.bake.files import BAKE_FILES, COMPOSE_FILES, DefinitionFile, parse_files, read_files
from shipline.bake.permissions import missing_permissions, parse_permissions
from shipline.bake.requests import (
    CWD,
    git_secrets,
    git_ssh,
    is_remote,
    place_at,
    prepare,
    request_of,
)
from shipline.bake.selection import SelectedTargets, select
from shipline.bake.syntax import BakeError
from shipline.bake.target import Target
