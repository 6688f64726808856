"""The routes of a service: looks, re-ranked lists, categories, products and their pictures, health and metrics."""

import asyncio
import hmac
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ctl_lightning.data.pairs import Box
from ctl_lightning.runtime.environment import own_version
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.compatibility import order_data
from ctl_lightning.serving.encoder import read_box
from ctl_lightning.serving.http.fetching import fetched
from ctl_lightning.serving.http.guard import Guard
from ctl_lightning.serving.http.lingering import Lingering
from ctl_lightning.serving.http.lookups import Lookups
from ctl_lightning.serving.http.pictures import picture_answer
from ctl_lightning.serving.http.refusals import RefusedError, one_line, too_slow
from ctl_lightning.serving.http.schemas import (
    LOOK_FIELDS,
    ORDER_FIELDS,
    Categories,
    Health,
    LookOut,
    Order,
    ProductCard,
    form_of,
    problems,
)
from ctl_lightning.serving.http.service import Service, told_as_away
from ctl_lightning.serving.http.uploads import Form, Upload, read_form, refused_photo
from ctl_lightning.serving.look import look_data

MOST = 100
"""Most products of each category that are found for one request."""

CANDIDATES = 1000
"""Most products that are ordered for one request."""

ABOUT = """What completes a scene. Send a photo to /v1/looks, or a photo and ids of products to /v1/rerank. An error is JSON with one line
in `error`."""

Result = TypeVar("Result")


def create_app(
    service: Service, *, root_path: str = "", api_key: str | None = None, image_hosts: Sequence[str] = ()
) -> FastAPI:
    """Makes the app of a service; it closes the service at its end.

    Args:
        service: service that answers.
        root_path: path below which a proxy offers the app, such as /looks.
        api_key: key that a client of /v1 has to send; None: none.
        image_hosts: hosts from which photos are fetched by their address; see `fetched`.
    """

    lookups = Lookups()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.live.watch()
        yield
        lookups.close()
        await asyncio.to_thread(service.close)

    # Swagger's page and ReDoc's load their scripts from elsewhere, and a service that calls nobody offers neither.
    without: dict[str, Any] = {"docs_url": None, "redoc_url": None, "redirect_slashes": False}
    app = FastAPI(title="ctl_lightning", version=own_version(), description=ABOUT, lifespan=lifespan, **without)
    api = _Routes(service, lookups, api_key is not None, image_hosts)
    key = [] if api_key is None else [Depends(_key_check(api_key))]
    refused = (401,) if api_key is not None else ()

    def add(path: str, answer: Callable[..., Any], model: Any, errors: Sequence[int], **more: Any) -> None:
        known = problems(*errors, *(refused if path.startswith("/v1") else ()), 500)
        given = {"responses": {200: {"model": model}, **known}, "response_model": None, **more}
        app.add_api_route(path, answer, dependencies=key if path.startswith("/v1") else [], **given)

    upload = (400, 408, 413, 415, 422, 503, 504)
    add("/v1/looks", api.looks, LookOut, upload, methods=["POST"], openapi_extra=form_of(LOOK_FIELDS, []))
    add(
        "/v1/rerank",
        api.rerank,
        Order,
        upload,
        methods=["POST"],
        openapi_extra=form_of(ORDER_FIELDS, ["category", "products"]),
    )
    add("/v1/categories", api.categories, Categories, [503, 504])
    pictures = {"200": {"content": {"image/*": {}}, "description": "the picture"}, "304": {"description": "unchanged"}}
    add("/v1/products/{product:path}/image", api.image, None, [404, 503, 504], openapi_extra={"responses": pictures})
    add("/v1/products/{product:path}", api.product, ProductCard, [404, 503, 504])
    add("/healthz", api.healthz, Health, [])
    add("/readyz", api.readyz, Health, [503])
    text = {"200": {"content": {"text/plain": {}}, "description": "metrics for Prometheus"}}
    add("/metrics", api.metrics, None, [], openapi_extra={"responses": text})
    app.add_exception_handler(RefusedError, _refused)  # type: ignore[arg-type]  # Starlette's annotation knows Exception alone
    app.add_exception_handler(HTTPException, _http_error)  # type: ignore[arg-type]
    routes = [getattr(route, "path", "") for route in app.routes]
    app.add_middleware(Guard, service=service, routes=routes, root_path=root_path)
    app.add_middleware(Lingering)
    return app


