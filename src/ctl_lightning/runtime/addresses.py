"""Addresses of servers, and keys: a password in one is for the connection alone, never to be written or shown."""

import os
import re
from collections.abc import Sequence
from urllib.parse import unquote

from ctl_lightning.runtime.errors import InputError

KEY = "CTL_API_KEY"
"""Environment variable of the API key."""

SECRET = {"password", "sslpassword"}
"""Parameters of an address that are no one's business."""

PLAIN = re.compile(r"[a-z]+://([^:@/?#]*(:[^@/?#]*)?@)?[^@?#]*(\?[^@#]*)?")
"""An address in which it is plain what belongs to the password."""


STORES = re.compile("tracking_uri|artifact_location", re.IGNORECASE)
"""Options and variables with an address of MLflow's, which cannot be handed on without its password as PostgreSQL's can."""

OPEN = re.compile(r"://(?!/)[^@]*:[^@]*@|(password|passwd|pwd)(=|%3d)", re.IGNORECASE)
"""What is in an address that has a password, and, if it is not escaped, in some that have none."""


def check_no_password(address: str, option: str) -> None:
    """Raises InputError, which does not show it: there is a password in an address of MLflow's."""
    if OPEN.search(address):
        raise InputError(
            f"{option}: a password in it would be written into files; give the address without one, and "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment (http), or PGPASSWORD or ~/.pgpass (PostgreSQL)"
        )


def without_password(url: str) -> tuple[str, str | None]:
    """An address such as postgresql://USER:PASSWORD@HOST/DB?password=PASSWORD without its password; and the password, None: it has none.

    An address of which it is not plain what belongs to the password is only "...".
    """
    if not PLAIN.fullmatch(url):
        return "...", None
    scheme, _, rest = url.partition("://")
    user, at, place = rest.rpartition("@")
    name, colon, secret = user.partition(":")
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
    into the environment: Hydra writes the words into files.

    Raises:
        InputError: an address of which it is not plain what belongs to the password; a password in an address of MLflow's.
    """
    kept = []
    for word in words:
        option, _, value = word.partition("=")
        if STORES.search(word):
            check_no_password(value, option)
        name = option.lstrip("+~")
        quote = value[0] if value[:1] in ("'", '"') and value[-1:] == value[0] else ""
        url = value[len(quote) : len(value) - len(quote)]
        an_address = name == "catalogue.url" or (name == "catalogue" and value.lstrip().startswith("{"))
        if an_address and re.search("postgres|password", url, re.IGNORECASE):
            if not PLAIN.fullmatch(url):
                raise InputError(
                    f"{option}=...: give catalogue.url=postgresql://USER@HOST:PORT/DATABASE, with % codes for special characters"
                )
            url, password = without_password(url)
            word = f"{option}={quote}{url}{quote}"
            if password is not None:
                os.environ["PGPASSWORD"] = password
        if name == "api_key" and url not in ("", "null") and "${" not in url:
            os.environ[KEY] = url
            word = f"{option}=null"
        kept.append(word)
    return kept
