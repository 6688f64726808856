"""Waiting requests go together: proven with threads that are held, not with a clock."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError

import pytest
from factories import until

from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.http.batching import Batcher

FOREVER = 3600.0


class Model:
    """Doubles numbers when it is let go; keeps what it was given."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_go = threading.Event()
        self.may_go.set()

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        self.may_go.wait()
        if any(number < 0 for number in numbers):
            raise ValueError("below zero")
        if 13 in numbers:
            raise InputError("the catalogue is away")
        return [2 * number for number in numbers]


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def batcher(model: Model) -> Iterator[Batcher[int, int]]:
    made: Batcher[int, int] = Batcher(model, 4, FOREVER, 2, lambda _: None)
    yield made
    model.may_go.set()
    made.close()


def waiting(batcher: Batcher[int, int]) -> int:
    return len(batcher._ready)


def hold(batcher: Batcher[int, int], model: Model) -> None:
    """Has the model busy with a request of its own, so that others wait."""
    model.may_go.clear()
    batcher.ask(lambda: 0)
    until(lambda: model.batches == [[0]])


def test_what_waits_while_the_model_works_goes_in_one_batch(batcher: Batcher[int, int], model: Model) -> None:
    hold(batcher, model)
    asked = [batcher.ask(lambda number=number: number) for number in (1, 2, 3)]  # type: ignore[misc]
    until(lambda: waiting(batcher) == 3)
    model.may_go.set()
    assert [one.result() for one in asked] == [2, 4, 6]
    assert [sorted(batch) for batch in model.batches] == [[0], [1, 2, 3]]


def test_a_batch_is_never_larger_than_it_may_be(batcher: Batcher[int, int], model: Model) -> None:
    hold(batcher, model)
    asked = [batcher.ask(lambda number=number: number) for number in range(1, 10)]  # type: ignore[misc]
    until(lambda: waiting(batcher) == 9)
    model.may_go.set()
    assert [one.result() for one in asked] == [2 * number for number in range(1, 10)]
    assert [len(batch) for batch in model.batches] == [1, 4, 4, 1]


def test_one_alone_does_not_wait_for_others(batcher: Batcher[int, int], model: Model) -> None:
    assert batcher.ask(lambda: 5).result(60) == 10  # its patience would last an hour


def test_one_waits_while_another_is_prepared(batcher: Batcher[int, int], model: Model) -> None:
    decoded = threading.Event()

    def slowly() -> int:
        decoded.wait()
        return 2

    slow = batcher.ask(slowly)
    until(lambda: len(batcher._preparing) == 1)
    quick = batcher.ask(lambda: 1)
    until(lambda: waiting(batcher) == 1)
    assert model.batches == []
    decoded.set()
    assert (quick.result(), slow.result()) == (2, 4)
    assert model.batches == [[1, 2]]


def test_patience_ends(model: Model) -> None:
    batcher: Batcher[int, int] = Batcher(model, 4, 0.01, 2, lambda _: None)
    decoded = threading.Event()
    slow = batcher.ask(lambda: 2 if decoded.wait() else 0)
    until(lambda: len(batcher._preparing) == 1)
    assert batcher.ask(lambda: 1).result(60) == 2
    decoded.set()
    assert slow.result() == 4
    batcher.close()


def test_what_is_cancelled_is_dropped(batcher: Batcher[int, int], model: Model) -> None:
    hold(batcher, model)
    first, second = batcher.ask(lambda: 1), batcher.ask(lambda: 2)
    until(lambda: waiting(batcher) == 2)
    first.cancel()
    assert waiting(batcher) == 1
    model.may_go.set()
    assert second.result() == 4
    assert model.batches == [[0], [2]]


def test_what_fails_fails_alone(batcher: Batcher[int, int], model: Model) -> None:
    hold(batcher, model)

    def unreadable() -> int:
        raise InputError("not an image")

    asked = [batcher.ask(lambda: 1), batcher.ask(unreadable), batcher.ask(lambda: -1)]
    until(lambda: waiting(batcher) == 2)
    model.may_go.set()
    assert asked[0].result() == 2
    assert isinstance(asked[1].exception(), InputError)
    assert isinstance(asked[2].exception(), ValueError)


def test_a_catalogue_that_is_away_is_asked_once_for_all(batcher: Batcher[int, int], model: Model) -> None:
    hold(batcher, model)
    asked = [batcher.ask(lambda: 13), batcher.ask(lambda: 1)]
    until(lambda: waiting(batcher) == 2)
    model.may_go.set()
    assert all(isinstance(one.exception(), InputError) for one in asked)
    assert len(model.batches) == 2


def test_an_error_in_place_of_an_answer_is_of_one_alone() -> None:
    def one_is_away(numbers: Sequence[int]) -> list[int | InputError]:
        return [InputError("away") if number == 13 else number for number in numbers]

    batcher: Batcher[int, int] = Batcher(one_is_away, 2, FOREVER, 1, lambda _: None)
    asked = [batcher.ask(lambda: 13), batcher.ask(lambda: 1)]
    assert isinstance(asked[0].exception(), InputError)
    assert asked[1].result() == 1
    batcher.close()


def test_the_end_cancels_what_is_prepared(model: Model) -> None:
    batcher: Batcher[int, int] = Batcher(model, 1, FOREVER, 1, lambda _: None)
    decoded = threading.Event()
    left = batcher.ask(lambda: 1 if decoded.wait() else 0)
    until(lambda: len(batcher._preparing) == 1)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    until(left.cancelled)
    decoded.set()
    closing.join()
    assert model.batches == []


def test_the_end_cancels_what_waits(model: Model) -> None:
    batcher: Batcher[int, int] = Batcher(model, 1, FOREVER, 1, lambda _: None)
    hold(batcher, model)
    left = batcher.ask(lambda: 1)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    until(left.done)
    model.may_go.set()
    closing.join()
    with pytest.raises(CancelledError):
        left.result()
    assert batcher.ask(lambda: 1).cancelled()
