"""Reads the form of a request: its photo, and its fields. Nothing is kept on a disk, and nothing beyond the limits is read."""

import asyncio
import re
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing
from io import BytesIO
from typing import NamedTuple

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from ctl_lightning.data.pictures.kinds import HEIC_MISSING, READ, is_heic
from ctl_lightning.runtime.errors import InputError, suggestion
from ctl_lightning.serving.http.limits import Limits
from ctl_lightning.serving.http.refusals import RefusedError, one_line

FIELD = 64 * 2**10
"""Size of the largest field that is no photo, in bytes."""

FIELDS = 1100
"""Most fields of a form: a thousand products to order, and some more."""

BESIDE = 2 * 2**20
"""Size of what may be sent beside the photo, in bytes."""

NAME = 100
"""Most letters of a photo's name that are kept."""

OF_A_FORMAT = re.compile(
    rb"\Z|\0{16}|\xff\xd8|\x89PNG|GIF8|RIFF....WEBP|BM|II[*+]\0|MM\0[*+]|....ftyp(avif|avis|he|mif1|msf1)", re.DOTALL
)
"""How files begin that are empty, or of a format that is read: a broken one is of the right type."""


class Upload(BytesIO):
    """A photo's file in memory.

    Attributes:
        called: what the client calls it, without folders; "photo" if it has no name.
    """

    def __init__(self, data: bytes, called: str) -> None:
        super().__init__(data)
        self.called = called


class Form(NamedTuple):
    """A form.

    Attributes:
        photo: the photo; None: there is none.
        fields: name -> values in their order, of what is no file.
    """

    photo: Upload | None
    fields: Mapping[str, list[str]]

    def one(self, name: str) -> str | None:
        """The value of a field; None: there is none. Raises RefusedError: several."""
        values = self.fields.get(name, [])
        if len(values) > 1:
            raise RefusedError(422, f"{name}: give it once")
        return values[0] if values else None


class _InMemory(MultiPartParser):
    spool_max_size = 0  # never to a disk: how much there can be is limited


async def read_form(request: Request, names: Collection[str], limits: Limits) -> Form:
    """Reads a multipart form.

    Args:
        request: request whose body has not been read.
        names: names of the fields that it may have; "photo" alone is a file.
        limits: limits of its size and of the time that it may take.

    Raises:
        RefusedError: no form, one that is broken, too large or too slow, or with fields that there are not.
        ClientDisconnect: the client went away.
    """
    kind, given = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        raise RefusedError(415, "send a form: multipart/form-data")
    if given.get(b"charset", b"utf-8").lower() not in (
        b"utf-8",
        b"utf8",
    ):  # others give letters that no answer can hold
        raise RefusedError(400, "the form cannot be read: its charset is not UTF-8")
    most = limits.max_upload + BESIDE
    length = request.headers.get("content-length", "0")
    if not re.fullmatch("[0-9]{1,15}", length) or int(length) > most:
        raise _too_large(limits)
    try:
        async with asyncio.timeout(limits.timeout_s), aclosing(_counted(request, most, limits)) as body:
            parser = _InMemory(request.headers, body, max_files=1, max_fields=FIELDS, max_part_size=FIELD)
            items = (await parser.parse()).multi_items()
    except TimeoutError:
        raise RefusedError(408, f"the upload took more than {limits.timeout_s:g} seconds") from None
    except (MultiPartException, HTTPException) as error:
        said = str(getattr(error, "message", getattr(error, "detail", "")))
        raise RefusedError(400, f"the form cannot be read: {said or 'it is broken'}") from None
    except (ValueError, LookupError) as error:
        raise RefusedError(400, f"the form cannot be read: {error}") from None
    return await _form(items, names, limits)


async def _form(items: list[tuple[str, UploadFile | str]], names: Collection[str], limits: Limits) -> Form:
    photo, fields = None, dict[str, list[str]]()
    for name, value in items:
        if name not in names:
            near = suggestion(name, names)
            raise RefusedError(422, f"{name[:NAME]}: there is no such field{near}; there are {', '.join(names)}")
        if isinstance(value, str):
            if name == "photo":
                raise RefusedError(422, "photo: send it as a file, with a file name")
            fields.setdefault(name, []).append(value)
            continue
        if name != "photo":
            raise RefusedError(422, f"{name}: it is no file; send it as text, without a file name")
        if (value.size or 0) > limits.max_upload:
            raise _too_large(limits)
        photo = Upload(await value.read(), _called(value.filename))
        await value.close()
    return Form(photo, fields)


async def _counted(request: Request, most: int, limits: Limits) -> AsyncGenerator[bytes, None]:
    """The body, as it arrives; a client may send more than it said, or not say how much."""
    read = 0
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            read += len(chunk)
            if read > most:
                raise _too_large(limits)
            yield chunk


def _too_large(limits: Limits) -> RefusedError:
    return RefusedError(413, f"photo: larger than {limits.max_upload / 2**20:g} MB, which is the most that is taken")


def _called(name: str | None) -> str:
    return one_line((name or "").replace("\\", "/").rpartition("/")[2])[:NAME] or "photo"


def refused_photo(error: InputError, photo: Upload, called: str) -> RefusedError:
    """Refuses a request for what an error says of its photo, which the client knows by another name.

    Args:
        error: what `Recommender.prepare` raised: of the photo, if it says "the photo".
        photo: the photo.
        called: what the client calls it.
    """
    said = str(error).removeprefix("the photo: ")
    if HEIC_MISSING in said:
        return RefusedError(415, f"{called}: a HEIC picture, which is not read here; save it as JPEG")
    head = photo.getvalue()[:64]
    if OF_A_FORMAT.match(head) or is_heic(head):
        return RefusedError(422, f"{called}: {said}")
    return RefusedError(415, f"{called}: {said}{'' if READ in said else f'; {READ} are read'}")
