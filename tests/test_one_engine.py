"""What a fresh photograph costs from the list of files to the page: how often it is opened, hashed and decoded."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from pipeline import config
from pipeline.advice import run as advice
from pipeline.base.cache import cache_root
from pipeline.codes import extract
from pipeline.config import (
    AdviseParams,
    CodesParams,
    DatasetParams,
    FinetuneParams,
    HeadsParams,
    ReportParams,
    RetrievalParams,
    SanityParams,
    TunedParams,
)
from pipeline.data import decode, digests
from pipeline.data.build import build
from pipeline.data.manifest import Manifest
from pipeline.figures.run import compute
from pipeline.heads.run import fit_head
from pipeline.nets.weights import write_canonical
from pipeline.retrieval.run import run_spec
from pipeline.strategies.run import run_strategy
from pipeline.strategies.sanity.run import check
from pipeline.strategies.sanity.step import write as write_steps
from pipeline.tuned import Protocol, measure
from pipeline.workspace import preset
from tests.pictures import draw_classes
from tests.strategies import world

pytestmark = [pytest.mark.network, pytest.mark.one_precision]  # how often files are read, whatever the codes

LAYER, HASH, STRATEGY = "pool5-avg", "cosine-pool5-avg", "finetune"


class Work:
    """How often each image was opened, hashed and decoded; equal bytes are one image."""

    def __init__(self, root: Path) -> None:
        self.names = {hashlib.sha256(p.read_bytes()).hexdigest(): str(p) for p in sorted(root.rglob("*.png"))}
        self.opened, self.hashed, self.decoded = Counter[str](), Counter[str](), Counter[str]()

    def most(self) -> tuple[int, int, int]:
        """How often the image with the most was opened, hashed and decoded; each may be another image."""
        opened, hashed, decoded = (max(c.values(), default=0) for c in (self.opened, self.hashed, self.decoded))
        return opened, hashed, decoded


_WATCHED: list[Work] = []


def _open(event: str, args: tuple[Any, ...]) -> None:
    """Python tells of every file that is opened, by whatever function; such a hook stays for good."""
    if event == "open" and _WATCHED and isinstance(args[0], str | bytes | os.PathLike):
        path = os.path.normpath(os.fsdecode(args[0]))
        if path in _WATCHED[0].names.values():
            _WATCHED[0].opened[path] += 1


@pytest.fixture(scope="module", autouse=True)
def _hook() -> None:
    sys.addaudithook(_open)


@contextmanager
def counted(work: Work) -> Iterator[None]:
    sha256, file_digest, decoder = hashlib.sha256, hashlib.file_digest, decode._decode

    def hashing(data: Any = b"", **how: Any) -> Any:
        found = sha256(data, **how)
        if len(data) and (name := work.names.get(found.hexdigest())):
            work.hashed[name] += 1
        return found

    def digesting(file: Any, name: str) -> Any:
        found = file_digest(file, name)
        if image := work.names.get(found.hexdigest()):
            work.hashed[image] += 1
        return found

    def decoding(file: BinaryIO, **how: Any) -> Any:
        work.decoded[work.names[sha256(file.read()).hexdigest()]] += 1
        file.seek(0)
        return decoder(file, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashlib, "sha256", hashing)
        patch.setattr(hashlib, "file_digest", digesting)
        patch.setattr(decode, "_decode", decoding)
        _WATCHED.append(work)
        try:
            yield
        finally:
            _WATCHED.clear()


def finetuning(side: int) -> FinetuneParams:
    return world.params(run=["frozen", STRATEGY], scale=side, size=32, epochs=1, precision="fp32")


def codes_params(side: int) -> CodesParams:
    return preset(
        CodesParams, layers=[LAYER], crop=side, scales=[side], precision="fp32", dtype="float32", device="cpu"
    )


def list_images(photos: Path, out: Path) -> Manifest:
    digests.write(str(photos), out / "digests/files.csv", leave_out=[], follow_links=False)
    return build(preset(DatasetParams, root=str(photos), repeats=1), out / "dataset")


def all_stages(out: Path, manifest: Manifest, codes_side: int, trained_side: int) -> None:
    """What dvc.yaml's stages do, in their order, up to those that draw the page."""
    weights, cache = world.weights(), cache_root()
    source = out / "weights/weights.safetensors"
    write_canonical(weights, source)
    codes_of, heads = codes_params(codes_side), preset(HeadsParams, heads=["svm"], c_grid=[1.0])
    retrieval = preset(RetrievalParams, specs=[HASH], timed_queries=2, k=5, neighbours=3, c_grid=[1.0], approximate={})
    training = finetuning(trained_side)
    codes = extract(manifest, source, codes_of, out / "codes")
    fit_head(codes[LAYER], manifest, heads, "svm", out / f"heads/{LAYER}-svm", cache=cache)
    run_spec(config.HashSpec.parse(HASH), out / "codes", manifest, retrieval, out / "retrieval" / HASH, cache=cache)
    advised = advice.advise(codes, manifest, preset(AdviseParams, folds=2), heads, reference=None)
    advice.write(advised, out / "advise")
    for strategy in training.run:
        run_strategy(strategy, manifest, weights, training, out / "finetune" / strategy, cache=cache)
    sane = preset(SanityParams, strategies=["frozen"], overfit_steps=5, sweep_steps=5, epochs=1, rounds=1)
    write_steps("frozen", check("frozen", manifest, weights, training, sane, cache=cache), out / "sanity/frozen")
    tuned = preset(TunedParams, strategy=STRATEGY, layers=[LAYER], heads=["svm"], hashes=[HASH], batch_size=8)
    measure(out / "finetune" / STRATEGY, source, manifest, Protocol(tuned, codes_of, heads, retrieval), out / "tuned")


def page(out: Path) -> None:
    compute(
        out,
        preset(ReportParams, learning_curve=[1.0]),
        heads=preset(HeadsParams, heads=["svm"], c_grid=[1.0]),
        specs=[LAYER],
        retrieval=[HASH],
        strategies=["frozen", STRATEGY],
        sanity=["frozen"],
    )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    root = draw_classes(tmp_path / "photos", per_class=12)
    time.sleep(0.1)  # longer than a file's times need to tell a later change
    return root


# Pixels a side: of codes, and of fine-tuning, whose networks see 32 of them. With the first all see the same view.
@pytest.mark.parametrize(("codes_side", "trained_side"), [(32, 32), (48, 36)])
def test_what_a_fresh_image_costs(codes_side: int, trained_side: int, photos: Path, tmp_path: Path) -> None:
    work, out = Work(photos), tmp_path / "out"
    with counted(work):
        all_stages(out, list_images(photos, out), codes_side, trained_side)
    assert len(work.decoded) == 36
    assert work.most() == (5, 1, 4)
    shown = Work(photos)
    with counted(shown):
        page(out)
    assert max(shown.most()) <= 10
