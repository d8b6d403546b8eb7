"""How every stage starts and ends: a log on stderr, and the user's errors as one sentence."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from pipeline.errors import UserError


def run(main: Callable[[], None]) -> None:
    """Calls `main` and exits: 0, or 2 with one line on stderr after a UserError, or 130 after Ctrl-C.

    Any other exception is a bug of ours and keeps its traceback.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # It tells of every instruction set that the processor lacks as if something had gone wrong.
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)
    try:
        main()
    except UserError as e:
        print(f"error: {' '.join(str(e).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)
