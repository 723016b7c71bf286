"""The first files of a project that is shipped: shipline.yaml, Dockerfile, .dockerignore."""

from shipline.deliver.init.configuration import PLATFORMS, configuration
from shipline.deliver.init.dockerfile import dockerfile, dockerignore

__all__ = ["PLATFORMS", "configuration", "dockerfile", "dockerignore"]
