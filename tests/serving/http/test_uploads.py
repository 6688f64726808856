"""Whatever is uploaded, a photo that cannot be read is a 4xx with one line in the client's words, and the service goes on."""

import io
import random
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from ctl_lightning.data.pictures.kinds import HEIC_MISSING
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.http.uploads import NAME, Upload, refused_photo
from ctl_lightning.serving.recommender import Recommender

SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"


def refused(client: TestClient, status: int, error: str, **request: Any) -> None:
    answer = client.post("/v1/looks", **request)
    assert (answer.status_code, answer.json()) == (status, {"error": error})


def picture(kind: str, size: tuple[int, int] = (60, 40), **options: Any) -> bytes:
    file = io.BytesIO()
    Image.effect_noise(size, 90).convert("RGB").save(file, kind, **options)
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of a few hundred bytes that says that it has 900 million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10**5))) + chunk(b"IEND", b"")
    )


def of_many_pixels() -> bytes:
    file = io.BytesIO()
    Image.new("L", (1001, 1000)).save(file, "PNG")
    return file.getvalue()


def of_scans(count: int) -> bytes:
    """A JPEG with further scans, in which nothing is new."""
    whole = picture("JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    head = whole[last : last + 2 + int.from_bytes(whole[last + 2 : last + 4], "big")]
    return whole[:-2] + count * head + whole[-2:]


READ = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF and HEIC"


@pytest.mark.parametrize(
    ("name", "data", "status", "error"),
    [
        ("a.jpg", b"", 422, "a.jpg: not an image but an empty file"),
        ("a.jpg", b"no picture", 415, f"a.jpg: not an image; {READ} are read"),
        (
            "a.svg",
            SVG,
            415,
            f"a.svg: not an image but a drawing (SVG), and {READ} are read; convert it: magick FILE FILE.jpg",
        ),
        (
            "/etc/a.jpg",
            b"<!doctype html><html>",
            415,
            f"a.jpg: not an image but a web page (HTML); download the picture itself; {READ} are read",
        ),
        ("C:\\me\\a.jpg", picture("JPEG")[:400], 422, "a.jpg: "),
        ("a.png", bomb(), 422, "a.png: more than 80 million pixels"),
        ("b.png", of_many_pixels(), 422, "b.png: 1001 x 1000 pixels, and 1 million are read at most; make it smaller"),
        (
            "c.jpg",
            of_scans(3000),
            422,
            "c.jpg: a JPEG of 3010 scans, and 100 are read at most; save it anew: magick FILE",
        ),
        ("b\x1b[31m.jpg", b"x", 415, "b [31m.jpg: not an image"),
    ],
)
def test_what_is_no_photo_is_told_in_the_clients_words(
    client: TestClient, name: str, data: bytes, status: int, error: str
) -> None:
    answer = client.post("/v1/looks", files={"photo": (name, data)})
    assert answer.status_code == status
    assert answer.json()["error"].startswith(error)
    assert "\n" not in answer.json()["error"]


def test_scans_that_programs_write_and_a_film_behind_a_picture_are_read(client: TestClient) -> None:
    for data in (of_scans(50), picture("JPEG") + b"\xff\xda" * 1000):
        assert client.post("/v1/looks", files={"photo": data}).status_code == 200


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"])
def test_pictures_of_all_kinds_get_the_look_of_their_file(
    client: TestClient, recommender: Recommender, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "photo"
    if kind == "HEIF":
        pillow_heif = pytest.importorskip("pillow_heif")
        pillow_heif.from_pillow(Image.effect_noise((64, 80), 90).convert("RGB")).save(path.with_suffix(".heic"))
        path.with_suffix(".heic").rename(path)
    else:
        path.write_bytes(picture(kind))
    found = client.post("/v1/looks", files={"photo": path.read_bytes()})
    assert found.status_code == 200, found.text
    wanted = recommender.look(path)
    for answer, other in zip(found.json()["categories"], wanted.answers, strict=True):
        assert [one["product"] for one in answer["products"]] == [one.product for one in other.products]


def test_without_pillow_heif_a_heic_is_415_and_says_what_to_do() -> None:
    found = refused_photo(InputError(f"the photo: {HEIC_MISSING}"), Upload(b"....ftypheic", "a.heic"), "a.heic")
    assert (found.status, str(found)) == (415, "a.heic: a HEIC picture, which is not read here; save it as JPEG")


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"k": "0"}, "k=0: give a whole number from 1 to 100"),
        ({"k": "101"}, "k=101: give a whole number from 1 to 100"),
        ({"k": "x"}, "k=x: give a whole number from 1 to 100"),
        ({"k": ["1", "2"]}, "k: give it once"),
        ({"box": "1,2"}, "box=['1', '2']: give [left, top, right, bottom], from 0 to 1"),
        ({"box": f"[0, 0, 1, 1{'0' * 400}]"}, "box=[0, 0, 1, 10000"),
        ({"box": "[1,"}, "box=[1,: give left,top,right,bottom, or a JSON list of these"),
        (
            {"box": "0.5,0.1,0.2,0.4"},
            "box=[0.5, 0.1, 0.2, 0.4]: give [left, top, right, bottom], from 0 to 1, not empty",
        ),
        ({"box": "nan,0,1,1"}, "box=[nan, 0.0, 1.0, 1.0]: give [left, top, right, bottom], from 0 to 1, not empty"),
        (
            {"categories": "Shoe"},
            "categories=Shoe: unknown to this checkpoint; did you mean 'Shoes'?; it knows 'Apparel & Accessories|Hats', "
            "'Apparel & Accessories|Shoes'",
        ),
        ({"categories": ["Shoes", "Hats", "Hats"]}, "categories: there are 2; give each once"),
        ({"kk": "1"}, "kk: there is no such field; did you mean 'k'?; there are photo, url, box, categories, k"),
        ({"url": "http://127.0.0.1/a.jpg"}, "photo: give a picture in the field photo, or its address in url"),
    ],
)
def test_wrong_fields_are_named(client: TestClient, photos: list[Path], fields: Any, error: str) -> None:
    answer = client.post("/v1/looks", files={"photo": photos[0].read_bytes()}, data=fields)
    assert answer.status_code == 422
    assert answer.json()["error"][: len(error)] == error


