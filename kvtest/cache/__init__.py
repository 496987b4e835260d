# SPDX-License-Identifier: Apache-2.0
"""What is built once and used often: entries that are complete and intact, or not there."""

from kvtest.cache.fingerprint import fingerprint
from kvtest.cache.progress import Progress, silent
from kvtest.cache.store import Entry, Store, digest, trust

__all__ = ["Entry", "Progress", "Store", "digest", "fingerprint", "silent", "trust"]
