"""Content addressed by digest: protocols, stores and copying."""

from shipline.content.cache_store import CacheReader, CacheStore, OpenCache
from shipline.content.contention import attempts, settling
from shipline.content.graph import copy_graph, fetch_document, fetch_image, successors
from shipline.content.layout import (
    OciLayout,
    adding_images,
    find_entry,
    of_type,
    referrers_by_subject,
)
from shipline.content.memory import MemoryStore
from shipline.content.protocols import (
    Advance,
    Assumer,
    Exister,
    Fetcher,
    Ingest,
    Ingester,
    Reader,
    Repository,
    Resolver,
    Store,
    Swapper,
    Uploader,
    unwrapped,
)
from shipline.content.readers import (
    CHUNK,
    VerifiedReader,
    again_elsewhere,
    chunks,
    fetch_all,
    fetch_rest,
    read_file,
    seal,
    unseal,
    write_file,
)
from shipline.content.recency import Recency, try_lock
from shipline.content.repository_cache import (
    INLINE_CACHE,
    CacheRepository,
    RepositoryCache,
    inline_documents,
)
from shipline.content.store import Follow, LocalIngest, LocalStore
