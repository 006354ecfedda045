"""One root seed; every stream of random numbers is derived from it by name."""

import hashlib


def derive(root: int, *names: str | int) -> int:
    """A seed in [0, 2^32) for the stream called `names` under `root`. Streams of different names are independent."""
    text = "/".join(map(str, (root, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
