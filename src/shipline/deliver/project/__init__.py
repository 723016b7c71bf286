"""Looking at a project: which language, which commands, which files it has."""

from shipline.deliver.project.detect import detect, guess_image
from shipline.deliver.project.project import Check, Language, Project, Toolchain

__all__ = ["Check", "Language", "Project", "Toolchain", "detect", "guess_image"]