def test_wrong_forms(client: TestClient, photos: list[Path]) -> None:
    data = photos[0].read_bytes()
    no_photo = "photo: give a picture in the field photo, or its address in url"
    refused(client, 415, "send a form: multipart/form-data", content=data, headers={"Content-Type": "image/jpeg"})
    refused(client, 415, "send a form: multipart/form-data")
    refused(client, 422, no_photo, files={"k": (None, "3")})
    refused(client, 422, "photo: send it as a file, with a file name", files={"photo": (None, "x")})
    refused(client, 422, "k: it is no file; send it as text, without a file name", files={"k": ("k.txt", "3")})
    refused(
        client,
        400,
        "the form cannot be read: Too many files. Maximum number of files is 1.",
        files=[("photo", ("a.jpg", data)), ("photo", ("b.jpg", data))],
    )
    refused(
        client,
        400,
        "the form cannot be read: Too many fields. Maximum number of fields is 1100.",
        files=[("categories", (None, "Shoes"))] * 1101,
    )
    for kind in ("multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=x"):
        answer = client.post("/v1/looks", content=b"nothing of the kind", headers={"Content-Type": kind})
        assert answer.status_code in (400, 422)
        assert answer.json().keys() == {"error"}
    order = client.post("/v1/rerank", files={"photo": data}, data={"category": "Shoes", "products": ["a", "b", "a"]})
    assert (order.status_code, order.json()) == (422, {"error": "products: the catalogue has no 'a', 'b'"})
    for fields, error in (
        ({"products": "a"}, "category: give the category of the products"),
        ({"category": "Shoes"}, "products: give 1 to 1000 ids, in a field each"),
        ({"category": "Shoe", "products": "a"}, "products: the catalogue has no 'a'"),
    ):
        answer = client.post("/v1/rerank", files={"photo": data}, data=fields)
        assert (answer.status_code, answer.json()) == (422, {"error": error})


