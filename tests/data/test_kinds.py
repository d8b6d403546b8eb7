"""What a file is that gives no pixels, by its name and its content."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from PIL import Image

from pipeline.data import kinds
from pipeline.data.made_here import exif, is_made_here
from pipeline.data.manifest import Failure
from pipeline.data.memory import Facts
from pipeline.data.room import Room
from pipeline.data.verify import verify

MP4 = b"\0\0\0\x18ftypisom\0\0\2\0" + bytes(64)
JSON = b'{"title": "1.jpg"}'
HTML = b"<!DOCTYPE html>\n<html><head><title>404</title>"
SVG = b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg"/>'


def encoded(form: str = "PNG", size: tuple[int, int] = (8, 6)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (200, 30, 10)).save(out, form)
    return out.getvalue()


def tiff(*tags: int, order: str = "<") -> bytes:
    """A TIFF whose first directory has these tags, and no picture."""
    entries = b"".join(struct.pack(f"{order}HHII", tag, 1, 4, 1) for tag in tags)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(f"{order}IH", 8, len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(
    ("name", "content", "kind", "words"),
    [
        # neither name nor content say image
        ("1.jpg.json", JSON, "not_an_image", "not an image"),
        ("README", b"About these images", "not_an_image", "not an image"),
        ("1.mp4", MP4, "not_an_image", "not an image"),
        ("1.xmp", b"<?xpacket begin?><x:xmpmeta/>", "not_an_image", "not an image"),
        ("notes.txt", b"", "not_an_image", "not an image"),
        ("page.html", HTML, "not_an_image", "not an image"),
        ("1.pdf", b"%PDF-1.7", "not_an_image", "not an image"),
        # the name alone does
        ("1.jpg", b"", "broken", "empty"),
        ("1.JPG", HTML, "broken", "a web page"),
        ("1.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "broken", "git lfs pull"),
        ("1.png", b"/annex/objects/SHA256E-s3--00.png\n", "broken", "git annex get"),
        ("1.png", bytes(5000), "broken", "zeros"),
        ("1.jpeg", MP4, "broken", "not an image"),
        ("1.nef", b"", "broken", "empty"),
        ("1.psd", HTML, "broken", "a web page"),
        # the content alone does
        ("notes.txt", encoded()[:40], "broken", "cut off"),
        ("1", encoded("JPEG")[:40], "broken", "broken"),
        # formats that aren't read, by name or by content
        ("1.NEF", tiff(0x10F, order=">"), "unread_format", "RAW (NEF)"),
        ("1.cr2", b"II*\0\x10\0\0\0CR\2\0" + bytes(40), "unread_format", "RAW (CR2)"),
        ("1.cr3", b"\0\0\0\x18ftypcrx \0\0\0\1", "unread_format", "RAW (CR3)"),
        ("1.raf", b"FUJIFILMCCD-RAW 0201", "unread_format", "RAW (RAF)"),
        ("1.tif", tiff(0x100, 0xC612), "unread_format", "RAW"),
        ("1.raw", b"\x81\x02\x93" * 9, "unread_format", "RAW (RAW)"),
        ("1.psd", b"8BPS\0\1", "unread_format", "PSD"),
        ("1.jpg", b"8BPS\0\1", "unread_format", "PSD"),
        ("1.svg", SVG, "unread_format", "SVG"),
        ("1.svg", b"\xef\xbb\xbf" + SVG, "unread_format", "SVG"),
        ("1.svgz", b"\x1f\x8b\x08\0", "unread_format", "SVG"),
        ("1.jxl", b"\xff\x0a\x7f", "unread_format", "djxl"),
        ("1", b"\0\0\0\x0cJXL \r\n\x87\n", "unread_format", "djxl"),
        ("1.exr", b"\x76\x2f\x31\x01\2\0\0\0", "unread_format", "high dynamic range"),
        ("1.ico", b"\0\0\1\0\1\0\x10\x10", "unread_format", "ICO"),
        ("1.tga", b"\0\0\2\0\0\0", "unread_format", "TGA"),
        ("1.xcf", b"gimp xcf v011", "unread_format", "GIMP"),
    ],
)
def test_a_file_without_pixels(tmp_path: Path, name: str, content: bytes, kind: str, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    (found,) = verify(tmp_path, [name], max_pixels=1000, room=Room(64))
    assert isinstance(found, Failure) and found.path == name
    assert (found.kind, words in found.reason) == (kind, True), found


def test_heic_is_unread_without_its_extra_under_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "_readable", frozenset)
    head = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    for name in ("1.heic", "1.jpg", "1"):
        kind, reason = kinds.judge(name, head, "")
        assert kind == "unread_format" and "cnn-codes[heic]" in reason
    monkeypatch.setattr(kinds, "_readable", lambda: frozenset({kinds._HEIC}))
    assert kinds.judge("1.heic", head, "cut")[0] == "broken"


def test_a_whole_image_is_one_under_any_name(tmp_path: Path) -> None:
    names = ["1.txt", "2", "3.psd", "4.json"]
    for i, name in enumerate(names):
        (tmp_path / name).write_bytes(encoded("PNG" if i % 2 else "JPEG"))
    assert all(isinstance(found, Facts) for found in verify(tmp_path, names, max_pixels=1000, room=Room(64)))


def test_the_thumbnail_in_a_raw_file_is_not_its_picture(tmp_path: Path) -> None:
    (tmp_path / "scan.tif").write_bytes(encoded("TIFF"))
    assert isinstance(next(verify(tmp_path, ["scan.tif"], max_pixels=1000, room=Room(64))), Facts)
    (tmp_path / "1.nef").write_bytes(encoded("TIFF"))
    found = next(verify(tmp_path, ["1.nef"], max_pixels=1000, room=Room(64)))
    assert isinstance(found, Failure) and found.kind == "unread_format"


def test_what_cannot_be_opened_is_judged_by_its_name(tmp_path: Path) -> None:
    names = ["1.jpg", "2", "3.json"]
    for name in names:
        (tmp_path / name).symlink_to("gone")
    found = [f.kind for f in verify(tmp_path, names, max_pixels=1000, room=Room(64)) if isinstance(f, Failure)]
    assert found == ["broken", "broken", "not_an_image"]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_picture_that_is_drawn_here_is_known_by_its_mark(form: str) -> None:
    image = Image.effect_noise((300, 200), 90).convert("RGB")
    ours, theirs = io.BytesIO(), io.BytesIO()
    image.save(ours, form, exif=exif())
    image.save(theirs, form)
    assert is_made_here(ours, ours.getvalue()[: kinds.HEAD_BYTES])
    assert not is_made_here(theirs, theirs.getvalue()[: kinds.HEAD_BYTES])


@pytest.mark.parametrize(
    "content", [b"", b"RIFF", b"\xff\xd8\xff", b"II*\0" + b"\xff" * 4, b"II*\0\x08\0\0\0\xff\xff\1"]
)
def test_files_cut_short_are_judged_too(content: bytes) -> None:
    assert not is_made_here(io.BytesIO(content), content)
    assert kinds.judge("1.jpg", content, "cut")[0] == "broken"
