"""Builders besides the engine of this machine: BuildKit in container engines and elsewhere."""
