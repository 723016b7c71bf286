"""Detects what a project is: its language, commands and files."""

from shipline.deliver.project.detect import detect_project, guess_image
from shipline.deliver.project.project import DetectedProject, Language, ProjectCheck, Toolchain
