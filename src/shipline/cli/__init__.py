"""The command line: the only place that reads argv and the environment, prints and exits."""

from shipline.cli.entry import main
