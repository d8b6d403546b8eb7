"""What the libraries below the decoder have to say of a broken file, they say through it or not at all."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from pipeline.data import decode as decoder
from tests.data.stored import encoded

# Mutants of small TIFFs of each compression, in a process of its own, as the lines come from C. Prints how many of them
# were refused. What Pillow itself warns of by Python is off, as it is in every command.
SCRIPT = """
import io, random, warnings
import numpy
from PIL import Image
from pipeline.data.decode import DecodeError, decode
from tests.data.stored import tiff
from tests.reliability.mutate import mutated

warnings.simplefilter("ignore")
rgb = Image.effect_noise((32, 24), 90).convert("RGB")
packed = ["raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "jpeg", "zstd", "lzma"]
made = [(rgb, name) for name in packed] + [(rgb.convert("1"), name) for name in ("group3", "group4", "tiff_ccitt")]
refused = 0
for i in range(220):
    image, compression = made[i % len(made)]
    saved = io.BytesIO()
    image.save(saved, "TIFF", compression=compression)
    try:
        decode(mutated(saved.getvalue(), random.Random(i))[1], max_pixels=1_000_000)
    except DecodeError:
        refused += 1
try:
    decode(tiff(numpy.zeros((1, 1, 259), int), 8, 2), max_pixels=1_000_000)
except DecodeError:
    print(refused)
"""


def test_broken_tiffs_of_every_compression_write_nothing_to_stderr() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert 50 < int(done.stdout) < 220
    assert done.stderr == ""


@pytest.mark.parametrize("extension", [SimpleNamespace(), SimpleNamespace(__file__="/no/such/library.so")])
def test_a_pillow_whose_libtiff_is_not_found_reads_on(extension: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(decoder, "_imaging", extension)
        decoder._silence_tiff()
    data = encoded(Image.new("RGB", (3, 2), (1, 2, 3)), "TIFF", compression="tiff_lzw")
    assert decoder.decode(data, max_pixels=6).shape == (2, 3, 3)