def _key_check(key: str) -> Callable[..., Any]:
    def check(
        sent: Annotated[str | None, Depends(APIKeyHeader(name="X-API-Key", auto_error=False))],
        bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
    ) -> None:
        given = sent if sent is not None else bearer.credentials if bearer is not None else ""
        if not hmac.compare_digest(given.encode(), key.encode()):
            raise RefusedError(
                401, "send the API key, as X-API-Key or Authorization: Bearer", {"WWW-Authenticate": "Bearer"}
            )

    return check


async def _refused(_: Request, error: RefusedError) -> Response:
    return JSONResponse({"error": str(error)}, error.status, headers=error.headers)


async def _http_error(request: Request, error: HTTPException) -> Response:
    lines = {
        404: f"there is no {request.url.path}; /openapi.json lists what there is",
        405: f"{request.method} is not for {request.url.path}; /openapi.json lists what there is",
    }
    line = one_line(lines.get(error.status_code, str(error.detail)))
    return JSONResponse({"error": line}, error.status_code, headers=error.headers)


class _Routes:
    """The answers to requests."""

    def __init__(self, service: Service, lookups: Lookups, private: bool, image_hosts: Sequence[str]) -> None:
        self._service = service
        self._private = private
        self._image_hosts = image_hosts
        self._lookups = lookups

    async def looks(self, request: Request) -> Response:
        """The products of each category that complete a scene."""
        end = asyncio.get_running_loop().time() + self._service.limits.timeout_s
        with self._service.admitted():
            form = await read_form(request, LOOK_FIELDS, self._service.limits)
            box, k = _box(form), _count(form)
            categories = form.fields.get("categories")
            known = len(self._service.live.recommender.encoder.categories)
            if categories is not None and len(categories) > known:
                raise RefusedError(422, f"categories: there are {known}; give each once")
            photo, name = await self._photo(form, end)
            asked = self._service.ask_look(photo, categories, k, box)
            look = await self._answered(request, asked, end, photo, name, "categories")
        image = _image_of(request)
        return await _json(lambda: look_data(name, look, lambda one: image(one.product)))

    async def rerank(self, request: Request) -> Response:
        """Products of the catalogue in the order in which they go with a scene, the nearest first."""
        end = asyncio.get_running_loop().time() + self._service.limits.timeout_s
        with self._service.admitted():
            form = await read_form(request, ORDER_FIELDS, self._service.limits)
            box, category, products = _box(form), form.one("category"), form.fields.get("products", [])
            if category is None:
                raise RefusedError(422, "category: give the category of the products")
            if not 1 <= len(products) <= CANDIDATES:
                raise RefusedError(422, f"products: give 1 to {CANDIDATES} ids, in a field each")
            photo, name = await self._photo(form, end)
            asked = self._service.ask_order(photo, category, products, box)
            ordered = await self._answered(request, asked, end, photo, name, "category")
        recommender = self._service.live.recommender  # of this checkpoint, as all
        whole = recommender.encoder.category(category)
        return await _json(lambda: order_data(name, whole, products, ordered, recommender.classifier))

    async def categories(self) -> Response:
        """The categories that have products, and how many."""

        def counted() -> dict[str, Any]:
            with (
                self._service.live.leased() as recommender,
                told_as_away(),
                recommender.catalogue.snapshot() as catalogue,
            ):
                counts = catalogue.counts
                names = [name for name in recommender.encoder.categories if name in counts]
            return {"categories": [{"category": name, "products": counts[name]} for name in names]}

        return JSONResponse(await self._in_time(counted))

    async def product(self, request: Request, product: str) -> Response:
        """A product of the catalogue."""
        found = await self._in_time(lambda: self._service.product(product))
        return JSONResponse({"product": product, "category": found.category, "image": _image_of(request)(product)})

    async def image(self, request: Request, product: str) -> Response:
        """The picture of a product, which may be kept for an hour."""
        if not request.scope["raw_path"].endswith(b"/image"):  # the slash is one of the id's
            return await self.product(request, f"{product}/image")

        def answered() -> Response:
            return picture_answer(product, self._service.product(product).image, request.headers, private=self._private)

        return await self._in_time(answered)

    async def healthz(self) -> Response:
        """Whether the process lives."""
        return JSONResponse({"status": "ok"})

    async def readyz(self) -> Response:
        """Whether it can answer: its catalogue can be searched, and it does not end."""
        if self._service.closing:
            raise RefusedError(503, "the service ends")
        await self._lookups.together(self._check_catalogue)
        return JSONResponse({"status": "ready"})

    async def metrics(self) -> Response:
        """Metrics for Prometheus."""
        with suppress(InputError):  # a catalogue that is away has no counts
            await self._lookups.together(self._service.count)
        return Response(self._service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def _in_time(self, work: Callable[[], Result]) -> Result:
        return await self._lookups.in_time(work, self._service.limits.timeout_s)

    def _check_catalogue(self) -> None:
        with self._service.live.leased() as recommender, told_as_away():
            recommender.catalogue.check()

    async def _photo(self, form: Form, end: float) -> tuple[Upload, str]:
        """The photo of a form, and what it is called. Raises RefusedError: there is none, or two, or it is not fetched until `end`."""
        url = form.one("url")
        if (form.photo is None) == (url is None):
            raise RefusedError(422, "photo: give a picture in the field photo, or its address in url")
        if form.photo is not None:
            return form.photo, form.photo.called
        try:
            async with asyncio.timeout_at(end):
                return await fetched(str(url), self._image_hosts, self._service.limits), one_line(str(url))
        except TimeoutError:
            raise too_slow(self._service.limits.timeout_s) from None

    async def _answered(
        self, request: Request, asked: "Future[Result]", end: float, photo: Upload, name: str, categories: str
    ) -> Result:
        """Waits for an answer.

        Args:
            request: request that it is for.
            asked: the answer to come; what is not waited for any more is dropped.
            end: time of the loop until which it is waited for.
            photo: photo that was sent.
            name: what the client calls it.
            categories: field that names categories.

        Raises:
            RefusedError: something is wrong with the request, or it took too long.
            ClientDisconnect: the client went away.
        """
        answer, gone = asyncio.wrap_future(asked), asyncio.ensure_future(_gone(request))
        try:
            left = end - asyncio.get_running_loop().time()
            either: list[asyncio.Future[Any]] = [answer, gone]
            await asyncio.wait(either, timeout=max(0, left), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ClientDisconnect if gone.done() else too_slow(self._service.limits.timeout_s)
            if answer.cancelled():
                raise RefusedError(503, "the service ends")
            return answer.result()
        except RefusedError:
            raise
        except InputError as error:
            if str(error).startswith("the photo: "):
                raise refused_photo(error, photo, photo.called) from None
            raise RefusedError(422, re.sub(r"^category=", f"{categories}=", str(error))) from None
        finally:
            answer.cancel()
            gone.cancel()
            with suppress(asyncio.CancelledError):
                await gone


async def _gone(request: Request) -> None:
    """Returns when the client has gone away; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _json(made: Callable[[], Any]) -> Response:
    """Values as JSON, made and written in a thread."""
    content = await asyncio.to_thread(lambda: json.dumps(made(), ensure_ascii=False).encode())
    return Response(content, media_type="application/json")


def _image_of(request: Request) -> Callable[[str], str]:
    root = request.scope.get("root_path", "").rstrip("/")

    def address(product: str) -> str:
        dots = product in (".", "..")  # they are of the way in an address, but if they are escaped
        return f"{root}/v1/products/{'%2E' * len(product) if dots else quote(product, safe='')}/image"

    return address


def _box(form: Form) -> Box | None:
    text = form.one("box")
    if text is None:
        return None
    try:
        return read_box(json.loads(text) if text.lstrip().startswith("[") else text.split(","))
    except InputError as error:
        raise RefusedError(422, str(error)) from None
    except (ValueError, RecursionError):
        raise RefusedError(422, f"box={text}: give left,top,right,bottom, or a JSON list of these") from None


def _count(form: Form) -> int:
    text = form.one("k")
    if text is None:
        return 3
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= MOST:
        raise RefusedError(422, f"k={text}: give a whole number from 1 to {MOST}")
    return int(text)
