"""Container engines of this machine that images are loaded into: Docker, Podman, containerd."""

from shipline.engines.engine import Engine, EngineError, LoadableImage, UnpackableImage
from shipline.engines.finding import find_engine, has_docker, open_containerd
