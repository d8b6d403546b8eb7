"""All that is computed from, opened once."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Required, TypedDict, Unpack

from safetensors import SafetensorError, safe_open

from pipeline.base import plain_json
from pipeline.base.errors import UserError
from pipeline.base.failing import place
from pipeline.codes.reader import Codes
from pipeline.config import HeadsParams, LayerSpec, ReportParams
from pipeline.data.manifest import Failure, Manifest, read_failures
from pipeline.figures.advice import read_advice
from pipeline.figures.compare import compare
from pipeline.figures.finetuned import read_finetuned
from pipeline.figures.records.retrieval import Retrieved
from pipeline.figures.records.runs import Comparison, Run
from pipeline.figures.records.strategies import Finetuned
from pipeline.figures.records.training import TunedNetwork
from pipeline.figures.retrieved import read_retrieved
from pipeline.figures.runs import read_runs
from pipeline.figures.thumbnails import Album
from pipeline.figures.tuned_network import read_tuned_network
from pipeline.nets import backbone
from pipeline.strategies.sanity import step

# pipeline.nets.weights has the same name for it, and loads torch.
WEIGHTS_KEY = "cnncodes"


@dataclass(frozen=True, eq=False)
class Inputs:
    """`root` has a folder a stage. `codes` is by spec, in the order of params.yaml, and empty where strategies alone
    were trained. `runs` is empty there, and for a set without labels; `retrieved` and `finetuned` where their stages
    were not asked for; `advice` and `tuned_network` are None without their stages; `sanity` is by strategy."""

    root: Path
    manifest: Manifest
    failures: Sequence[Failure]  # of all kinds
    codes: Mapping[str, Codes]
    runs: tuple[Run, ...]
    retrieved: tuple[Retrieved, ...]
    finetuned: tuple[Finetuned, ...]
    advice: Mapping[str, Any] | None
    sanity: Mapping[str, Sequence[step.Step]]
    tuned_network: TunedNetwork | None
    params: ReportParams
    heads_params: HeadsParams
    weights: Mapping[str, Any]
    album: Album

    @functools.cached_property
    def lost(self) -> tuple[Failure, ...]:
        """Images that are not in the set: they are broken, or of a format that isn't read."""
        return tuple(f for f in self.failures if f.is_image)

    @property
    def specs(self) -> tuple[str, ...]:
        return tuple(self.codes)

    @property
    def name(self) -> str:
        """What the images are called: their folder's or file's name, or the set that they come from."""
        manifest = self.manifest
        return manifest.root.resolve().name if manifest.source in ("folder", "hdf5") else manifest.source

    @property
    def heads(self) -> tuple[str, ...]:
        return tuple(self.heads_params.heads)

    @functools.cached_property
    def comparison(self) -> Comparison | None:
        """None without labels."""
        if not self.runs:
            return None
        return compare(self.runs, self.root / "heads", metric=self.params.selection, alpha=self.params.alpha)

    @functools.cached_property
    def settings(self) -> dict[str, dict[str, Any]]:
        """spec -> everything that its codes depend on."""
        return {spec: dict(codes.settings) for spec, codes in self.codes.items()}

    def side(self, spec: str) -> int:
        """Pixels of the side, the shorter one of whole images, at which a spec's images were seen (the least scale)."""
        settings = self.settings[spec]
        return int(settings["crop"] or min(settings["scales"]))

    @functools.cached_property
    def arch(self) -> str:
        return str(next(iter(self.settings.values()), self.weights)["arch"])

    @functools.cached_property
    def layer_order(self) -> tuple[str, ...]:
        """Layer names in the order in which the network computes them, from the first to the deepest that is used."""
        used = [LayerSpec.parse(spec).layer for spec in self.specs]
        about = backbone.find(self.arch)
        names = backbone.names(about)
        return names[: names.index(backbone.deepest_of(about, used)) + 1]

    def depth(self, spec: LayerSpec) -> int:
        """The layer's place in the network."""
        return self.layer_order.index(spec.layer)

    @functools.cached_property
    def by_depth(self) -> tuple[str, ...]:
        """`specs` in network order; those of one layer stay as they came."""
        return tuple(sorted(self.specs, key=lambda s: self.depth(LayerSpec.parse(s))))

    @functools.cached_property
    def best_spec(self) -> str:
        """The winner's codes; without labels the deepest layer's, of several the smallest."""
        if self.comparison is not None:
            return self.comparison.best.spec.name
        return max(self.specs, key=lambda s: (self.depth(LayerSpec.parse(s)), -self.codes[s].dim))


class Wanted(TypedDict, total=False):
    """Names of what to report on: codes, hashes, strategies of the finetune stage, and those that were checked."""

    specs: Required[Sequence[str]]
    retrieval: Sequence[str]
    strategies: Sequence[str]
    sanity: Sequence[str]


def read_inputs(root: Path, params: ReportParams, *, heads: HeadsParams, **wanted: Unpack[Wanted]) -> Inputs:
    """Opens what the earlier stages left in `root`: dataset/, weights/, codes/, heads/, retrieval/, advise/, sanity/,
    finetune/ and tuned/.

    Raises UserError naming what is missing.
    """
    specs = wanted["specs"]
    finetuned = read_finetuned(root / "finetune", wanted.get("strategies", ()))
    if not specs and not finetuned:
        raise UserError("there are no codes to report on", see="codes.layers in params.yaml")
    manifest = Manifest.read(root / "dataset")
    codes = {spec: Codes.open(root / "codes" / spec) for spec in specs}
    _require_same_images(manifest, codes)
    seen = next(iter(codes.values())).settings if codes else finetuned[0].record["params"]
    return Inputs(
        root=root,
        manifest=manifest,
        failures=read_failures(root / "dataset"),
        codes=codes,
        runs=tuple(read_runs(root / "heads", specs, heads.heads)) if manifest.classes else (),
        retrieved=read_retrieved(root / "retrieval", wanted.get("retrieval", ())),
        finetuned=finetuned,
        advice=read_advice(root / "advise", manifest, specs),
        sanity={name: step.read(root / "sanity" / name) for name in wanted.get("sanity", ())},
        tuned_network=read_tuned_network(root / "tuned"),
        params=params,
        heads_params=heads,
        weights=_weights_facts(root / "weights" / "weights.safetensors"),
        album=Album(manifest, tuple(seen["background"])),
    )


def _require_same_images(manifest: Manifest, codes: Mapping[str, Codes]) -> None:
    known = set(manifest.ids.tolist())
    for spec, one in codes.items():
        if not known.issuperset(one.ids.tolist()):
            raise UserError(f"the codes of {spec} hold images that the dataset does not", see="`dvc repro codes`")


def _weights_facts(path: Path) -> dict[str, Any]:
    """What the canonical weights file says of itself; {} where codes came without it. Reads no tensor."""
    if not path.is_file():
        return {}
    try:
        with place(path), safe_open(path, framework="numpy") as file:
            facts: dict[str, Any] = plain_json.loads((file.metadata() or {}).get(WEIGHTS_KEY, "{}"))
            return facts
    except (SafetensorError, plain_json.JsonError) as e:
        raise UserError(f"{path} is not a canonical weights file ({e})", see="`dvc repro weights`") from None
