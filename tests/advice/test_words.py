"""What the advice says of the reference: true whether there is one or not, and of images near and far."""

from __future__ import annotations

import numpy as np

from pipeline.advice import reference
from pipeline.advice.run import advise
from pipeline.codes.reader import Codes
from tests.advice.world import heads, params, rows_of, world


def test_without_a_reference_of_this_preprocessing_the_distance_is_left_out() -> None:
    codes, manifest = world()
    said = advise(codes, manifest, params(), heads())["says"]["distance"]
    assert "left out" in said and "prepared as these" in said and "--size" in said


def test_a_reference_that_shares_nothing_is_said_to() -> None:
    codes, manifest = world()
    made = reference.make({"pool5-avg": codes["pool5-avg"]}, name="photos")
    few = {spec: one for spec, one in codes.items() if spec != "pool5-avg"}
    said = advise(few, manifest, params(), heads(), reference=made)["says"]["distance"]
    assert "left out" in said and "share" in said and f"{reference.FEWEST} images" in said


def test_images_of_the_references_kind_are_called_near_and_others_far() -> None:
    """The same images are the reference; then every second value of their codes is three times as large."""
    codes, manifest = world(n=600)
    made = reference.make(codes, name="photos")
    near = advise(codes, manifest, params(), heads(), reference=made)
    assert all(one["ratio"] < 1.5 for one in near["distances"])
    assert "is near" in near["says"]["distance"] and "reference photos" in near["says"]["distance"]
    uneven = np.where(np.arange(24) % 2, 3.0, 1.0).astype(np.float32)
    other = {
        spec: Codes.from_arrays(one.ids, rows_of(one) * uneven, spec=spec, settings=one.settings)
        for spec, one in codes.items()
    }
    far = advise(other, manifest, params(), heads(), reference=made)
    assert all(one["ratio"] > 3 for one in far["distances"]) and "is far" in far["says"]["distance"]
