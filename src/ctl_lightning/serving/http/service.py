"""Answers photos for all who ask over HTTP, the page included: within limits, in batches, from the catalogue of the moment."""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from ctl_lightning.data.images import reason
from ctl_lightning.data.pairs import Box
from ctl_lightning.data.pictures.opening import check_scans, read, shrinks
from ctl_lightning.runtime.errors import InputError, listed
from ctl_lightning.runtime.memory import give_back_freed_memory
from ctl_lightning.serving.catalogue.files import Found
from ctl_lightning.serving.compatibility import Judgement, judged, nearest_first
from ctl_lightning.serving.http.batching import Batcher
from ctl_lightning.serving.http.limits import Limits
from ctl_lightning.serving.http.live import Live
from ctl_lightning.serving.http.metrics import Metrics
from ctl_lightning.serving.http.refusals import RefusedError, busy, catalogue_away, too_slow
from ctl_lightning.serving.pictures import SCENE
from ctl_lightning.serving.recommender import Look, Prepared, Recommender

log = logging.getLogger(__name__)

Photo = Path | BinaryIO
"""A photo's file: its path, or open."""

LARGE = 10_000_000
"""Pixels above which photos that are decoded whole are decoded one at a time: each takes up to 25 bytes a pixel meanwhile."""

DECODERS = max(1, min(4, os.cpu_count() or 1))
"""Threads that decode photos."""


SHOWN = 100
"""Letters of an unknown id that an error repeats at most."""


class _Asked(NamedTuple):
    """A request that is ready for the network.

    Attributes:
        recommender: recommender that it was prepared for.
        prepared: the photo, and what is asked of it.
        candidates: products to order for its one category; None: it asks for a look.
    """

    recommender: Recommender
    prepared: Prepared
    candidates: Sequence[Found] | None


Answered = Look | list[Judgement]


