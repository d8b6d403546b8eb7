"""Extraction against the ordinary way and against the bare network, in one run.

    python bench/extract.py --size 224 --images 64      # prints a table, then one line of JSON

The ordinary way is torchvision's `create_feature_extractor` in float32 behind a DataLoader, batch 16. Images are drawn
JPEGs of about 500 x 375. Every round times each contestant once, in turn, so that a noisy machine slows all alike; the
figures are medians over rounds, after one round that is not counted. Results are checked: our float32 codes against the
ordinary way's, and the lower precision's error against float32.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.models.feature_extraction import create_feature_extractor

from pipeline.base import disk
from pipeline.codes import loading
from pipeline.codes.extraction import extract
from pipeline.codes.forward import Forward
from pipeline.codes.settings import Settings, resolve
from pipeline.codes.weights_header import WeightsHeader
from pipeline.config import CodesParams
from pipeline.data.manifest import Manifest
from pipeline.nets import backbone
from pipeline.nets.weights import Weights, random
from pipeline.nets.weights.preprocessings import TORCHVISION

ARCH = "vgg16"  # one that torchvision has too
ABOUT = backbone.find(ARCH)
# The last layer at each resolution.
LAST = {layer.stride: layer.name for layer in ABOUT.layers() if layer.stride is not None and not layer.inner}
FIVE = [f"{name}-avg" for name in (*list(LAST.values())[:4], ABOUT.top)]
DEEPEST = [f"{ABOUT.top}-avg"]
FLAT = f"{ABOUT.top}-flatten"


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    weights = Weights.make(ARCH, random.tensors(ARCH, 0), TORCHVISION, {"source": "random:0"})
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), weights, args)
        contestants: dict[str, Callable[[], None]] = {
            "ordinary": bench.ordinary,
            "ours": lambda: bench.ours(DEEPEST),
            "ours, five layers": lambda: bench.ours(FIVE),
            "bare forward": bench.bare,
        }
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for round_ in range(args.rounds + 1):
            for name, contestant in contestants.items():
                started_s = time.perf_counter()
                contestant()
                if round_:
                    times[name].append(time.perf_counter() - started_s)
        report(args, bench, {name: statistics.median(t) for name, t in times.items()}, times)


class Bench:
    """The contestants on one set of images. Each does its whole work anew at every call."""

    def __init__(self, folder: Path, weights: Weights, args: argparse.Namespace) -> None:
        self.folder, self.weights, self.args = folder, weights, args
        self.manifest = draw(folder / "images", args.images)
        self.runs = 0
        self.model = torchvision.models.get_model(ARCH, weights=None).eval()
        own = [n.removesuffix(".weight") for n in weights.tensors if n.startswith("conv") and n.endswith(".weight")]
        convs = [m for m in self.model.features if isinstance(m, torch.nn.Conv2d)]
        for conv, name in zip(convs, own, strict=True):
            conv.weight.data = weights.tensors[f"{name}.weight"]
            conv.bias.data = weights.tensors[f"{name}.bias"]
        self.extractor = create_feature_extractor(self.model, {"features.30": ABOUT.top})
        self.precision = next(iter(self.settings(DEEPEST).values())).precision
        self.forward = Forward(weights, list(self.settings(DEEPEST).values()))
        shape = (1, args.batch, 1, args.size, args.size, 3)
        self.pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        self.ordinary_rows = self.our_rows = np.empty(0)

    def params(self, layers: list[str], **changes: Any) -> CodesParams:
        size, args = self.args.size, self.args
        values = {
            "layers": layers,
            "view": "crop",
            "crop": size,
            "scales": [size],
            "flip": False,
            "combine": "average",
            "background": [255, 255, 255],
            "reduced_decode": args.reduced_decode,
            "precision": args.precision,
            "dtype": "float32",
            "device": args.device,
            "batch_size": args.batch,
            "compile": args.compile,
        }
        return CodesParams.model_validate(values | changes)

    def settings(self, layers: list[str], **changes: Any) -> dict[str, Settings]:
        h = WeightsHeader.of(self.weights)
        params = self.params(layers, **changes)
        return resolve(params, arch=h.arch, weights_sha256=h.sha256, normalisation=h.normalisation)

    def ordinary(self) -> None:
        loader = DataLoader(Jpegs(self.manifest, self.args.size), batch_size=16, num_workers=2)
        device = "cuda" if next(iter(self.settings(DEEPEST).values())).device == "cuda" else "cpu"
        model = self.extractor.to(device)
        with torch.no_grad():
            rows = [model(x.to(device))[ABOUT.top].mean(dim=(2, 3)).cpu() for x in loader]
        self.ordinary_rows = torch.cat(rows).numpy()

    def ours(self, layers: list[str]) -> None:
        """From files to parts on disk, with an empty store."""
        self.runs += 1
        here = self.folder / f"run{self.runs}"
        codes = extract(self.manifest, self.weights, self.params(layers), here / "out", cache=here / "cache")
        self.our_rows = codes[DEEPEST[0]].rows(slice(None))

    def bare(self) -> None:
        """The network alone, of the same precision and batch, as often as the images need."""
        x = self.forward.normalised(torch.from_numpy(self.pixels[0, :, 0]))
        with torch.inference_mode():
            for _ in range(-(-self.args.images // self.args.batch)):
                y = self.forward._run(x)[ABOUT.top]
        y.float().sum().item()

    def errors(self) -> dict[str, float]:
        """Relative L2 errors: float32 against torchvision's own forward on the same inputs, bf16 against float32."""
        images = [loading.load_views(source(self.manifest, i), self.one())[0] for i in range(self.args.check)]
        batch = loading.Batch([], [np.stack(images)[None, :, None]])
        x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
        x = (x - torch.tensor(TORCHVISION.mean).view(1, 3, 1, 1)) / torch.tensor(TORCHVISION.std).view(1, 3, 1, 1)
        with torch.inference_mode():
            want = self.extractor.cpu()(x)[ABOUT.top].flatten(1).numpy()
        found = {}
        for precision in ("fp32", "bf16"):
            settings = self.settings([FLAT], precision=precision)
            rows = Forward(self.weights, list(settings.values())).launch(batch)().rows[FLAT]
            found[precision] = float(np.linalg.norm(rows - want) / np.linalg.norm(want))
        return found

    def one(self) -> Settings:
        return next(iter(self.settings(DEEPEST).values()))


