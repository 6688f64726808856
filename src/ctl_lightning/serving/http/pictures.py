"""Gives the picture of a product to a browser, which may keep it."""

import mimetypes
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import Response

from ctl_lightning.data.pictures.opening import ENDINGS, check_regular
from ctl_lightning.serving.http.refusals import RefusedError

KEPT = 3600
"""Seconds that a picture may be kept without asking again."""


def picture_answer(product: str, path: Path, asked: Headers, *, private: bool) -> Response:
    """A picture's file, or that the client has it already. Raises RefusedError: it is gone.

    Args:
        product: id of the product.
        path: file of its picture.
        asked: headers of the request.
        private: whether only the client itself may keep it, and no cache on the way.
    """
    try:
        check_regular(path)
        found = path.stat()
        data = path.read_bytes()
    except OSError:
        raise RefusedError(404, f"{product}: its picture is gone") from None
    tag = f'"{found.st_mtime_ns:x}-{found.st_size:x}"'
    headers = {
        "ETag": tag,
        "Last-Modified": formatdate(found.st_mtime, usegmt=True),
        "Cache-Control": f"{'private' if private else 'public'}, max-age={KEPT}",
        "X-Content-Type-Options": "nosniff",
    }
    if _has_it(asked, tag, found.st_mtime):
        return Response(status_code=304, headers=headers)
    known = path.suffix.lower() in ENDINGS  # a drawing or a page, which could hold scripts, is none of them
    kind = mimetypes.guess_type(path.name)[0] if known else None
    return Response(data, media_type=kind or "application/octet-stream", headers=headers)


def _has_it(asked: Headers, tag: str, changed: float) -> bool:
    if (tags := asked.get("if-none-match")) is not None:
        return tags.strip() == "*" or tag in [one.strip().removeprefix("W/") for one in tags.split(",")]
    try:
        return int(changed) <= parsedate_to_datetime(asked.get("if-modified-since", "")).timestamp()
    except (ValueError, OverflowError):
        return False
