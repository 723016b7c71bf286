"""Fuzzing of readers with atheris: `make fuzz TARGET=tar`, or `python -m fuzz tar` in `tests`."""
