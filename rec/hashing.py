"""A hash of texts that is the same in every process and on every machine."""

import hashlib


def stable_hash(text: str) -> int:
    """64 bits of BLAKE2b, 0 to 2^64 - 1."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
