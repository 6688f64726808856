"""Addresses of servers, and keys: a password in one is for the connection alone, never to be written or shown."""

import os
import re
from collections.abc import Sequence
from urllib.parse import unquote

KEY = "CTL_API_KEY"
"""Environment variable of the API key."""

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


def without_passwords(words: Sequence[str]) -> list[str]:
    """A command line without the password of a PostgreSQL address, which goes where libpq looks for it, and without an API key, which goes
    into the environment: Hydra writes the words into files."""
    kept = []
    for word in words:
        option, _, value = word.partition("=")
        quote = value[0] if value[:1] in ("'", '"') and value[-1:] == value[0] else ""
        url = value[len(quote) : len(value) - len(quote)]
        if option == "catalogue.url" and url.startswith("postgres"):
            url, password = without_password(url)
            word = f"{option}={quote}{url}{quote}"
            if password is not None:
                os.environ["PGPASSWORD"] = password
        if option.lstrip("+") == "api_key" and url not in ("", "null") and "${" not in url:
            os.environ[KEY] = url
            word = f"{option}=null"
        kept.append(word)
    return kept
