"""`python -m tests.reliability`: all parts, or those that are named; exit code 1 if a draw shows something wrong."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from pipeline.cli.output import table
from tests.reliability.registry import PARTS
from tests.reliability.state import State, counts

_SAID_EVERY_S = 60


def main() -> int:
    """Runs the draws, says each that is wrong as it is found, and ends with the counts."""
    args = _arguments()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # commands are forked
    state, rows, said = State(args.state, args.seed), list[dict[str, Any]](), time.monotonic()
    for name in args.only or PARTS:
        count = getattr(args, name)
        for row in state.tried(name, PARTS[name].draws(args.seed, None if count == "all" else count)):
            rows.append(row)
            if row["wrong"]:
                _say(f"{name} {row['draw']}: {row['wrong']}")
            if time.monotonic() - said > _SAID_EVERY_S:
                said = time.monotonic()
                _say(f"{name}: {sum(r['part'] == name for r in rows)} draws")
    found = counts(rows)
    _say(table(("part", "draws", "wrong", "seconds"), [(n, c["draws"], c["wrong"], c["s"]) for n, c in found.items()]))
    sys.stdout.write(json.dumps({"seed": args.seed, "parts": found}) + "\n")
    return int(any(c["wrong"] for c in found.values()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.reliability", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=PARTS, help="a part; repeat for more (default: all)")
    parser.add_argument(
        "--state",
        "--resume",
        type=Path,
        default=Path("out/reliability.jsonl"),
        metavar="FILE",
        help="results so far: what it has is not tried again (default: %(default)s)",
    )
    for part in PARTS.values():
        default = "all" if part.count is None else part.count
        parser.add_argument(
            f"--{part.name}", type=_count, default=default, metavar="N", help=f"{part.about}: N or all ({default})"
        )
    return parser.parse_args()


def _count(text: str) -> int | str:
    return text if text == "all" else int(text)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