class Service:
    """Looks and re-ranked lists for many clients at once.

    Args:
        live: catalogue of the moment, which the service closes with itself.
        limits: how much it takes on.
    """

    def __init__(self, live: Live, limits: Limits) -> None:
        self.live = live
        self.limits = limits
        self.metrics = Metrics()
        self.closing = False
        self._closed = False
        self._counts: Mapping[str, int] = {}
        self._large = threading.Lock()
        self._waiting = 0
        self._lock = threading.Lock()
        self._batcher: Batcher[_Asked, Answered] = Batcher(
            _answer_all, limits.max_batch, limits.patience_ms / 1000, DECODERS, self.metrics.batches.observe
        )
        live.exchanged = lambda done: self.metrics.exchanges.labels("done" if done else "failed").inc()
        method = live.recommender.encoder.trained.method
        self.metrics.watch(lambda: self._waiting, lambda: self._counts, method)

    def end(self) -> None:
        """Notes that the end has begun: what comes is answered still, but nobody should send more."""
        self.closing = True

    def close(self) -> None:
        """Cancels what still waits, and closes the catalogue; a second time it does nothing."""
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            self._batcher.close()
            self.live.close()

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """A place among those who wait, for the block. Raises RefusedError: all are taken."""
        with self._lock:
            if self._waiting >= self.limits.max_waiting:
                raise busy(self._waiting)
            self._waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1

    def ask_look(self, photo: Photo, categories: Sequence[str] | None, k: int, box: Box | None) -> "Future[Look]":
        """`Recommender.look` in a batch; a RefusedError of status 503 if the catalogue cannot be searched."""

        def prepare(recommender: Recommender) -> _Asked:
            return self._prepared(recommender, photo, categories, k, box, None)

        return self._ask(prepare)  # type: ignore[return-value]  # a look is asked for

    def ask_order(
        self, photo: Photo, category: str, products: Sequence[str], box: Box | None
    ) -> "Future[list[Judgement]]":
        """Judges products of the catalogue for a photo, nearest first, as `Compatibility.rerank` does photos, in a batch."""

        def prepare(recommender: Recommender) -> _Asked:
            with told_as_away(), recommender.catalogue.snapshot() as catalogue:
                found = catalogue.find(products)
            unknown = [product for product in dict.fromkeys(products) if product not in found]
            if unknown:
                raise RefusedError(422, f"products: the catalogue has no {listed(unknown)}")
            candidates = [found[product] for product in products]
            return self._prepared(recommender, photo, [category], 1, box, candidates)

        return self._ask(prepare)  # type: ignore[return-value]  # an order is asked for

    def _ask(self, prepare: Callable[[Recommender], _Asked]) -> "Future[Answered]":
        """Has a request prepared and answered from the catalogue of the moment, which stays open until that is done."""
        lease = ExitStack()
        recommender = lease.enter_context(self.live.leased())
        asked = self._batcher.ask(lambda: prepare(recommender))
        asked.add_done_callback(lambda _: lease.close())
        return asked

    def look(self, photo: Photo, categories: Sequence[str] | None, k: int, box: Box | None) -> Look:
        """`Recommender.look` for a thread that waits.

        Raises:
            InputError: as `Recommender.look`; a RefusedError where the service is busy, slow, or ends.
        """
        with self.admitted():
            asked = self.ask_look(photo, categories, k, box)
            try:
                return asked.result(self.limits.timeout_s)
            except TimeoutError:
                asked.cancel()
                raise too_slow(self.limits.timeout_s) from None
            except CancelledError:
                raise RefusedError(503, "the service ends") from None

    def product(self, product: str) -> Found:
        """A product of the catalogue. Raises RefusedError: there is none of this id, or the catalogue is away."""
        with self.live.leased() as recommender, told_as_away(), recommender.catalogue.snapshot() as catalogue:
            found = catalogue.find([product]).get(product)
        if found is None:
            raise RefusedError(404, f"the catalogue has no product {product[:SHOWN]!r}")
        return found

    def count(self) -> None:
        """Counts the products anew for the metrics. Raises InputError: the catalogue is away."""
        self._counts = {}
        with self.live.leased() as recommender:
            self._counts = dict(recommender.catalogue.counts)

    def _prepared(
        self,
        recommender: Recommender,
        photo: Photo,
        categories: Sequence[str] | None,
        k: int,
        box: Box | None,
        candidates: Sequence[Found] | None,
    ) -> _Asked:
        alone = self._one_at_a_time() if self._is_large(photo) else nullcontext()
        with told_as_away(of="catalogue"), alone:
            prepared = recommender.prepare(photo, categories, k, box)
            # As large as it is shown: many wait, and a photo takes a hundred megabytes.
            prepared.picture.thumbnail((SCENE, SCENE))
        return _Asked(recommender, prepared, candidates)

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Lets one large photo after the other take its memory, which goes back to the system."""
        with self._large:
            yield
            give_back_freed_memory()

    def _is_large(self, photo: Photo) -> bool:
        """Whether a photo takes much memory. Raises InputError: it cannot be read, or has too many pixels or scans."""

        def seen(image: Image.Image) -> tuple[int, int, bool]:
            return *image.size, shrinks(image)

        try:
            width, height, smaller = read(photo, seen)
            check_scans(photo)
        except OSError as error:
            raise InputError(f"{photo if isinstance(photo, Path) else 'the photo'}: {reason(error)}") from None
        if width * height > self.limits.max_pixels:
            most = f"{self.limits.max_pixels / 1e6:g} million"
            raise InputError(f"the photo: {width} x {height} pixels, and {most} are read at most; make it smaller")
        return width * height > LARGE and not smaller


@contextmanager
def told_as_away(of: str = "") -> Iterator[None]:
    """Refuses a request where the block finds that the catalogue cannot be searched; only the log is told why.

    Args:
        of: beginning of the errors that mean it; others are left as they are.
    """
    try:
        yield
    except InputError as error:
        if not str(error).startswith(of):
            raise
        log.warning("%s", " ".join(str(error).split()))
        raise catalogue_away() from None


def _answer_all(asked: Sequence[_Asked]) -> list[Answered | InputError]:
    """Answers several requests, those for one recommender, which are all but where a catalogue was exchanged, in one pass."""
    answers: dict[int, Answered | InputError] = {}
    for recommender in {id(one.recommender): one.recommender for one in asked}.values():
        places = [place for place, one in enumerate(asked) if one.recommender is recommender]
        try:
            answers |= zip(places, _answers(recommender, [asked[place] for place in places]), strict=True)
        except InputError as error:
            answers |= dict.fromkeys(places, error)
    return [answers[place] for place in range(len(asked))]


def _answers(recommender: Recommender, asked: Sequence[_Asked]) -> Iterator[Answered]:
    """The answers to requests for one recommender, in one pass. Raises RefusedError: its catalogue cannot be searched."""
    with told_as_away():
        scenes = recommender.embed([one.prepared for one in asked])
        wanted = [scene for scene, one in zip(scenes, asked, strict=True) if one.candidates is None]
        looks = iter(recommender.search(wanted) if wanted else [])
    for scene, one in zip(scenes, asked, strict=True):
        if one.candidates is None:
            yield next(looks)
        else:
            (query,) = scene.queries.astype(np.float64)
            distances = np.array([2 - float(candidate.vector @ query) for candidate in one.candidates])
            yield nearest_first(judged(distances, recommender.classifier))
