"""What one client may ask of the server, so that none can keep it from the others."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config import MEMORY_MB


@dataclass(frozen=True)
class Limits:
    """`upload_bytes` and `pixels` are of one image, `memory_mb` of all that are decoded or in the network at once.
    `requests`, `uploads` and `connections` are at once.

    A body must arrive at `upload_rate_bytes_s` or more, counted from `upload_grace_s` after it began, and a request's
    headers within `header_s`; a client must read on within `send_s`.
    """

    upload_bytes: int = 20 << 20
    pixels: int = 50_000_000
    memory_mb: int = MEMORY_MB
    requests: int = 64
    uploads: int = 12
    connections: int = 400
    header_bytes: int = 16 << 10
    header_s: float = 10.0
    send_s: float = 20.0
    upload_grace_s: float = 3.0
    upload_rate_bytes_s: int = 16 << 10
    results: int = 500
    page_images: int = 200
    kept_queries: int = 256
    picture_cache_bytes: int = 96 << 20
    map_images: int = 2000

    @property
    def upload_s(self) -> float:
        """The longest that a body can take."""
        return self.upload_grace_s + self.upload_bytes / self.upload_rate_bytes_s
