"""What a file is that cannot be read as a picture, by its first bytes, and what to do with it."""

import re

READ = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF and HEIC"

HEAD = 4096
"""First bytes of a file that tell what it is."""

HEIC_MISSING = "a HEIC picture, which needs pillow-heif: pip install 'ctl_lightning[heic]'; or save it as JPEG"

_CONVERT = "convert it: magick FILE FILE.jpg"
_DEVELOP = "export it as JPEG from the program that develops it"
_FRAME = "take a frame of it: ffmpeg -i FILE -frames:v 1 FILE.jpg"
_UNPACK = "unpack it"

RAW_PHOTO = f"not an image but a raw photo, and {READ} are read; {_DEVELOP}"

# The first that matches counts.
_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (rb"\Z", "an empty file", ""),
    (rb"\0+\Z", "a file of zeros, which an interrupted copy leaves", ""),
    (rb"version https://git-lfs", "a pointer of git LFS", "fetch the picture: git lfs pull"),
    (rb"\0\x05\x16\x07", "notes of macOS about a file (AppleDouble)", "give the file itself"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL picture", _CONVERT),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 picture", _CONVERT),
    (rb"8BPS", "a Photoshop file (PSD)", _CONVERT),
    (rb"gimp xcf", "a GIMP file (XCF)", _CONVERT),
    (rb"\x76\x2f\x31\x01", "an OpenEXR picture", _CONVERT),
    (rb"#\?RADIANCE", "a Radiance HDR picture", _CONVERT),
    (rb"DDS ", "a DDS texture", _CONVERT),
    (rb"\0\0[\x01\x02]\0[^\0]\0", "an icon (ICO)", _CONVERT),
    (rb"icns", "an icon (ICNS)", _CONVERT),
    (rb"P[1-7][\s#]", "a PNM picture", _CONVERT),
    (rb"%PDF", "a PDF", "draw its page: pdftoppm -jpeg FILE PAGE"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript file (EPS)", _CONVERT),
    (rb"II\*\0....CR|II\x1a\0\0\0HEAPCCDR", "a raw photo (Canon)", _DEVELOP),
    (rb"IIRO|IIRS|MMOR", "a raw photo (Olympus)", _DEVELOP),
    (rb"IIU\0", "a raw photo (Panasonic)", _DEVELOP),
    (rb"FUJIFILMCCD-RAW", "a raw photo (Fujifilm)", _DEVELOP),
    (rb"....ftypcrx ", "a raw photo (Canon)", _DEVELOP),
    (rb"....ftyp(avif|avis)", "a broken AVIF", ""),
    (rb"....ftyp(he|mif1|msf1)", "a broken HEIC", ""),
    (rb"....ftyp", "a video", _FRAME),
    (rb"\x1aE\xdf\xa3|RIFF....AVI |\0\0\x01\xba|FLV", "a video", _FRAME),
    (rb"PK\x03\x04", "a ZIP archive", _UNPACK),
    (rb"\x1f\x8b", "a gzip archive", _UNPACK),
    (rb"Rar!|7z\xbc\xaf|BZh|\xfd7zXZ", "an archive", _UNPACK),
    (
        rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!DOCTYPE svg[^>]*>\s*)?<svg",
        "a drawing (SVG)",
        _CONVERT,
    ),
    (rb"(\xef\xbb\xbf)?\s*(?i:<!doctype html|<html|<head|<body)", "a web page (HTML)", "download the picture itself"),
    (rb"(\xef\xbb\xbf)?\s*<\?xml", "an XML file", ""),
    (rb"\xff\xd8\xff", "a broken JPEG", ""),
    (rb"\x89PNG", "a broken PNG", ""),
    (rb"GIF8", "a broken GIF", ""),
    (rb"RIFF....WEBP", "a broken WebP", ""),
    (rb"BM.{4}\0{4}", "a broken BMP", ""),
    (rb"II[*+]\0|MM\0[*+]", "a broken TIFF, or of a rare kind", "convert it: magick FILE FILE.png"),
)

_COMPILED = [(re.compile(pattern, re.DOTALL), kind, way) for pattern, kind, way in _KINDS]

# The markers before a JPEG's frame header, then its precision in bits.
_JPEG_BITS = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]..(.)", re.DOTALL)


def refusal(data: bytes) -> str:
    """Why a file is not read: what it is, what is read, and how to make one of it; "not an image" if nobody knows.

    Args:
        data: the file, or its first `HEAD` bytes.
    """
    bits = _jpeg_bits(data)
    if bits not in (None, 8):
        return f"a JPEG of {bits} bits, and only 8 are read; convert it: magick FILE -depth 8 FILE.png"
    for pattern, kind, way in _COMPILED:
        if pattern.match(data[:HEAD]):
            if way in (_CONVERT, _DEVELOP, _FRAME):
                kind += f", and {READ} are read"
            return f"not an image but {kind}" + (f"; {way}" if way else "")
    return "not an image"


def is_heic(data: bytes) -> bool:
    """Whether a file is HEIC, as iPhones write it."""
    return data[4:8] == b"ftyp" and (
        data[8:10] == b"he" or (data[8:12] in (b"mif1", b"msf1") and b"heic" in data[12:64])
    )


def _jpeg_bits(data: bytes) -> int | None:
    """Bits a sample of a JPEG; None: no JPEG, or its frame header is not there."""
    at = 2
    while data[:2] == b"\xff\xd8" and data[at : at + 1] == b"\xff" and at + 4 < len(data):
        if _JPEG_BITS.match(data, at):
            return data[at + 4]
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