@pytest.mark.parametrize("route", ["looks", "rerank"])
@pytest.mark.parametrize("charset", ["raw_unicode_escape", "unicode_escape", "utf-7", "\xff"])
def test_a_form_is_utf_8(client: TestClient, photos: list[Path], route: str, charset: str) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    photo = part % (b"photo", rb'; filename="\ud800"', photos[0].read_bytes())
    body = photo + part % (b"products", b"", rb"\ud800") + part % (b"category", b"", b"Shoes") + b"--x--\r\n"
    kind = {b"Content-Type": f"multipart/form-data; boundary=x; charset={charset}".encode("latin-1")}
    answer = client.post(f"/v1/{route}", content=body, headers=kind)
    assert (answer.status_code, answer.json()) == (400, {"error": "the form cannot be read: its charset is not UTF-8"})


def test_nothing_is_read_beyond_the_limit(client: TestClient) -> None:
    too_large = "photo: larger than 1 MB, which is the most that is taken"
    refused(client, 413, too_large, files={"photo": bytes(2**20 + 1)})
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    # Starlette's client reads a stream whole, so it is the length that is too large here; test_server sends a stream.
    refused(client, 413, too_large, content=b"", headers=kind | {"Content-Length": "100000000"})
    refused(client, 413, too_large, content=b"", headers=kind | {"Content-Length": "-1"})
    answer = client.post("/v1/looks", files={"photo": (f"{'n' * 500}.jpg", b"x")})
    assert len(answer.json()["error"]) < NAME + 200


def malformed(seed: int) -> tuple[str, bytes]:
    """A file that is no whole picture: cut, with changed bytes, of another kind, empty or a bomb."""
    chance = random.Random(seed)
    whole = picture(chance.choice(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]))
    way = seed % 5
    if way == 0:
        return "cut.jpg", whole[: chance.randrange(len(whole) // 2)]
    if way == 1:
        return "garbage.png", whole[:8] + chance.randbytes(300)
    if way == 2:
        return "kind.gif", chance.choice([SVG, b"<html>", b"%PDF-1.7", b"PK\x03\x04", b"....ftypheic", b"", b"\0" * 99])
    if way == 3:
        return "bomb.png", bomb()[: chance.choice([10**6, 60])]
    return "noise", chance.randbytes(chance.randrange(3000))


def test_two_hundred_malformed_photos_are_a_line_each(client: TestClient, photos: list[Path]) -> None:
    for seed in range(200):
        name, data = malformed(seed)
        answer = client.post("/v1/looks", files={"photo": (name, data)})
        assert 400 <= answer.status_code < 500, (seed, answer.text)
        assert answer.json().keys() == {"error"}
        assert re.fullmatch(rf"{re.escape(name)}: [^\n]+", answer.json()["error"])
        assert "/" not in answer.json()["error"].replace("n/a", "")
    assert client.post("/v1/looks", files={"photo": photos[0].read_bytes()}).status_code == 200


def test_a_broken_form_is_a_line(client: TestClient, photos: list[Path]) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="photo"; filename="a.jpg"\r\n\r\n'
    whole = head + photos[0].read_bytes() + b"\r\n--x--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert client.post("/v1/looks", content=whole, headers=kind).status_code == 200
    chance = random.Random(0)
    for _ in range(100):
        place, length = chance.randrange(len(head)), chance.randrange(4)
        broken = whole[:place] + chance.randbytes(chance.randrange(4)) + whole[place + length :]
        cut = broken if chance.random() < 0.5 else broken[: chance.randrange(len(broken))]
        answer = client.post("/v1/looks", content=cut, headers=kind)
        assert answer.status_code == 200 or 400 <= answer.status_code < 500
        assert answer.status_code == 200 or "\n" not in answer.json()["error"]
