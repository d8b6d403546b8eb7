"""What a file is that gave no pixels: a broken image, a picture of a format that isn't read, or no image at all.

Name and content both have a say. Content that is known decides. Where it isn't, a name that promises an image makes it
a broken one (an empty `a.jpg`, a web page saved as one), and any other name something that only lies beside the images.
"""

from __future__ import annotations

import functools
import importlib.util
import posixpath
import re
import struct
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import features

from pipeline.data.manifest import Kind

HEAD_BYTES = 4096  # of a file, which `judge` sees

_CONVERT = "save them as PNG or JPEG"


class Format(NamedTuple):
    """A format of pictures that isn't read: its name, and what would help."""

    name: str
    help: str = _CONVERT


RAW = Format("RAW", "export them as JPEG or TIFF (darktable-cli, RawTherapee, Lightroom)")
_HEIC = Format("HEIC", "pip install 'cnn-codes[heic]' reads them")
_AVIF = Format("AVIF", "a Pillow with AVIF reads them: pip install -U pillow")
_PHOTOSHOP = Format("PSD", "export them as PNG or TIFF, or `magick IN.psd[0] OUT.png`")
_SVG = Format("SVG", "draw them as PNG (resvg, rsvg-convert, Inkscape)")
_JXL = Format("JPEG XL", "`djxl IN.jxl OUT.png` makes PNG of them")
_XCF = Format("GIMP", "export them as PNG")
_HDR = Format("high dynamic range", "tone-map them to PNG (darktable, Luminance HDR)")
_DICOM = Format("DICOM", "`dcm2img IN.dcm OUT.png` of DCMTK makes PNG of them")

# Suffixes, in lower case.
_RAW_NAMES = re.compile(
    "3fr|arw|cap|cr2|cr3|crw|dcr|dcs|dng|erf|fff|gpr|iiq|k25|kdc|mef|mos|mrw|nef|nrw|orf|pef|ptx|pxn|raf|raw|rw2|rwl"
    "|sr2|srf|srw|x3f"
)
_UNREAD_NAMES = (
    (_RAW_NAMES, RAW),
    (re.compile("heic|heif|hif"), _HEIC),
    (re.compile("avif"), _AVIF),
    (re.compile("ps[db]"), _PHOTOSHOP),
    (re.compile("svgz?"), _SVG),
    (re.compile("jxl"), _JXL),
    (re.compile("xcf"), _XCF),
    (re.compile("exr|hdr|pfm"), _HDR),
    (re.compile("dcm|dicom"), _DICOM),
)
_OTHER_NAMES = re.compile(
    "ai|bpg|cdr|cur|dds|djvu|emf|eps|fits|flif|icns|ico|jxr|kra|pcx|pict|pct|qoi|sgi|tga|wbmp|wdp|wmf"
)
_READ_NAMES = re.compile(
    "jpe?g?|jpg|jfif|jif|pjpeg|mpo|a?png|gif|webp|tiff?|bmp|dib|p[nbgp]m|jp2|j2[kc]|jp[cfmx]"
)  # fmt: skip

# How the formats begin that the decoder reads; AVIF and HEIC are below.
_READ = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|II\*\0|MM\0\*|II\+\0|MM\0\+|BM....\0\0\0\0"
    rb"|P[1-6][\s#]+\d|\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    re.DOTALL,
)
_UNREAD = (
    (rb"FUJIFILMCCD-RAW|FOVb|\0MRM|II\x1a\0\0\0HEAPCCDR|IIR[OS]|MMOR|IIU\0|....ftypcrx |II\*\0....CR", RAW),
    (rb"8BPS", _PHOTOSHOP),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", _JXL),
    (rb"gimp xcf", _XCF),
    (rb"\x76\x2f\x31\x01|#\?RADIANCE|#\?RGBE|P[fF]\s", _HDR),
    (rb".{128}DICM", _DICOM),
    (rb"icns", Format("ICNS")),
    (rb"\0\0[\1\2]\0[\1-\x40]\0", Format("ICO")),
    (rb"DDS ", Format("DDS")),
    (rb"AT&TFORM", Format("DJVU")),
    (rb"qoif", Format("QOI")),
    (rb"II\xbc", Format("JXR")),
    (rb"%!PS-Adobe.*EPSF|\xc5\xd0\xd3\xc6", Format("EPS")),
    (rb"SIMPLE  =", Format("FITS")),
)
_UNREAD_PATTERNS = tuple((re.compile(pattern, re.DOTALL), found) for pattern, found in _UNREAD)
_FTYP = re.compile(rb"....ftyp(?:(avif|avis)|(hei[cxms]|hev[cx]|mif1|msf1))", re.DOTALL)
_SVG_TAG = re.compile(rb"\s*(?:<\?xml|<!--|<!DOCTYPE svg|<svg).*<(?:\w+:)?svg[\s>]", re.DOTALL | re.IGNORECASE)
_WEB_PAGE = re.compile(rb"\s*<(?:!doctype html|html|head|body)\b", re.IGNORECASE)
_LFS = b"version https://git-lfs.github.com/spec/"
_ANNEX = b"/annex/objects/"

