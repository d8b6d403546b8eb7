"""Files of bits and hashers: golden values, truncation, damage."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.base import hdf5_files
from pipeline.base.errors import UserError
from pipeline.hashing.save import PackedBits, read_bits, read_hasher, write_bits, write_hasher
from pipeline.hashing.topk import TopK

IDS = np.array(["a0-0", "b1-0", "ü-1"])
BITS = np.unpackbits(np.array([[0x80, 0x01], [0xFF, 0x00], [0x12, 0x34]], dtype=np.uint8), axis=1).astype(bool)
# sha256 of the canonical JSON of version, head and the arrays' digests: a change of layout changes it.
GOLDEN = "4eb7e56c90c50bdb8f42af0d85a160ecf825190216a9a9a9e16c0dcbd3d5148e"


def write(path: Path) -> str:
    return write_bits(path, IDS, BITS, hasher="topk", hasher_fingerprint="ab" * 32)


def test_the_layout_on_disk(tmp_path: Path) -> None:
    assert write(tmp_path / "bits.h5") == GOLDEN
    with h5py.File(tmp_path / "bits.h5") as f:
        assert dict(f.attrs) == {
            "version": 1,
            "kind": "bits",
            "hasher": "topk",
            "hasher_fingerprint": "ab" * 32,
            "nbits": 16,
            "bit_order": "big",
            "fingerprint": GOLDEN,
        }
        assert f["packed"][()].tobytes() == b"\x80\x01\xff\x00\x12\x34"
        assert f["ids"][()].tolist() == [b"a0-0", b"b1-0", "ü-1".encode()]


def test_bits_come_back(tmp_path: Path) -> None:
    mark = write(tmp_path / "bits.h5")
    stored = read_bits(tmp_path / "bits.h5")
    assert stored.ids.tolist() == IDS.tolist()
    assert (stored.nbits, stored.hasher, stored.hasher_fingerprint) == (16, "topk", "ab" * 32)
    assert stored.fingerprint == mark
    np.testing.assert_array_equal(stored.unpacked(), BITS)


def test_equal_content_is_equal_bytes(tmp_path: Path) -> None:
    write(tmp_path / "one.h5")
    write(tmp_path / "two.h5")
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()


def test_an_empty_collection_is_a_file_too(tmp_path: Path) -> None:
    write_bits(tmp_path / "bits.h5", IDS[:0], BITS[:0], hasher="topk", hasher_fingerprint="")
    stored = read_bits(tmp_path / "bits.h5")
    assert (len(stored.ids), stored.packed.shape, stored.nbits) == (0, (0, 2), 16)


@pytest.mark.parametrize(
    ("ids", "bits"), [(IDS[:2], BITS), (np.array(["a", "a", "b"]), BITS), (IDS, BITS[:, :12]), (IDS, BITS[:, :0])]
)
def test_ids_and_bits_must_fit(tmp_path: Path, ids: np.ndarray, bits: np.ndarray) -> None:
    with pytest.raises(UserError):
        write_bits(tmp_path / "bits.h5", ids, bits, hasher="topk", hasher_fingerprint="")
    assert list(tmp_path.iterdir()) == []


def same(a: PackedBits, b: PackedBits) -> bool:
    return a.ids.tolist() == b.ids.tolist() and a.packed.tobytes() == b.packed.tobytes() and a.nbits == b.nbits


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path, cut = tmp_path / "bits.h5", tmp_path / "cut.h5"
    write(path)
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 61), len(whole) - 1]:
        cut.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"cut\.h5"):
            read_bits(cut)


def test_a_flipped_byte_is_refused_or_harmless(tmp_path: Path) -> None:
    path, bad = tmp_path / "bits.h5", tmp_path / "bad.h5"
    write(path)
    whole, right = path.read_bytes(), read_bits(path)
    refused = 0
    for at in range(0, len(whole), 97):
        bad.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            assert same(read_bits(bad), right), at
        except UserError:
            refused += 1
    assert refused > 0


def hasher() -> TopK:
    return TopK(k=3).fit(np.eye(8, dtype=np.float32))


def test_a_hasher_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path, cut = tmp_path / "hasher.h5", tmp_path / "cut.h5"
    write_hasher(path, hasher(), settings={"layer": "pool5"})
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 61), len(whole) - 1]:
        cut.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"cut\.h5"):
            read_hasher(cut)


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "bits.h5")
    write_hasher(tmp_path / "hasher.h5", hasher(), settings={})
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(UserError, match=r"bits\.h5 is not a hasher file"):
        read_hasher(tmp_path / "bits.h5")
    with pytest.raises(UserError, match=r"hasher\.h5 is not a bits file"):
        read_bits(tmp_path / "hasher.h5")
    with pytest.raises(UserError, match=r"text\.h5 can't be read"):
        read_bits(tmp_path / "text.h5")
    with pytest.raises(UserError, match="does not exist"):
        read_bits(tmp_path / "none.h5")


def test_a_hasher_of_arrays_elsewhere_and_a_flipped_bit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "hasher.h5"
    write_hasher(path, TopK(k=3).fit(np.eye(8, dtype=np.float32)), settings={})
    whole = path.read_bytes()
    for at in range(0, len(whole), 53):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(UserError, match="do not match the digest"):
            read_hasher(path)
    path.write_bytes(whole)
    with h5py.File(path, "r+") as f:
        f.create_dataset("more", (9,), "u1", external=[("/etc/hostname", 0, 9)])
    hdf5_files.state_digest(path)
    with pytest.raises(UserError, match="keeps /more in another file"):
        read_hasher(path)


def test_a_newer_version_and_an_unknown_hasher_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "bits.h5")
    with h5py.File(tmp_path / "bits.h5", "a") as f:
        f.attrs["version"] = 99
    hdf5_files.state_digest(tmp_path / "bits.h5")
    with pytest.raises(UserError, match="version 99"):
        read_bits(tmp_path / "bits.h5")


def test_codes_of_other_settings_are_refused_with_what_differs(tmp_path: Path) -> None:
    write_hasher(tmp_path / "hasher.h5", hasher(), settings={"layer": "pool5", "crop": 96})
    fitted = read_hasher(tmp_path / "hasher.h5")
    fitted.require({"crop": 96, "layer": "pool5"})
    with pytest.raises(UserError, match="crop: 224, not 96"):
        fitted.require({"layer": "pool5", "crop": 224})
