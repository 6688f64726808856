"""Files that other programs wrote: each corner of a format is read, or is one line that names its place."""

import json
import os
from pathlib import Path

import pytest

from ctl_lightning.runtime.csv_files import read_metrics
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.files import mapped_array
from ctl_lightning.runtime.reading import json_lines, lines_of, lines_of_entries, read_json, read_names, shown

TEXT = '{"कुर्सी": "Stühle",\n"b": "💡"}\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_text_is_read_whatever_its_mark_and_the_ends_of_its_lines(tmp_path: Path, encoding: str, ending: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(TEXT.replace("\n", ending).encode(encoding))
    assert read_json(path) == {"कुर्सी": "Stühle", "b": "💡"}
    assert list(lines_of(path)) == TEXT.splitlines(keepends=True)


def test_utf16_of_the_other_byte_order_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xfe\xff" + TEXT.encode("utf-16-be"))
    assert read_json(tmp_path / "a.json")["b"] == "💡"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1,\r\n"b": "\xe9"}', ":2: not UTF-8 text; save the file as UTF-8"),
        (b"\xff\xfe" + "ab".encode("utf-16-le") + b"\x00", ":1: not UTF-16 text"),
        ('{"a": 1}'.encode("utf-16-le"), ": not text, or UTF-16 without a mark"),
        (b"", ":1: not valid JSON (there is nothing in it)"),
        (b'{"a": 1,\n}', ":1: not valid JSON (a trailing comma before the last bracket"),
        (b'[{"a": [1,\n2,]}, 3]', ":2: not valid JSON (a trailing comma before a closing bracket"),
        (b'["NaN",\n1, NaN]', ":2: not valid JSON (NaN)"),
        (b'{"a": -Infinity}', ":1: not valid JSON (-Infinity)"),
        (b'{"a":\n' + b"1" * 5000 + b"}", ":2: not valid JSON (a number of 5,000 digits)"),
        (b"[" * 100_000, ": not valid JSON (too many brackets within brackets)"),
        (b'{"a": ' * 100_000, ": not valid JSON (too many brackets within brackets)"),
        (b'[{"a": 1}, {"a": 1},\n{"b": {"a": 1},\n"b": 2}]', ":3: the key 'b' is there twice in one object"),
        (b'{"\\u0061": 1,\n"a": 2}', ":2: the key 'a' is there twice in one object"),
        (b"{'a': 1}", ":1: not valid JSON (expecting property name enclosed in double quotes)"),
        (b'{"a": 1}\n{"a": 2}', ":2: not valid JSON (extra data)"),
        (b'{"a": "x\ny"}', ":1: not valid JSON (invalid control character)"),
    ],
)
def test_every_corner_of_json_is_one_line_that_names_its_place(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_json(path)
    assert str(error.value).startswith(f"{path}{said}")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(path)) + 200


def test_words_that_only_look_like_faults_are_read(tmp_path: Path) -> None:
    value = {"a": ["NaN", ",]", '"{', {"a": 1}, {"a": 2}], "1" * 6000: 10**400}
    (tmp_path / "a.json").write_text(json.dumps(value))
    assert read_json(tmp_path / "a.json") == value


def test_the_lines_of_the_entries_of_an_object_are_found() -> None:
    assert lines_of_entries('{"a": 1, "b":\n {"c": 2,\n "d": "}"},\n"a" : "{"}') == [1, 1, 4]


def test_json_lines_say_where_they_are_and_pass_over_blank_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf1\r\n\r\n[2]\r\n\xef\xbb\xbf3\r\nNaN")
    rows = json_lines(path)
    assert [next(rows), next(rows), next(rows)] == [(f"{path}:1", 1), (f"{path}:3", [2]), (f"{path}:4", 3)]
    with pytest.raises(InputError, match=r"a\.jsonl:5: not valid JSON \(NaN\)"):
        next(rows)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_of_names_is_read_as_windows_saves_it(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes("p0\r\n\r\n  p 1 \r\nstuhl\u2028ü\rlast".encode(encoding))
    assert read_names(tmp_path / "a.txt", "products", "product") == ["p0", "p 1", "stuhl\u2028ü", "last"]


@pytest.mark.parametrize(
    ("content", "said"),
    [(b" \n\n", "there is no product in it"), (b"p0\n\xe9\n", ":2: not UTF-8 text.*with a product a line")],
)
def test_a_list_that_names_nothing_is_told_with_its_option(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=rf"^products={tmp_path}/a\.txt:? ?{said}"):
        read_names(tmp_path / "a.txt", "products", "product")
    with pytest.raises(InputError, match=r"^products=.*cannot be read \(No such file"):
        read_names(tmp_path / "b.txt", "products", "product")


def test_what_a_message_shows_is_short_and_printable() -> None:
    assert shown("\ud800\x07\u202e") == r"'\ud800\x07\u202e'"
    assert len(shown("x" * 1000)) == len(shown([10**400])) == 80
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert shown(deep) == "brackets within brackets"


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    for read in (read_json, lambda path: list(json_lines(path))):
        with pytest.raises(InputError, match=r"a\.json: a pipe or a device; save what comes from it as a file"):
            read(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"^products=.*a\.json: a pipe or a device"):
        read_names(tmp_path / "a.json", "products", "product")


@pytest.mark.parametrize(
    "content", [b"a,step\n1,x\n", b"step\n1\n2,3\n", b"step\n\xe9\n", b"step\n\0\n", b"step;a\n1;2\n"]
)
def test_metrics_that_are_none_are_told_with_their_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"metrics\.csv"):
        read_metrics(tmp_path / "metrics.csv")


@pytest.mark.parametrize(
    "content", [b"", b"x" * 200, b"\x93NUMPY\x01\0v\0{'descr': (((" + b" " * 200, b"\x93NUMPY\x01\0v\0" + b"{1:" * 80]
)
def test_an_array_file_whose_header_is_broken_is_no_array(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"."):
        mapped_array(tmp_path / "a.npy")
