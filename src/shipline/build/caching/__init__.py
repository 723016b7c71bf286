"""Caches outside of this machine, in the form of BuildKit: read before a build, written in it."""
