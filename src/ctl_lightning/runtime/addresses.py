"""Addresses of servers: a password in one is for the connection alone, never to be written or shown."""

import re
from urllib.parse import unquote

SECRET = {"password", "sslpassword"}
"""Parameters of an address that are no one's business."""


def without_password(url: str) -> tuple[str, str | None]:
    """An address such as postgresql://USER:PASSWORD@HOST/DB?password=PASSWORD without its password; and the password, None: it has none.

    Nothing of a password is left, even if it has characters that should have been escaped.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url, None
    user, at, place = rest.rpartition("@")
    name, colon, secret = user.partition(":")
    name = re.split("[/?#]", name)[0]
    password = unquote(secret) if colon else None
    place, _, parameters = place.partition("?")
    kept = []
    for one in filter(None, parameters.split("&")):
        key, _, value = one.partition("=")
        if unquote(key).lower() not in SECRET:
            kept.append(one)
        elif unquote(key).lower() == "password":
            password = unquote(value)
    shown = f"{scheme}://{name}@{place}" if at and name else f"{scheme}://{place}"
    return shown + (f"?{'&'.join(kept)}" if kept else ""), password
