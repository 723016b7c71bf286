"""Content addressed by digest: protocols, stores and copying."""

from shipline.content.cache_store import (
    CACHE_DOCUMENT_LIMIT,
    CacheReader,
    CacheStore,
    Merge,
    OpenCache,
)
from shipline.content.graph import copy_graph, successors
from shipline.content.layout import OciLayout
from shipline.content.memory import MemoryStore
from shipline.content.protocols import (
    Advance,
    Exister,
    Fetcher,
    Ingest,
    Ingester,
    Mounter,
    Pusher,
    Reader,
    Repository,
    Resolver,
    Store,
    Swapper,
    Tagger,
)
from shipline.content.readers import (
    CHUNK,
    VerifiedReader,
    again_elsewhere,
    chunks,
    fetch_all,
    read_file,
    seal,
    unseal,
    write_file,
)
from shipline.content.recency import Recency, try_lock
from shipline.content.repository_cache import (
    CACHE_CONFIG,
    INLINE_CACHE,
    CacheRepository,
    RepositoryCache,
    inline_documents,
)
from shipline.content.store import Follow, LocalIngest, LocalStore

__all__ = [
    "CACHE_CONFIG",
    "CACHE_DOCUMENT_LIMIT",
    "CHUNK",
    "INLINE_CACHE",
    "Advance",
    "CacheReader",
    "CacheRepository",
    "CacheStore",
    "Exister",
    "Fetcher",
    "Follow",
    "Ingest",
    "Ingester",
    "LocalIngest",
    "LocalStore",
    "MemoryStore",
    "Merge",
    "Mounter",
    "OciLayout",
    "OpenCache",
    "Pusher",
    "Reader",
    "Recency",
    "Repository",
    "RepositoryCache",
    "Resolver",
    "Store",
    "Swapper",
    "Tagger",
    "VerifiedReader",
    "again_elsewhere",
    "chunks",
    "copy_graph",
    "fetch_all",
    "inline_documents",
    "read_file",
    "seal",
    "successors",
    "try_lock",
    "unseal",
    "write_file",
]
