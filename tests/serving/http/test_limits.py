"""Limits that are none are one line, before anything is opened."""

import math
from typing import Any

import pytest

from ctl_lightning.runtime.config import primary_config
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.http.limits import OPTIONS, Limits, size_in_bytes


def test_the_defaults_of_the_program_are_those_of_the_library() -> None:
    assert Limits.of(primary_config("serve")) == Limits()


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("max_batch", 0, "give a number from 1 on"),
        ("max_waiting", 0, "give a number from 1 on"),
        ("max_pixels", -1, "give a number from 1 on"),
        ("patience_ms", -0.1, "give a number from 0 on"),
        ("patience_ms", math.inf, "give a number from 0 on"),
        ("grace_s", math.nan, "give a number from 0 on"),
        ("timeout_s", 0, "give a number above 0"),
        ("timeout_s", math.nan, "give a number above 0"),
        ("max_batch", 1.5, "max_batch=1.5"),
        ("max_batch", "many", "max_batch='many'"),
        ("max_waiting", True, "max_waiting=True"),
        ("max_upload", "large", "max_upload=large: give a size, such as 20mb"),
        ("max_upload", 0, "max_upload=0: give a size, such as 20mb"),
    ],
)
def test_what_is_no_limit_is_one_line(option: str, value: Any, said: str) -> None:
    given = {name: primary_config("serve")[name] for name in OPTIONS} | {option: value}
    with pytest.raises(InputError) as caught:
        Limits.of(given)
    assert str(caught.value).startswith(f"{option}=")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sizes() -> None:
    assert [size_in_bytes("x", text) for text in ("1", "2kb", "3 MB", "1gb")] == [1, 2048, 3 * 2**20, 2**30]
