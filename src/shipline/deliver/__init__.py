"""Files for CI systems, the action of this repository, and the first files of a project."""
