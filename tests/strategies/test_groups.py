"""The per-layer table: exact, complete, and what it says is what is trained."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.base.errors import UserError
from pipeline.config import TableEntry
from pipeline.strategies import groups
from pipeline.strategies.outputs import never_trained, trained_text

SHAPES: dict[str, tuple[int, ...]] = {
    "conv1_1.weight": (4, 3, 3, 3),
    "conv1_1.bias": (4,),
    "bn1_1.weight": (4,),
    "bn1_1.bias": (4,),
    "conv1_2.weight": (4, 4, 3, 3),
    "conv1_2.bias": (4,),
    "fc6.weight": (10, 16),
    "fc6.bias": (10,),
}


def entry(*layers: str, **changes: Any) -> TableEntry:
    values: dict[str, Any] = {"multiple": 1.0, "weight_decay": 0.1, "l1": 0.2, "optimiser": "", "from_epoch": 0}
    return TableEntry(layers=list(layers), **(values | changes))


def resolved(*table: TableEntry, decay_biases: bool = False) -> list[groups.Group]:
    return groups.resolve(SHAPES, table, optimiser="sgd", decay_biases=decay_biases)


def test_biases_and_norms_have_no_penalty_unless_asked() -> None:
    table = [entry("conv*", "bn*", multiple=0.1), entry("fc6", optimiser="adam")]
    found = {name: g for g in resolved(*table) for name in g.parameters}
    for name, group in found.items():
        penalised = name in ("conv1_1.weight", "conv1_2.weight", "fc6.weight")
        assert (group.weight_decay, group.l1) == ((0.1, 0.2) if penalised else (0.0, 0.0)), name
        assert group.multiple == (1.0 if name.startswith("fc6") else 0.1)
        assert group.optimiser == ("adam" if name.startswith("fc6") else "sgd")
    assert all(g.weight_decay == 0.1 for g in resolved(*table, decay_biases=True))


@given(st.lists(st.sampled_from(["conv1_1", "bn1_1", "conv1_2", "fc6"]), unique=True, min_size=1))
def test_every_parameter_is_in_exactly_one_group(first: list[str]) -> None:
    rest = sorted({groups.layer_of(n) for n in SHAPES} - set(first))
    found = resolved(entry(*first), *([entry(*rest, multiple=0.0)] if rest else []))
    names = [name for g in found for name in g.parameters]
    assert sorted(names) == sorted(SHAPES)
    assert sum(g.values for g in found) == 108 + 4 + 8 + 144 + 4 + 160 + 10


def test_all_that_is_wrong_is_one_error() -> None:
    with pytest.raises(UserError) as e:
        resolved(entry("conv1_1", "conv9_9"), entry("conv1_*"), entry("fc7"))
    text = str(e.value)
    assert "no entry for bn1_1.weight, bn1_1.bias, fc6.weight, fc6.bias" in text
    assert "more than one entry for conv1_1.weight (conv1_1, conv9_9 and conv1_*)" in text
    assert "conv1_2.weight (" not in text
    assert "no parameters for conv9_9, fc7" in text


def test_a_pattern_that_another_one_of_its_entry_covers_is_no_double() -> None:
    assert sum(g.values for g in resolved(entry("conv1_1", "conv*", "bn1_1", "fc6"))) == 438


def test_the_table_as_text_says_what_is_frozen() -> None:
    text = groups.describe(resolved(entry("conv*", "bn*", multiple=0.0), entry("fc6", multiple=0.5, from_epoch=3)))
    lines = text.splitlines()
    assert len(lines) == 5
    assert [line.split()[-1] for line in lines[1:3]] == ["frozen"] * 2, "no decay nor rate applies to what is frozen"
    assert "0.5" in lines[3]
    assert lines[3].endswith("3")


def in_words(epochs: int, *table: TableEntry) -> str:
    return trained_text(resolved(*table), list(dict.fromkeys(groups.layer_of(name) for name in SHAPES)), epochs)


def test_what_was_trained_in_words() -> None:
    assert in_words(3, entry("*")) == "everything at 1"
    assert in_words(3, entry("*", multiple=0.0)) == "nothing"
    table = [entry("conv1_1", "bn1_1", multiple=0.0), entry("conv1_2", multiple=0.1), entry("fc6", from_epoch=2)]
    assert in_words(3, *table) == "conv1_2 at 0.1, fc6 at 1 from epoch 3"
    assert in_words(2, *table) == "conv1_2 at 0.1"
    assert never_trained(resolved(*table), 3) == ["conv1_1", "bn1_1"]
    assert never_trained(resolved(*table), 2) == ["conv1_1", "bn1_1", "fc6"]


def test_a_run_of_layers_in_words_holds_all_between_its_ends() -> None:
    """conv1_1 and conv1_2 share an entry, and the norm between them is frozen by another that stands first."""
    ends = [entry("bn1_1", multiple=0.0), entry("conv1_1", "conv1_2", multiple=0.1), entry("fc6")]
    assert in_words(3, *ends) == "conv1_1 at 0.1, conv1_2 at 0.1, fc6 at 1"
    late = [entry("fc6"), entry("conv1_2", multiple=0.1), entry("conv1_1", "bn1_1", multiple=0.1)]
    assert in_words(3, *late) == "conv1_1 to conv1_2 at 0.1, fc6 at 1", "in the model's order, not the table's"


@given(st.lists(st.sampled_from([0.0, 0.1, 1.0]), min_size=4, max_size=4), st.permutations(range(4)))
def test_the_words_say_of_each_layer_what_its_group_does(multiples: list[float], places: list[int]) -> None:
    layers = list(dict.fromkeys(groups.layer_of(name) for name in SHAPES))
    found = resolved(*(entry(layers[i], multiple=multiples[i]) for i in places))
    said: dict[str, float] = {}
    text = trained_text(found, layers, 1).replace("everything", f"{layers[0]} to {layers[-1]}")
    for part in () if text == "nothing" else text.split(", "):
        names, _, multiple = part.rpartition(" at ")
        first, _, last = names.partition(" to ")
        for layer in layers[layers.index(first) : layers.index(last or first) + 1]:
            said[layer] = float(multiple)
    assert said == {layer: g.multiple for g in found for layer in g.layers if g.multiple}
