"""What one client may ask of the server, so that none can keep it from the others."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config import MEMORY_MB


@dataclass(frozen=True)
class Limits:
    """`upload_bytes` and `pixels` are of one image, `memory_mb` of all that are decoded or in the network at once. An
    image of more than `whole_pixels` is decoded at a reduced size, or refused if its format has none.

    `requests`, `uploads` and `connections` are at once, `..._each` those of one address.

    A body must arrive at `upload_rate_bytes_s` or more, counted from `upload_grace_s` after it began, and a request's
    headers within `header_s`; a client must read on within `send_s`, and end a body that nobody waits for any more
    within `linger_s`. An upload that took `upload_patience_s` gives its place to another where all are taken.
    """

    upload_bytes: int = 20 << 20
    pixels: int = 50_000_000
    whole_pixels: int = 24_000_000
    memory_mb: int = MEMORY_MB
    requests: int = 64
    requests_each: int = 32
    uploads: int = 12
    uploads_each: int = 6
    connections: int = 400
    connections_each: int = 100
    header_bytes: int = 16 << 10
    header_s: float = 10.0
    send_s: float = 20.0
    upload_grace_s: float = 3.0
    upload_rate_bytes_s: int = 32 << 10
    upload_patience_s: float = 10.0
    linger_s: float = 5.0
    results: int = 500
    page_images: int = 200
    kept_queries: int = 256
    picture_cache_bytes: int = 96 << 20
    map_images: int = 2000

    @property
    def upload_s(self) -> float:
        """The longest that a body can take."""
        return self.upload_grace_s + self.upload_bytes / self.upload_rate_bytes_s
