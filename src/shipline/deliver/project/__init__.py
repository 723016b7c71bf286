"""Looking at a project: which language, which commands, which files it has."""

from shipline.deliver.project.detect import detect_project, guess_image
from shipline.deliver.project.project import DetectedProject, Language, ProjectCheck, Toolchain

__all__ = [
    "DetectedProject",
    "Language",
    "ProjectCheck",
    "Toolchain",
    "detect_project",
    "guess_image",
]
