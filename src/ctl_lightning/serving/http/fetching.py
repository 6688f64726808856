"""Fetches the photo of an address, from hosts that are listed and from no others."""

import ipaddress
import re
from collections.abc import Collection
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.http.limits import Limits
from ctl_lightning.serving.http.refusals import RefusedError
from ctl_lightning.serving.http.uploads import NAME, Upload

SECONDS = 10.0
"""Longest time to fetch a photo, in seconds."""

REDIRECTS = 3
"""Most redirects that are followed, each to a listed host."""

PORTS = {"http": 80, "https": 443}


class _PublicResolver(AbstractResolver):
    """Finds addresses of names, and refuses private ones: who listed a name did not list what is behind this machine's walls."""

    def __init__(self) -> None:
        self._found = ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
        found = await self._found.resolve(host, port, family)
        for one in found:
            address = ipaddress.ip_address(one["host"].partition("%")[0])
            mapped = getattr(address, "ipv4_mapped", None)
            if not (mapped or address).is_global:
                raise RefusedError(422, f"url: {host} leads to a private address")
        return found

    async def close(self) -> None:
        await self._found.close()


def check_hosts(hosts: Collection[str]) -> None:
    """Raises InputError: an entry of `image_hosts` that is no HOST or HOST:PORT, and so would never be asked."""
    for host in hosts:
        if not re.fullmatch(r"[\w.-]+(:\d{1,5})?", host, re.ASCII):
            raise InputError(f"image_hosts={host}: give HOST or HOST:PORT, such as images.example.com")


async def fetched(text: str, hosts: Collection[str], limits: Limits) -> Upload:
    """Fetches a photo.

    Args:
        text: http or https address.
        hosts: hosts that may be asked: HOST for the usual port, or HOST:PORT. A name must lead to a public address; a private one
            is listed as the address that it is.
        limits: the size that it may have.

    Raises:
        RefusedError: no address, a host that is not listed, or one that does not give the photo.
    """
    if not hosts:
        raise RefusedError(422, "url: no host is allowed here; send the photo itself, in the field photo")
    try:
        url = URL(text)
        _check(url, hosts)
        timeout = aiohttp.ClientTimeout(total=SECONDS)
        connector = aiohttp.TCPConnector(resolver=_PublicResolver(), use_dns_cache=False)
        headers = {"User-Agent": "ctl_lightning", "Accept-Encoding": "identity"}
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            headers=headers,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as session:
            for _ in range(REDIRECTS + 1):
                async with session.get(url, allow_redirects=False) as response:
                    if response.status not in (301, 302, 303, 307, 308):
                        return await _read(response, url, limits)
                    url = url.join(URL(response.headers.get("Location", "")))
                    _check(url, hosts)
        raise RefusedError(422, f"url: more than {REDIRECTS} redirects")
    except RefusedError:
        raise
    except TimeoutError:
        raise RefusedError(422, f"url: its host did not give it within {SECONDS:g} seconds") from None
    except (aiohttp.ClientError, OSError, ValueError):
        raise RefusedError(422, "url: it cannot be fetched") from None


def _check(url: URL, hosts: Collection[str]) -> None:
    """Raises RefusedError: an address whose host is not listed. The same parser reads it as is asked by it."""
    if url.scheme not in PORTS or url.host is None or url.user is not None or url.password is not None:
        raise RefusedError(422, "url: give an address that begins with http:// or https://, without a user")
    allowed = {host.lower() for host in hosts}
    usual = url.port == PORTS[url.scheme]
    if f"{url.host}:{url.port}" not in allowed and not (usual and url.host in allowed):
        raise RefusedError(422, f"url: {url.host[:NAME]} is not among the hosts that are allowed here")


async def _read(response: aiohttp.ClientResponse, url: URL, limits: Limits) -> Upload:
    if response.status != 200:
        raise RefusedError(422, f"url: its host answered {response.status}")
    data = bytearray()
    async for chunk in response.content.iter_chunked(2**16):
        data += chunk
        if len(data) > limits.max_upload:
            raise RefusedError(
                413, f"url: larger than {limits.max_upload / 2**20:g} MB, which is the most that is taken"
            )
    return Upload(bytes(data), "url")
