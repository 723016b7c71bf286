"""The first files of a project that is shipped: shipline.yaml, Dockerfile, ignored files."""

from shipline.deliver.init.configuration import PLATFORMS, configuration
from shipline.deliver.init.dockerfile import dockerfile, dockerignore, gitignore

__all__ = ["PLATFORMS", "configuration", "dockerfile", "dockerignore", "gitignore"]
