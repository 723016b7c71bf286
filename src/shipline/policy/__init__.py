"""Rules that a release must meet: names, quality, trust."""
