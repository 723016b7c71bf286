"""Pull-through: content of other registries, fetched when a client asks for it, and kept."""
