"""A new version takes over step by step: weights written to git, and what is measured meanwhile."""

from shipline.deliver.canary.section import CanarySection
