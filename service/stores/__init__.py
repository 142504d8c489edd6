"""Where the service keeps what outlives a request: replies, results, leases, money counters.

`MemoryStore` and `RedisStore` are the same small interface, `Store`. Nothing here knows what the
bytes mean; `service.judge` and `service.jobs` do.
"""

from service.stores.config import StoreConfig, parse_url
from service.stores.documents import Appended, Contents, Document, Documents
from service.stores.leases import Leases
from service.stores.memory import MemoryStore
from service.stores.port import NANO, Claim, Reservation, Reserved, Store, StoreStats
from service.stores.redis import RedisStore

__all__ = [
    "NANO",
    "Appended",
    "Claim",
    "Contents",
    "Document",
    "Documents",
    "Leases",
    "MemoryStore",
    "RedisStore",
    "Reservation",
    "Reserved",
    "Store",
    "StoreConfig",
    "StoreStats",
    "open_store",
    "parse_url",
]


def open_store(config: StoreConfig) -> Store:
    """Return the store that ``config`` asks for: Redis with a URL, memory without."""
    return MemoryStore(config) if config.url is None else RedisStore(config)
