"""The advice in sentences, for the command line and the page; every number is in the record too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline.advice.reference import FEWEST
from pipeline.advice.rule import Case

# Of accuracy: a doubling of the images that brings less is not worth the labelling.
_NOTABLE = 0.02


def say(record: Mapping[str, Any], case: Case) -> dict[str, str]:
    """`do`, `otherwise`, `worth`, `size`, `likeness`, `distance`, `layer` and `growth`: a sentence or two each."""
    is_last = record["spec"] == record["top"]["spec"]
    words = {
        "spec": record["spec"],
        "half": record["from_layer"] or "",
        "earlier": "" if is_last else ", an earlier layer than the last",
    }
    return {
        "do": case.do.format(**words),
        "otherwise": case.otherwise.format(**words),
        "worth": _worth(record),
        "size": _size(record),
        "likeness": _likeness(record),
        "distance": _distance(record),
        "layer": _layer(record),
        "growth": _growth(record),
    }


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def points(difference: float) -> str:
    return f"{100 * difference:.1f} points"


def _worth(record: Mapping[str, Any]) -> str:
    own = _of(record, record["spec"])
    gain = own["accuracy"] - record["majority"]
    base = "naming the largest class" if record["measure"] == "accuracy" else "naming one class"
    told = (
        f"a linear head on {record['spec']} is right on {percent(own['accuracy'])} ± {100 * own['se']:.1f} of the "
        f"images held out, {base} on {percent(record['majority'])}"
    )
    if record["worth"]:
        return f"Transfer is worth it: {told}, a gain of {points(gain)}."
    return f"Transfer is not worth it so far: {told}. Look at the labels, or for weights from images more like yours."


def _size(record: Mapping[str, Any]) -> str:
    per, limit = record["per_class"], record["settings"]["small_images"]
    few = "few, being below" if record["size"] == "small" else "many, being no fewer than"
    text = (
        f"{record['images']:,} training images of {record['classes']} classes: {per['median']:g} a class by the median "
        f"({per['min']} in the smallest), which is {few} the {limit} of the settings."
    )
    if record["scored"] < record["images"]:
        text += f" The layers were compared on {record['scored']:,} of them."
    return text


def _likeness(record: Mapping[str, Any]) -> str:
    top = record["top"]
    if record["likeness_by"] == "depth":
        if top["spec"] == record["spec"]:
            return f"Like the source's images: the deepest layer's codes, {top['spec']}, are as good as any."
        lag = (
            f"the deepest layer's best codes, {top['spec']}, lag behind {record['spec']} by {points(top['lag'])} "
            f"± {100 * top['lag_se']:.1f}"
        )
        if record["likeness"] == "alike":
            return f"Like the source's images: {lag}, within the {points(top['allowed'])} that count as level."
        return f"Unlike the source's images: {lag}, more than the {points(top['allowed'])} that count as level."
    if record["likeness_by"] == "reference":
        like = "Like" if record["likeness"] == "alike" else "Unlike"
        return f"{like} the source's images, by the distance to the reference alone: all codes are of one layer."
    return "Taken to be like the source's images: all codes are of one layer, and no reference tells."


def _distance(record: Mapping[str, Any]) -> str:
    name = record["settings"]["reference"]
    if name is None:
        return (
            "How far the codes lie from the source's is left out: these weights have no reference yet for images "
            "prepared as these. A folder of images like the source's makes one: cnncodes weights reference FOLDER, "
            "with the same --weights and --size."
        )
    if not record["distances"]:
        return (
            f"How far the codes lie from the reference {name} is left out: it and these images share no codes, or "
            f"there are fewer than {FEWEST} images on a side."
        )
    far = [
        f"{one['spec']} {one['ratio']:.1f}" for one in sorted(record["distances"], key=lambda one: -one["ratio"])[:3]
    ]
    limit = record["settings"]["alike_distance"]
    at_top = next((one for one in record["distances"] if one["spec"] == record["top"]["spec"]), record["distances"][-1])
    near = at_top["ratio"] <= limit
    text = (
        f"From the reference {name} ({at_top['images']} images a side) the codes of {at_top['spec']} lie "
        f"{at_top['ratio']:.1f} times as far as its own halves from each other, which is "
        f"{'near' if near else 'far'} (up to {limit:g} is near); farthest are {', '.join(far)}."
    )
    if record["likeness_by"] == "depth" and near != (record["likeness"] == "alike"):
        text += " The layers say otherwise, and count: they were asked about these classes."
    return text


def _layer(record: Mapping[str, Any]) -> str:
    spec, leader = record["spec"], record["leader"]
    beside = [other for other in record["level"] if other != leader]
    if not beside:
        return f"Among the codes, {leader} is best in cross-validation, beyond noise."
    text = f"Among the codes, {leader} is best in cross-validation; within noise of it: {', '.join(beside)}."
    names = {"knn": "k-NN", "logme": "LogME", "h_score": "the H-score"}
    others: dict[str, list[str]] = {}
    for measure, favourite in record["favourites"].items():
        if favourite != spec:
            others.setdefault(favourite, []).append(names[measure])
    if not others:
        return f"{text} Of these k-NN, LogME and the H-score all prefer {spec}."
    prefers = [f"{' and '.join(who)} would take {favourite}" for favourite, who in others.items()]
    return (
        f"{text} Of these {spec} stands highest in accuracy, k-NN, LogME and H-score together, though not in each: "
        f"{'; '.join(prefers)}."
    )


def _growth(record: Mapping[str, Any]) -> str:
    gain = record["doubling"]
    if gain is None:
        return "The images are too few for a learning curve."
    before, last = _of(record, record["spec"])["curve"][-2:]
    # Cautious: the points share images, so that their difference errs less than if they did not.
    error = math.hypot(before["se"], last["se"]) / math.log2(last["n"] / before["n"])
    change = f"gained {points(gain)}" if gain >= 0 else f"lost {points(-gain)}"
    text = f"From {before['n']:,} to {last['n']:,} images the head {change} a doubling (± {100 * error:.1f})"
    if gain >= _NOTABLE and gain > 2 * error:
        return f"{text}: more images would still help."
    if gain + 2 * error < _NOTABLE:
        return f"{text}: more images alone would help little."
    return f"{text}, which is too noisy to tell whether more images would help."


def _of(record: Mapping[str, Any], spec: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(row for row in record["layers"] if row["spec"] == spec)
    return found
