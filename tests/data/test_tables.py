"""CSV and Parquet as other programs write them."""

from pathlib import Path

import pytest

from ctl_lightning.data.boxes import box_of
from ctl_lightning.data.names import id_problem
from ctl_lightning.data.products import read_products
from ctl_lightning.data.tables import read_table
from ctl_lightning.runtime.errors import InputError


def table(path: Path, content: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(content.encode(encoding))
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_csv_is_read_whatever_program_wrote_it(tmp_path: Path, delimiter: str, encoding: str, ending: str) -> None:
    lines = ["scene| product|x", '"a, b; c"| p1 |1', "||", "", 'ü|"say ""yes"""|']
    path = table(tmp_path / "a.csv", ending.join(lines).replace("|", delimiter), encoding)
    problems: list[str] = []
    found = read_table(path, problems)
    assert found.columns == ["scene", "product", "x"]
    assert list(found.rows) == [
        (f"{path}:2", {"scene": "a, b; c", "product": "p1", "x": "1"}),
        (f"{path}:5", {"scene": "ü", "product": 'say "yes"', "x": ""}),
    ]
    assert not problems


def test_a_row_of_csv_with_other_fields_is_a_problem_and_the_rest_is_read(tmp_path: Path) -> None:
    path, problems = table(tmp_path / "a.csv", "a,b\n1\n2,3,4\n5,6\n"), list[str]()
    assert [row for _, row in read_table(path, problems).rows] == [{"a": "5", "b": "6"}]
    assert [one.split("; ")[0] for one in problems] == [
        f"{path}:2: 1 fields, the first line has 2",
        f"{path}:3: 3 fields, the first line has 2",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\n\n", "there is nothing in it"),
        (b"a,a\n1,2\n", r":1: column 'a' is there 2 times"),
        (b'a,b\n1,2\n"3,4\n5,6\n', r":3: not valid CSV .*quote"),
        (b"a,b\n1,2\n\xe9,4\n", r":3: not UTF-8 text"),
        (b"a,b\n" + b"x" * 200_000 + b",1\n", r":2: not valid CSV \(field larger"),
    ],
)
def test_what_is_no_csv_is_one_line_that_names_its_place(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.csv:? ?{said}"):
        list(read_table(tmp_path / "a.csv", []).rows)


def test_a_missing_column_is_told_with_those_that_are_there(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", "produkt,kind\n1,2\n")
    with pytest.raises(
        InputError, match=r"no column 'product'; did you mean 'produkt'\?.*are: produkt, kind;.*write it"
    ):
        read_products(path, id_problem)


def test_parquet_is_read_with_its_types_and_rows_are_numbered(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"product": pyarrow.array([7, 8, 9]), "category": pyarrow.array(["Lamps", None, "S"]).dictionary_encode()}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    problems: list[str] = []
    assert read_products(tmp_path / "a.parquet", id_problem, problems) == {"7": "Lamps", "9": "S"}
    assert problems == [f"{tmp_path}/a.parquet: row 2: product 8: None cannot be a category: it is not a text"]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"scene,product\n"])
def test_what_is_no_parquet_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.parquet: not a Parquet file \(.*\)$"):
        read_table(tmp_path / "a.parquet", [])


def test_a_parquet_file_that_was_cut_is_one_line(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"product": [f"p{n}" for n in range(5000)]}), path)
    content = bytearray(path.read_bytes())
    content[100:5000] = bytes(4900)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.parquet: row \d+: not readable"):
        list(read_table(path, []).rows)


def test_without_pyarrow_the_line_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install 'ctl_lightning\[parquet\]'"):
        read_table(tmp_path / "a.parquet", [])


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("c.json", '{"p": "A", "p": "A",\n"p": "B"}', 2),
        ("c.csv", "product,category\np,A\np,A\np,B\n", 4),
    ],
)
def test_a_product_in_two_categories_is_told_with_both_places(
    tmp_path: Path, name: str, content: str, line: int
) -> None:
    path = table(tmp_path / name, content)
    first = 1 if name == "c.json" else 2
    with pytest.raises(InputError) as error:
        read_products(path, id_problem)
    assert (
        str(error.value)
        == f"{path}:{line}: product p has several categories: 'B' here, 'A' at {path}:{first}; leave one"
    )


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"a/b": "x"}', '{"a": 3}', '{"a": ["x", "y"]}', '{"a": {"b": "x"}}', '"x"']
)
def test_products_that_are_none_are_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(InputError, match=r"^/.*c\.json"):
        read_products(table(tmp_path / "c.json", content), id_problem)


PIXELS = {"x": "10", "y": 20, "width": 30.0, "height": "40"}


@pytest.mark.parametrize(
    ("row", "box"),
    [
        ({"bbox": [0.1, 0.2, 0.3, 0.4]}, (0.1, 0.2, 0.3, 0.4)),
        ({"left": "0,1", "top": ".2", "right": "3e-1", "bottom": "0.4"}, (0.1, 0.2, 0.3, 0.4)),
        (PIXELS, (0.1, 0.1, 0.4, 0.3)),
        (PIXELS | {"x": "-1", "width": 102}, (0.0, 0.1, 1.0, 0.3)),
        ({"left": 0, "top": 0, "right": 1, "bottom": 1, "width": 100, "height": 200}, (0, 0, 1, 1)),
        ({"bbox": None, "x": float("nan"), "y": "", "left": " "}, None),
        ({}, None),
    ],
)
def test_a_box_is_read_from_a_list_from_shares_and_from_pixels(row: dict[str, object], box: object) -> None:
    assert box_of(row, lambda: (100, 200)) == (pytest.approx(box) if box else None)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"left": 0.1, "top": 0.2, "right": None, "bottom": 0.4}, "the box has no right"),
        ({"x": 1, "y": 2}, "the box has no width, height"),
        (PIXELS | {"bbox": [0, 0, 1, 1]}, "the box is given twice"),
        (PIXELS | {"x": "1,234"}, "write 1234.5, without a comma"),
        (PIXELS | {"x": "1_0"}, "x must be a number"),
        (PIXELS | {"x": "nan"}, "x must be a number"),
        (PIXELS | {"x": True}, "x must be a number"),
        (PIXELS | {"x": 10**400}, "not within its scene"),
        (PIXELS | {"x": -1.5}, "not within its scene of 100 x 200 pixels"),
        (PIXELS | {"width": 92}, "not within its scene"),
        (PIXELS | {"height": 0}, "is empty"),
        ({"x": 0.1, "y": 0.2, "width": 0.5, "height": 0.5}, "are these shares of the scene"),
        ({"bbox": [0.1, 0.2, 0.3]}, "four numbers"),
        ({"bbox": "[0.1, 0.2, 0.3, 0.4]"}, "four numbers"),
        ({"left": "a", "top": 0, "right": 1, "bottom": 1}, "left must be a number"),
    ],
)
def test_a_box_that_is_none_is_told_in_words(row: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        box_of(row, lambda: (100, 200))


def test_names_of_columns_are_printed_on_one_line(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", "\x07," + "x" * 500 + ",b\n")
    with pytest.raises(InputError) as error:
        read_table(path, []).require(["scene"], "OPTION")
    assert r"there are: '\x07', 'xxx" in str(error.value)
    assert "…, b; a column of another name: OPTION" in str(error.value)
    assert len(str(error.value)) < len(str(path)) + 200