class Jpegs(Dataset[torch.Tensor]):
    """The ordinary way's transforms."""

    def __init__(self, manifest: Manifest, size: int) -> None:
        from torchvision import transforms

        self.manifest = manifest
        self.transform = transforms.Compose(
            [
                transforms.Resize(size),
                transforms.CenterCrop(size),
                transforms.ToTensor(),
                transforms.Normalize(TORCHVISION.mean, TORCHVISION.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, row: int) -> torch.Tensor:
        with Image.open(self.manifest.file(row)) as image:
            made: torch.Tensor = self.transform(image.convert("RGB"))
        return made


def draw(root: Path, count: int) -> Manifest:
    """Smooth noise with some grain, as JPEGs of about 500 x 375 and 60 KB."""
    root.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        width, height = (500, 375) if i % 3 else (375, 500)
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((width, height))
        grain = rng.normal(0, 12, (height, width, 3))
        pixels = np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{i:05d}.jpg", quality=85)
    return listed(root)


def listed(root: Path) -> Manifest:
    """A manifest of the files in a flat folder, all of them different."""
    found = sorted((disk.sha256(p), p) for p in root.iterdir())
    sizes = []
    for _, path in found:
        with Image.open(path) as image:
            sizes.append(image.size)
    blank = np.array([""] * len(found))
    return Manifest(
        root=root,
        source="folder",
        ids=np.array([f"{digest[:16]}-0" for digest, _ in found]),
        paths=np.array([path.name for _, path in found]),
        labels=blank,
        groups=blank,
        sha256=np.array([digest for digest, _ in found]),
        widths=np.array([w for w, _ in sizes]),
        heights=np.array([h for _, h in sizes]),
        splits=np.array([["train"] * len(found)]),
        seed=0,
        from_source=(),
    )


def source(manifest: Manifest, row: int) -> loading.Source:
    return loading.Source((manifest.file(row),), str(manifest.sha256[row]), 1 << 30)


def report(args: argparse.Namespace, bench: Bench, median_s: dict[str, float], times: dict[str, list[float]]) -> None:
    errors = bench.errors()
    far = np.linalg.norm(bench.our_rows - bench.ordinary_rows) / np.linalg.norm(bench.ordinary_rows)
    ours_s = median_s["ours"]
    ratios = {
        "times_the_ordinary_way": median_s["ordinary"] / ours_s,
        "share_of_bare_forward": median_s["bare forward"] / ours_s,
        "five_layers_over_deepest": median_s["ours, five layers"] / ours_s,
    }
    hardware = f"{processor()}, {args.threads} threads, torch {torch.__version__}"
    print(
        f"{args.images} JPEGs at {args.size}, batch {args.batch}, {bench.precision}, {args.rounds} rounds; {hardware}"
    )
    for name, seconds in median_s.items():
        spread = f"{min(times[name]):.2f} to {max(times[name]):.2f} s"
        print(f"  {name:20} {args.images / seconds:9.2f} images/s   ({spread})")
    for name, value in (ratios | {f"relative_l2_{k}": v for k, v in errors.items()}).items():
        print(f"  {name:28} {value:.4g}")
    result = {"size": args.size, "images": args.images, "batch": args.batch, "precision": bench.precision}
    result |= {"rounds": args.rounds, "median_s": median_s, "hardware": hardware, "relative_l2": errors} | ratios
    print(json.dumps(result))
    # The two ways resize alike but not to the bit, so this bound is wider than that on equal pixels.
    if far > 0.03 or errors["fp32"] > 1e-5 or errors["bf16"] > 1e-2:
        sys.exit(f"wrong result: {far:.3g} from the ordinary way, errors {errors}")


def processor() -> str:
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*:\s*(.*)", text)
    flags = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if re.search(rf"\b{f}\b", text)]
    return f"{name[1] if name else platform.processor()} ({' '.join(flags)})"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"))
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    parser.add_argument("--check", type=int, default=4, help="images in the error check")
    parser.add_argument("--reduced-decode", action="store_true")
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
