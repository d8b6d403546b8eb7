"""Names as people read them: two that look the same are one class."""

from __future__ import annotations

import unicodedata

# Drawn by nothing: byte-order mark, zero-width space, soft hyphen.
_UNSEEN = str.maketrans("", "", "\ufeff\u200b\u00ad")


def spelled(name: str) -> str:
    """A label, a group or a column in its one spelling: composed Unicode (NFC), single spaces, none around it."""
    return " ".join(unicodedata.normalize("NFC", name.translate(_UNSEEN)).split())