_DNG_VERSION = 0xC612  # a tag that every DNG has, and no other TIFF
_SUBFILE_TYPE, _SUB_DIRECTORIES = 0xFE, 0x14A  # bit 0 of the first: a picture of less resolution than another


class Judgement(NamedTuple):
    """`reason` is the same for all files of one format."""

    kind: Kind
    reason: str


def judge(path: str, head: bytes | None, reason: str) -> Judgement:
    """What a file is that can't be decoded for `reason`, by its name and its first HEAD_BYTES; None if unreadable."""
    if head is None:
        return Judgement("broken" if _says_image(path) is not False else "not_an_image", reason)
    found = RAW if is_raw(path, head) else _by_content(head)
    if isinstance(found, Format):
        return _unread(found, path)
    if found == "read":
        return Judgement("broken", reason)
    promised = _says_image(path)
    if not promised:
        return Judgement("not_an_image", "not an image, by its name and its content")
    words = _words(head)
    if isinstance(promised, Format) and head and not words:
        return _unread(promised, path)
    return Judgement("broken", f"{reason}: {words}" if words else reason)


def is_other(file: Path) -> bool:
    """Whether a file is not an image by its name and its content."""
    try:
        with file.open("rb") as opened:
            head = opened.read(HEAD_BYTES)
    except OSError:
        return False
    return judge(file.name, head, "").kind == "not_an_image"


def _unread(found: Format, path: str) -> Judgement:
    name = f"{found.name} ({_suffix(path).upper()})" if found is RAW and named_raw(path) else found.name
    return Judgement("unread_format", f"{name}, which is not read: {found.help}")


def is_raw(path: str, head: bytes) -> bool:
    """Whether a file holds a camera's raw data. Most are TIFF files too, whose first picture is a thumbnail."""
    if any(pattern.match(head) for pattern, found in _UNREAD_PATTERNS if found is RAW) or _is_raw_tiff(head):
        return True
    return named_raw(path) and head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def named_raw(path: str) -> bool:
    return _RAW_NAMES.fullmatch(_suffix(path)) is not None


def _suffix(path: str) -> str:
    return posixpath.splitext(path)[1][1:].lower()


def _says_image(path: str) -> Format | bool | None:
    """What the name promises: a format that isn't read, True for one that is, False for another file, None for
    nothing, as without a suffix."""
    suffix = _suffix(path)
    found = next((found for names, found in _UNREAD_NAMES if names.fullmatch(suffix)), None)
    if _READ_NAMES.fullmatch(suffix) or found in _readable():
        return True
    if found is None and _OTHER_NAMES.fullmatch(suffix):
        return Format(suffix.upper())
    return found or (False if suffix else None)


def _by_content(head: bytes) -> Format | Literal["read"] | None:
    """The format of a picture by how it begins: one that isn't read, or "read"; None if it is none that is known."""
    for pattern, found in _UNREAD_PATTERNS:
        if pattern.match(head):
            return found
    if box := _FTYP.match(head):
        picture = _AVIF if box[1] else _HEIC
        return "read" if picture in _readable() else picture
    if _READ.match(head):
        return "read"
    return _SVG if _SVG_TAG.match(head.removeprefix(b"\xef\xbb\xbf")) else None


@functools.cache
def _readable() -> frozenset[Format]:
    """Those formats that are read where something optional is installed."""
    there = {_HEIC: importlib.util.find_spec("pillow_heif") is not None, _AVIF: features.check("avif")}
    return frozenset(found for found, is_there in there.items() if is_there)


def _words(head: bytes) -> str:
    """What else a file is that should be an image, in words; "" if that can't be told."""
    if head.startswith(_ANNEX):
        return "a git-annex pointer, which `git annex get` makes the file"
    if head.startswith(_LFS):
        return "a Git LFS pointer, which `git lfs pull` makes the file"
    if _WEB_PAGE.match(head):
        return "a web page"
    if head and not head.strip(b"\0"):
        return "zeros, as of a download or copy that never ended"
    return "text" if head and _is_text(head) else ""


def _is_text(head: bytes) -> bool:
    if re.search(rb"[\x00-\x08\x0e-\x1a]", head):
        return False
    try:
        head.decode()
    except UnicodeDecodeError as e:
        return e.start > len(head) - 4  # a character that the head cuts in two
    return True


def _is_raw_tiff(head: bytes) -> bool:
    """A TIFF whose first directory, as far as it lies in `head`, has the tag DNGVersion, or says that its picture is a
    small one of another that lies in a directory below (as in NEF and ARW).
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(head[:4])
    if order is None or len(head) < 10:
        return False
    (start,) = struct.unpack_from(f"{order}I", head, 4)
    if start + 2 > len(head):
        return False
    (entries,) = struct.unpack_from(f"{order}H", head, start)
    tags = {}
    for at in range(start + 2, min(start + 2 + 12 * entries, len(head) - 11), 12):
        tag, _, _, value = struct.unpack_from(f"{order}HHII", head, at)
        tags[tag] = value
    return _DNG_VERSION in tags or (_SUB_DIRECTORIES in tags and tags.get(_SUBFILE_TYPE, 0) & 1 == 1)
