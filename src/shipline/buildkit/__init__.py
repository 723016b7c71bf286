"""The API of BuildKit, spoken directly: its daemon as a builder."""
