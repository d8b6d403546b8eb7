"""`-S section.key=value` on each command that reads params, and the kind of an index, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import config
from pipeline.base.errors import UserError
from pipeline.collection import Collection
from pipeline.config import PRESET_SECTIONS, assigned, over
from tests.cli.test_search import BUILD, run
from tests.cli.test_shown import commands, help_of
from tests.codes.conftest import draw

pytestmark = [pytest.mark.network, pytest.mark.one_precision]  # the command line; the library's tests are run in both

# Command -> the sections that it reads, and its arguments where images are read.
READS: dict[str, tuple[set[str], list[str]]] = {
    "extract": ({"dataset", "weights", "codes"}, ["photos", "--out", "made"]),
    "export-images": ({"dataset"}, ["photos", "--to", "hdf5", "--out", "made", "--size", "8"]),
    "compare": ({"heads", "report"}, ["photos"]),
    "advise": ({"dataset", "weights", "codes", "heads", "advise"}, ["photos"]),
    "weights reference": ({"dataset", "weights", "codes"}, ["photos"]),
    "finetune": ({"dataset", "weights", "finetune", "report"}, ["photos", "--out", "made"]),
    "lr-find": ({"dataset", "weights", "finetune"}, ["photos"]),
    "sanity": ({"dataset", "weights", "finetune", "sanity"}, ["photos"]),
    "index build": ({"dataset", "weights", "codes", "index"}, ["photos", "--out", "made"]),
    "index add": ({"dataset"}, ["made", "photos"]),
}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNCODES_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i in range(12):
        draw(tmp_path / "photos" / ("犬" if i % 2 else "çat") / f"{i}.png", i)
    return tmp_path / "photos"


def test_values_are_yaml() -> None:
    texts = [
        "codes.image.crop=96",
        "codes.image.scales=[96, 128]",
        "dataset.name=",
        "codes.image.flip=true",
        "dataset.seed=1",
    ]
    found = assigned([*texts, "dataset.seed=2", "dataset.leave_out=['a=b', on]"], PRESET_SECTIONS)
    assert found == {
        "codes": {"crop": 96, "scales": [96, 128], "flip": True},
        "dataset": {"name": None, "seed": 2, "leave_out": ["a=b", "on"]},
    }


def test_keys_go_as_deep_as_the_section_does() -> None:
    texts = ["finetune.optimiser.schedule.kind=step", "finetune.strategies.mine.labels.cat=[a]", "index.tables=3"]
    assert assigned(texts, PRESET_SECTIONS) == {
        "finetune": {"schedule": {"kind": "step"}, "strategies": {"mine": {"labels": {"cat": ["a"]}}}},
        "index": {"tables": 3},
    }
    assert over({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 9}, "e": {}}) == {"a": {"b": 9, "c": 2}, "d": 3, "e": {}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("codes.corp=96", "codes has no key 'corp'; allowed: codes.image.crop"),
        ("codse.crop=96", "reads no section 'codse'; allowed: codes"),
        (
            "finetune.optimiser.schedule.knd=step",
            "finetune.optimiser.schedule has no key 'knd'; allowed: finetune.optimiser.schedule.kind",
        ),
        ("finetune.strategies.mine.multipel=1", "has no key 'multipel'; allowed: finetune.strategies.mine.multiple"),
        ("index.zzz=1", "allowed: index.kind, index.tables, index.table_bits, index.flips, index.lists, index.probes"),
        ("codes.image.crop.x=96", "codes.image.crop has no keys; allowed: -S codes.image.crop=VALUE"),
        ("codes.image.crop", "'codes.image.crop' sets no key; allowed: SECTION.KEY=VALUE"),
        ("codes=1", "sets no key"),
        ("codes..crop=1", "sets no key"),
        ("codes.image.scales=[96", "-S codes.image.scales is not YAML"),
        ("codes.image.scales=" + "[" * 5000, "-S codes.image.scales is not YAML"),
        ("codes.image.scales=" + "9" * 200_000, "longer than settings are"),
    ],
)
def test_what_is_wrong_is_told(text: str, message: str) -> None:
    with pytest.raises(UserError) as e:
        assigned([text], PRESET_SECTIONS)
    assert message in str(e.value)
    with pytest.raises(UserError, match=r"no section 'other'.*no section 'more'"):
        assigned(["other.key=1", "more.key=1"], PRESET_SECTIONS)


@pytest.mark.parametrize("text", ["finetune.optimiser.schedule=1", "finetune.optimiser.schedule.kind=step"])
def test_a_part_and_its_whole(text: str) -> None:
    other = (
        "finetune.optimiser.schedule.kind=step"
        if text.endswith("1")
        else "finetune.optimiser.schedule={kind: step, every: 2}"
    )
    if text.endswith("1"):
        with pytest.raises(UserError, match="sets a part of what another -S sets"):
            assigned([text, other], PRESET_SECTIONS)
    else:
        assert assigned([text, other], PRESET_SECTIONS)["finetune"]["schedule"] == {"kind": "step", "every": 2}


def test_every_command_with_the_option_is_known() -> None:
    having = {name for name, one in commands().items() if any("-S" in param.opts for param in one.params)}
    assert having == READS.keys()


@pytest.mark.parametrize("command", READS)
def test_help_names_the_sections(command: str) -> None:
    sections = READS[command][0]
    option = next(param for param in commands()[command].params if "-S" in param.opts)
    said = option.help.removeprefix("Set any key of ").partition(", as docs")[0]
    assert set(said.split(", ")) == sections
    assert "SECTION.KEY=VALUE" in help_of(command)


@pytest.mark.parametrize("command", READS)
def test_unknown_keys_end_with_2_before_an_image_is_looked_for(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sections, args = READS[command]
    for section in config.PRESET_SECTIONS:
        capsys.readouterr()
        assert run([*command.split(), *args, "-S", f"{section}.sede=1"]) == 2
        err = capsys.readouterr().err.splitlines()[-1]
        wanted = f"{section} has no key 'sede'" if section in sections else f"reads no section '{section}'"
        assert wanted in err and "Traceback" not in err
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("command", [c for c in READS if c not in ("compare", "index add")])
def test_bad_values_end_with_2_before_an_image_is_opened(
    command: str, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sections, args = READS[command]
    bad = {
        "dataset": "dataset.seed=x",
        "codes": "codes.compute.batch_size=0",
        "weights": "weights.source=3",
        "heads": "heads.fit.c_grid=[0.0]",
        "advise": "advise.folds=many",
        "finetune": "finetune.loop.epochs=0",
        "report": "report.alpha=3",
        "sanity": "sanity.steps.rounds=0",
        "index": "index.kind=faster",
    }

    def opened(*args: object, **kwargs: object) -> None:
        raise AssertionError("an image was opened")

    monkeypatch.setattr("pipeline.data.build.build", opened)
    weights = [] if command == "export-images" else ["--arch", "tinyvgg", "--weights", "random:0"]
    for section in sections:
        capsys.readouterr()
        options = [] if section == "weights" else weights
        assert run([*command.split(), *args, *options, "-S", bad[section]]) == 2, section
        err = capsys.readouterr().err.splitlines()[-1]
        assert bad[section].partition("=")[0].rpartition(".")[2] in err or "weights" in err, err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--view", "crop", "-S", "codes.image.view=squash"], "-S sets codes.image.view, as another option does"),
        (["-S", "dataset.root=/etc"], "-S sets dataset.root; allowed: images as the argument"),
        (["--weights", "random:0", "-S", "weights.source=demo"], "as another option does"),
        (["--arch", "vgg16", "-S", "weights.arch=vgg11"], "as another option does"),
        (["-S", "weights.source=file"], "names no file"),
        (["-S", "weights.source=demo", "-S", "weights.file=a.pth"], "weights.file with weights.source 'demo'"),
        (["-S", "codes.layers=conv5_3-avg"], "codes.layers 'conv5_3-avg'; allowed: a list"),
    ],
)
def test_two_ways_at_once(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["extract", "photos", "--out", "made", *args]) == 2
    assert message in capsys.readouterr().err


def test_codes_are_made_as_set(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = ["weights.arch=tinyvgg", "weights.source=random:0", "codes.image.crop=64", "codes.image.scales=[64]"]
    sets += ["codes.layers=[conv3_3-max]", "codes.dtype=float32", "dataset.repeats=2"]
    args = [part for text in sets for part in ("-S", text)]
    assert run(["extract", "photos", "--out", "made", *args]) == 0
    capsys.readouterr()
    assert run(["info", "made", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["conv3_3-max"] and found["conv3_3-max"]["dtype"] == "float32"
    assert found["conv3_3-max"]["settings"]["arch"] == "tinyvgg"
    assert (
        run(["compare", "made", "-S", "heads.heads=[knn]", "-S", "heads.fit.k_grid=[1]", "-S", "report.map_images=0"])
        == 0
    )
    assert [p.name for p in Path("made/heads").iterdir()] == ["conv3_3-max-knn"]


def test_an_index_of_another_kind(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = ["-S", "index.tables=4", "-S", "index.table_bits=8"]
    assert run(["index", "build", "photos", "--out", "made", *BUILD, "--index", "multihash", *tables]) == 0
    text = capsys.readouterr().out
    assert "index of lsh: multihash (tables 4, table_bits 8, flips 1), finds " in text
    assert run(["index", "info", "made", "--json"]) == 0
    index: dict[str, Any] = json.loads(capsys.readouterr().out)["index"]
    assert index.keys() == {"kind", "settings", "exact", "recall_at_10", "measured_queries"}
    assert (index["kind"], index["exact"], index["measured_queries"]) == ("multihash", False, 12)
    assert index["settings"] == {"tables": 4, "table_bits": 8, "flips": 1}
    own = str(Collection.open("made").ids[0])
    for args, by in (
        (["--method", "lsh"], "multihash"),
        (["--method", "lsh", "--exact"], "exact"),
        (["--method", "lsh", "--radius", "7"], "multihash"),
        (["--method", "lsh", "--radius", "8"], "exact"),
        (["--method", "lsh", "--label", "çat"], "exact"),
        ([], "exact"),
    ):
        assert run(["search", "made", own, "--json", *args]) == 0
        assert json.loads(capsys.readouterr().out)["index"] == by, args


def test_two_stage_is_the_default_where_it_was_asked_for(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["index", "photos", "--out", "made", *BUILD, "-S", "index.kind=hnsw", "--two-stage"]) == 0
    capsys.readouterr()
    assert run(["search", "made", "--random", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["method"], found["index"]) == ("two-stage", "hnsw")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--index", "faster"], "'exact', 'multihash', 'ivf', 'hnsw'"),
        (["--index", "faster"], "index has 1 problem: kind: 'faster' (allowed: "),
        (["-S", "index.tables=4"], "tables: unknown key (allowed: kind)"),
        (["--index", "ivf", "-S", "index.probes=300"], "300 probes of 256 lists"),
        (["--index", "hnsw", "-S", "index.kind=ivf"], "-S sets index.kind, as another option does"),
        (["--index", "hnsw", "-S", "index.links=1000000000"], "links 2 to 128"),
        (["--index", "multihash", "--bits", "32"], "on codes of 32 bits"),
    ],
)
def test_a_wrong_index_ends_with_2(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["index", "build", "photos", "--out", "made", *BUILD, *args]) == 2
    assert message in capsys.readouterr().err
    assert not Path("made").exists()
