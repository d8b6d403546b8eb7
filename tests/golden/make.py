"""Makes the golden files: by hand, at a commit whose results are to be kept.

    python -m tests.golden.make keys bytes old codes   # all but the demo's, in a minute
    python -m tests.golden.make demo OUT               # from the `out/` of a demo that ran in float32

Each file says the commit that made it. Nothing here runs in a test.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.golden import demo, doors, fixed, grid, networks, plain, world

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", help="some of keys, bytes, old, codes; or demo and a folder")
    asked = parser.parse_args().what
    if asked[0] == "demo":
        out = Path(asked[1]).resolve()
        write("demo/tables.json", demo.tables(out), checkout=out.parent)
        return
    for name in asked:
        MAKERS[name]()


def write(name: str, values: dict[str, Any], *, checkout: Path = HERE.parents[1]) -> None:
    """A line a value of the second level, so that a change of one shows as one line. `checkout`: of the commit that
    made the values."""
    lines = []
    for key, value in ({"commit": commit(checkout)} | values).items():
        if isinstance(value, dict) and value:
            inner = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in value.items())
            lines.append(f" {json.dumps(key)}: {{\n{inner}\n }}")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    (HERE / name).parent.mkdir(exist_ok=True)
    (HERE / name).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def commit(checkout: Path) -> str:
    """The last commit that touched what the golden files are made from. They hold the product, not themselves."""
    watched = ["pipeline", "stages", "params.yaml"]
    if subprocess.run(["git", "status", "--porcelain", *watched], capture_output=True, check=True, cwd=checkout).stdout:
        raise SystemExit("pipeline/, stages/ or params.yaml differ from the last commit: golden files name a commit")
    asked = ["git", "log", "-1", "--format=%H", "--", *watched]
    return subprocess.run(asked, capture_output=True, check=True, text=True, cwd=checkout).stdout.strip()


def make_keys() -> None:
    base = next(iter(doors.records(arch="vgg16", weights_sha256=fixed.WEIGHTS_SHA256, normalisation=fixed.CAFFE,
                                   codes={"layers": ["conv5_3-avg"]}).values()))  # fmt: skip
    cases = {}
    for name, asked in grid.cases():
        found = doors.records(
            arch=asked["arch"],
            weights_sha256=asked["sha256"],
            normalisation=asked["normalisation"],
            codes=asked["codes"],
        )
        specs = {
            spec: {"key": doors.key(one), "differs": {k: v for k, v in one.items() if k not in base or base[k] != v}}
            for spec, one in found.items()
        }
        cases[name] = {"asked": asked, "specs": specs}
    elsewhere = {device: doors.key(base | {"device": device}) for device in grid.ELSEWHERE}
    write("keys.json", {"base": base, "elsewhere": elsewhere, "cases": cases})


def make_bytes() -> None:
    written = {}
    for name, write_files in fixed.WRITTEN.items():
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            out.mkdir()
            write_files(out)
            written[name] = {
                plain.name_of(file): {
                    "sha256": plain.sha256((out / file).read_bytes()),
                    "content": plain.content(out / file),
                }
                for file in plain.files(out)
            }
    flat = {f"{name}/{file}": about for name, files in written.items() for file, about in files.items()}
    write("bytes.json", {"versions": plain.versions(), "files": flat})


MAKERS: dict[str, Callable[[], None]] = {
    "keys": make_keys,
    "bytes": make_bytes,
    "old": lambda: write("old.json", world.make(HERE / "old.tar.gz")),
    "codes": lambda: write("codes.json", networks.make()),
}


if __name__ == "__main__":
    main()
