import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctl_lightning.runtime.addresses import without_password


@pytest.mark.parametrize(
    ("url", "shown", "password"),
    [
        ("postgresql://h/d", "postgresql://h/d", None),
        ("postgresql://u@h:5/d?x=1", "postgresql://u@h:5/d?x=1", None),
        ("postgresql://u:a%40b@h,i:6/d", "postgresql://u@h,i:6/d", "a@b"),
        ("postgresql://:a@h/d", "postgresql://h/d", "a"),
        ("postgresql://u@h/d?password=a%20b&x=1&sslpassword=c", "postgresql://u@h/d?x=1", "a b"),
        ("postgresql:///d?host=/tmp&password=a", "postgresql:///d?host=/tmp", "a"),
        ("no address", "no address", None),
    ],
)
def test_an_address_loses_its_password_alone(url: str, shown: str, password: str | None) -> None:
    assert without_password(url) == (shown, password)


@given(st.text(st.sampled_from("@:/?#&=%a b")))
def test_nothing_of_a_password_is_left_even_if_it_is_not_escaped(secret: str) -> None:
    assert "SECRET" not in without_password(f"postgresql://u:SECRET{secret}SECRET@h/d")[0]
