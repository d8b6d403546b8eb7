"""`python -m tests.reliability`: all parts, or those that are named; exit code 1 if a draw shows something wrong."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from pipeline.cli.output import table
from tests.reliability.jobs import Row, cores
from tests.reliability.jobs import rows as tried
from tests.reliability.registry import PARTS
from tests.reliability.state import counts

_SAID_EVERY_S = 60


def main() -> int:
    """Runs the draws, says each that is wrong as it is found, and ends with the counts."""
    args = _arguments()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # commands are forked
    rows, said = list[Row](), time.monotonic()
    asked = {name: None if (count := getattr(args, name)) == "all" else count for name in args.only or PARTS}
    for row in tried(args.state, args.seed, asked, args.jobs):
        rows.append(row)
        name = row["part"]
        if row["wrong"]:
            _say(f"{name} {row['draw']}: {row['wrong']}")
        if time.monotonic() - said > _SAID_EVERY_S:
            said = time.monotonic()
            _say(f"{name}: {sum(r['part'] == name for r in rows)} draws")
    found = counts(sorted(rows, key=lambda row: list(asked).index(row["part"])))
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
    parser.add_argument(
        "--jobs", type=_jobs, default=cores(), metavar="N", help="processes that share the draws (%(default)s)"
    )
    for part in PARTS.values():
        default = "all" if part.count is None else part.count
        parser.add_argument(
            f"--{part.name}", type=_count, default=default, metavar="N", help=f"{part.about}: N or all ({default})"
        )
    return parser.parse_args()


def _count(text: str) -> int | str:
    return text if text == "all" else int(text)


def _jobs(text: str) -> int:
    if (jobs := int(text)) < 1:
        raise argparse.ArgumentTypeError("1 or more")
    return jobs


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
