"""The ways in which known weights want their images, and how to recognise them.

Weights used with another's preprocessing still give codes, only worse ones, without an error; so a file's preprocessing
is found from the weights themselves where that is possible.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pipeline.nets.weights.record import Preprocessing

# torchvision.transforms._presets.ImageClassification: its models trained with its own recipe.
TORCHVISION = Preprocessing("rgb", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Oxford's VGG nets as released for Caffe (and ported by Keras and neon): BGR, the mean pixel taken away, no scaling.
CAFFE = Preprocessing("bgr", 1.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0))
# The same nets with the first kernel's channels turned round, as ports for RGB have them.
CAFFE_RGB = Preprocessing("rgb", 1.0, (123.68, 116.779, 103.939), (1.0, 1.0, 1.0))

# By the name that a command line takes.
PREPROCESSINGS = {"torchvision": TORCHVISION, "caffe": CAFFE, "caffe-rgb": CAFFE_RGB}

# The first kernel value of Oxford's VGG-16 (variant D), as in Keras' and Caffe's files.
_OXFORD_VGG16 = 0.42947057


def recognise(arch: str | None, tensors: Mapping[str, Tensor]) -> Preprocessing | None:
    """The preprocessing of weights that are known by their first kernel; None if they are not known."""
    kernel = tensors.get("conv1_1.weight")
    if arch != "vgg16" or kernel is None or tuple(kernel.shape) != (64, 3, 3, 3):
        return None
    for channel, preprocessing in ((0, CAFFE), (2, CAFFE_RGB)):
        if abs(float(kernel[0, channel, 0, 0]) - _OXFORD_VGG16) < 1e-4:
            return preprocessing
    return None
