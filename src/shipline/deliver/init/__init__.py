"""The first files of a project that is shipped: shipline.yaml, Dockerfile, ignored files."""

from shipline.deliver.init.configuration import PLATFORMS, initial_config
from shipline.deliver.init.dockerfile import (
    initial_dockerfile,
    initial_dockerignore,
    initial_gitignore,
)

__all__ = [
    "PLATFORMS",
    "initial_config",
    "initial_dockerfile",
    "initial_dockerignore",
    "initial_gitignore",
]
