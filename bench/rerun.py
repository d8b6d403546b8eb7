"""A second run over images that are all there, and memory against the number of images.

    python bench/rerun.py --images 10000      # prints a table, then one line of JSON

Each run is a process of its own, as a stage is: its peak memory and its time are its own. Images are tiny and so is the
network: what is timed is everything but the network.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipeline.nets import backbone

# One extraction in a process of its own; prints seconds beside imports, peak memory, whether torch was loaded.
RUN = """
import json, re, sys, time
from pathlib import Path
from pipeline.codes import extract
from pipeline.config import CodesParams
from pipeline.data.manifest import Manifest
here, params = Path(sys.argv[1]), CodesParams.model_validate_json(sys.argv[2])
started_s = time.perf_counter()
codes = extract(Manifest.read(here / "dataset"), here / "weights.safetensors", params, here / "out")
seconds = time.perf_counter() - started_s
# Not getrusage's figure, which is also that of the process this one was forked from.
peak_mb = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
rows = {name: len(c) for name, c in codes.items()}
print(json.dumps({"seconds": seconds, "peak_mb": peak_mb, "torch": "torch" in sys.modules, "rows": rows}))
"""
ARCH = "tinyvgg"
ABOUT = backbone.find(ARCH)
PARAMS = {
    "layers": [f"{ABOUT.advised_from}-avg", f"{ABOUT.short}-avg", f"{ABOUT.top}-flatten"],
    "view": "crop",
    "crop": 32,
    "scales": [32],
    "flip": False,
    "combine": "average",
    "background": [255, 255, 255],
    "reduced_decode": False,
    "precision": "fp32",
    "dtype": "float16",
    "device": "cpu",
    "batch_size": 64,
    "compile": False,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    args = parser.parse_args()
    few = args.images // 10
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, count in (("few", few), ("many", args.images)):
            here = Path(folder) / name
            prepare(here, count)
            found[f"first run, {count} images"] = first = run(here)
            found[f"second run, {count} images"] = second = run(here)
            assert set(first["rows"].values()) == {count} and second["rows"] == first["rows"]
            assert first["torch"] and not second["torch"], "a second run has no need of torch"
    print(f"{'':32}seconds  peak MB")
    for name, r in found.items():
        print(f"{name:32}{r['seconds']:7.2f}  {r['peak_mb']:7.0f}")
    peaks = {name: r["peak_mb"] for name, r in found.items()}
    growth = peaks[f"first run, {args.images} images"] / peaks[f"first run, {few} images"]
    print(f"peak memory, {args.images} over {few} images: {growth:.3f}")
    print(json.dumps({"images": args.images, "runs": found, "peak_growth": growth}))


def prepare(here: Path, count: int) -> None:
    """`count` different 40 x 40 PNGs, their manifest, and random weights."""
    import numpy as np
    from PIL import Image

    from bench.extract import listed
    from pipeline.nets.weights import Weights, random, write_canonical
    from pipeline.nets.weights.preprocessings import TORCHVISION

    (here / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(here / "images" / f"{i}.png")
    listed(here / "images").write(here / "dataset")
    write_canonical(
        Weights.make(ARCH, random.tensors(ARCH, 0), TORCHVISION, {"source": "random:0"}),
        here / "weights.safetensors",
    )


def run(here: Path) -> dict[str, Any]:
    """The figures of one extraction. Its own cache is in `here`."""
    import os

    done = subprocess.run(
        [sys.executable, "-c", RUN, str(here), json.dumps(PARAMS)],
        env=os.environ | {"CNNCODES_CACHE": str(here / "cache")},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


if __name__ == "__main__":
    # The scripts beside this one are a package from the repository's root.
    sys.path.insert(0, str(Path(__file__).parent.parent))
    main()
