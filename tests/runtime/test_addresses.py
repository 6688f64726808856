import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctl_lightning.runtime.addresses import without_password, without_passwords
from ctl_lightning.runtime.errors import InputError


@pytest.mark.parametrize(
    ("url", "shown", "password"),
    [
        ("postgresql://h/d", "postgresql://h/d", None),
        ("postgresql://u@h:5/d?x=1", "postgresql://u@h:5/d?x=1", None),
        ("postgresql://u:a%40b@h,i:6/d", "postgresql://u@h,i:6/d", "a@b"),
        ("postgresql://:a@h/d", "postgresql://h/d", "a"),
        ("postgresql://u@h/d?password=a%20b&x=1&sslpassword=c", "postgresql://u@h/d?x=1", "a b"),
        ("postgresql:///d?host=/tmp&password=a", "postgresql:///d?host=/tmp", "a"),
        ("postgresql://h/d?password=se@cret", "...", None),
        ("host=h password=secret", "...", None),
    ],
)
def test_an_address_loses_its_password_alone(url: str, shown: str, password: str | None) -> None:
    assert without_password(url) == (shown, password)


@given(st.text(st.sampled_from("@:/?#&=%a b")))
def test_nothing_of_a_password_is_left_even_if_it_is_not_escaped(secret: str) -> None:
    assert "SECRET" not in without_password(f"postgresql://u:SECRET{secret}SECRET@h/d")[0]


def test_a_command_line_loses_its_password_and_libpq_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "before")
    words = ["-m", "catalogue.url=postgresql://u@h/d", "catalogue.url=http://u:s@h", "products=a:b@c", "catalogue.url="]
    assert without_passwords(words) == words
    assert os.environ["PGPASSWORD"] == "before"
    assert without_passwords(["catalogue.url='postgresql://u@h/d?password=a%20b'"]) == [
        "catalogue.url='postgresql://u@h/d'"
    ]
    assert os.environ["PGPASSWORD"] == "a b"
    for sign in ("", "+", "++"):
        assert without_passwords([f"{sign}catalogue.url=postgres://u:s%40e@h/d"]) == [
            f"{sign}catalogue.url=postgres://u@h/d"
        ]
    assert os.environ["PGPASSWORD"] == "s@e"


def test_a_command_line_loses_its_api_key_and_the_service_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTL_API_KEY", "before")
    words = ["api_key=null", "api_key=", "api_key=${oc.env:MINE}", "my_api_key=x"]
    assert without_passwords(words) == words
    assert os.environ["CTL_API_KEY"] == "before"
    assert without_passwords(["-m", "api_key='a b=c'", "port=1"]) == ["-m", "api_key=null", "port=1"]
    assert os.environ["CTL_API_KEY"] == "a b=c"


@pytest.mark.parametrize("option", ["logger.mlflow.tracking_uri", "+logger.mlflow.artifact_location"])
@pytest.mark.parametrize(
    "address",
    [
        "http://u:secret@h:5000",
        "'http://u:secret@h'",
        "http://u:se/secret?#@h",
        "choice(http://h,http://:secret@h)",
        "postgresql+psycopg://u:secret@h/d",
        "postgresql:///d?host=h&password=secret",
        "mysql://h/d?passwd=secret",
        "mssql+pyodbc:///?odbc_connect=PWD%3Dsecret",
    ],
)
def test_an_address_of_mlflows_with_a_password_never_reaches_hydra(option: str, address: str) -> None:
    with pytest.raises(InputError, match="give the address without one, and MLFLOW_TRACKING_USERNAME and") as told:
        without_passwords(["-m", f"{option}={address}"])
    assert str(told.value).startswith(f"{option}: ")
    assert "secret" not in str(told.value)


def test_an_address_of_mlflows_without_a_password_does() -> None:
    group = "logger={mlflow:{tracking_uri:'http://u:secret@h'}}"
    with pytest.raises(InputError, match=r"^logger: a password"):
        without_passwords([group])
    addresses = [
        "http://h:5000",
        "https://u@h/p",
        "postgresql://u@h:5/d",
        "sqlite:////a/b:c@d.db",
        "databricks://a:b",
        "null",
    ]
    words = [f"logger.mlflow.tracking_uri={address}" for address in addresses]
    assert without_passwords(words) == words


@pytest.mark.parametrize(
    "word",
    [
        "catalogue={dir:c,url:postgresql://u:secret@h/d}",
        "++catalogue= {dir:c,url:'postgresql://u:secret@h/d'}",
        'catalogue.url=" postgresql://u:secret@h/d"',
        "catalogue.url=POSTGRESQL://u:secret@h/d",
        "catalogue.url=host=h password=secret",
        "catalogue.url='host=h Password=secret'",
        "catalogue.url=postgresql://h/d?password=se@cret",
        "catalogue.url=choice(postgresql://u:secret@h/d)",
    ],
)
def test_an_address_whose_password_is_not_plain_never_reaches_hydra(word: str) -> None:
    with pytest.raises(InputError, match=r"give catalogue\.url=postgresql://USER@HOST") as told:
        without_passwords([word])
    assert "cret" not in str(told.value)
