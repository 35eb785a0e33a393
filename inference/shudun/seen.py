"""Which ids a job has met, exactly and in flat memory: a temporary SQLite table of 128-bit digests."""

from __future__ import annotations

import hashlib
import sqlite3

CACHE_KIB = 32 * 1024


class SeenIds:
    """A set of ids that spills to a temporary file; use it as a context manager."""

    def __enter__(self) -> SeenIds:
        # An empty name is SQLite's private temporary database: in memory up to the cache size, then on disk.
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.executescript(
            f"PRAGMA cache_size=-{CACHE_KIB}; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
            "CREATE TABLE seen (digest BLOB PRIMARY KEY) WITHOUT ROWID; BEGIN;"
        )
        return self

    def __exit__(self, *exc: object) -> None:
        self._db.close()

    def add(self, row_id: str) -> bool:
        """Add an id; `False` when it was there already."""
        digest = hashlib.blake2b(row_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        return self._db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (digest,)).rowcount == 1
