"""An ONNX model at work in a process of its own, which has an end and a limit of memory.

A model may be a stranger's: a graph of a few bytes can ask for any memory and work, which only running it tells.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.base import plain_json
from pipeline.base.budget import TooMuchError
from pipeline.base.errors import UserError
from pipeline.base.failing import place

_HEADER = struct.Struct("<QQQ")  # bytes of the model, images, pixels a side
# What a sound model takes: its weights some times over, and maps of a few images.
_FREE_BYTES = 4 << 30
_MADE_OF_A_BYTE = 4
# Seconds of a processor, which the largest networks of our users stay below.
_FREE_S, _IMAGE_S = 30, 15
_AT_ONCE = 4


def run(model: bytes, pixels: NDArray[np.uint8], where: object) -> NDArray[np.float32]:
    """(n, size, size, 3) -> `scores` (n, k).

    Raises UserError if the model can't be run, TooMuchError if it takes more memory or time than a sound one.
    """
    command = [sys.executable, "-P", "-m", "pipeline.portable.run"]
    found = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        command,
        input=b"".join([_HEADER.pack(len(model), len(pixels), pixels.shape[1]), model, pixels.tobytes()]),
        capture_output=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(found)},
        check=False,
    )
    if done.returncode == -signal.SIGXCPU:
        raise TooMuchError(f"{where} takes more than {_seconds(len(pixels))} s for {len(pixels)} images")
    line, _, rest = done.stdout.partition(b"\n")
    if done.returncode or not line:
        raise UserError(f"{where} can't be run: onnxruntime breaks down on it (exit code {done.returncode})")
    said = plain_json.loads(line)
    if "error" in said:
        raise UserError(f"{where} can't be run: {said['error']}", see="docs/export-model.md")
    scores: NDArray[np.float32] = np.frombuffer(rest, dtype="<f4").reshape(said["shape"])
    return scores


def main() -> None:
    """The process: the model and its images by stdin; a line of JSON and the scores by stdout."""
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    length, n, side = _HEADER.unpack(sys.stdin.buffer.read(_HEADER.size))
    model = sys.stdin.buffer.read(length)
    pixels = np.frombuffer(sys.stdin.buffer.read(), dtype=np.uint8).reshape(n, side, side, 3)
    import onnxruntime

    _limit(length, n)
    scores = np.zeros((0, 0), dtype="<f4")
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        parts = [session.run(["scores"], {"image": pixels[i : i + _AT_ONCE]})[0] for i in range(0, n, _AT_ONCE)]
        scores = np.concatenate(parts).astype("<f4", casting="same_kind")
        said: dict[str, object] = {"shape": scores.shape}
        if scores.ndim != 2 or len(scores) != n:
            said = {"error": f"its scores have the shape {scores.shape} for {n} images"}
    except MemoryError:
        said = {"error": "it asks for more memory than a sound model of its length"}
    except Exception as e:  # noqa: BLE001  onnxruntime's errors have no class of their own
        said = {"error": " ".join(str(e).split())[:300]}
    answer.write(json.dumps(said).encode() + b"\n" + (scores.tobytes() if "shape" in said else b""))
    answer.flush()


def _seconds(images: int) -> int:
    return _FREE_S + _IMAGE_S * images


def _limit(model_bytes: int, images: int) -> None:
    """Bounds processor time, and memory beyond what is mapped now."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used = resource.getrusage(resource.RUSAGE_SELF)
    end_s = math.ceil(used.ru_utime + used.ru_stime) + _seconds(images)
    resource.setrlimit(resource.RLIMIT_CPU, (end_s, end_s + 1))
    # Systems without /proc bound no address space either.
    with contextlib.suppress(FileNotFoundError), place("/proc/self/statm"):
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + _FREE_BYTES + _MADE_OF_A_BYTE * model_bytes,) * 2)


if __name__ == "__main__":
    main()
