import pytest

from ctl_lightning.data.names import category_problem, hex_id_problem, id_problem

LANGUAGES = [
    "कुर्सी",
    "ขวด",
    "நாற்காலி",
    "كرسي",
    "כיסא",
    "椅子",
    "стул",
    "ghế",
    "क्\u200dष",
    "👩‍👩‍👧",
    "e\u0301",
    "\u202eabc",
]

SIGNS = [
    "a,b",
    "[x]",
    "$x",
    "${oc.env:HOME}",
    "???",
    "{a: 1}",
    "a'b\"c",
    "<b>",
    "all",
    "seen",
    "-x",
    "12_3",
    "s0.jpg",
    "a@b",
    "%s",
]


@pytest.mark.parametrize("name", [*LANGUAGES, *SIGNS])
def test_a_name_of_any_language_and_with_any_sign_is_an_id_and_a_category(name: str) -> None:
    assert id_problem(name) is None
    assert category_problem(name) is None


@pytest.mark.parametrize("name", ["Home & Garden|Decor/Vases", "a\\b", ".hidden", "..", "/", "x" * 1000])
def test_a_category_is_no_file_and_may_have_slashes_and_dots(name: str) -> None:
    assert category_problem(name) is None
    assert id_problem(name) is not None


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "it is empty"),
        (" \t", "it is blank"),
        (None, "it is not a text"),
        (7, "it is not a text"),
        (["a", "b"], "it is not a text"),
        (" a", "it begins or ends with a space"),
        ("a\u3000", "it begins or ends with a space"),
        ("a\nb", r"it has a control character (U+000A)"),
        ("a\0", "it has a control character (U+0000)"),
        ("a\x85b", "it has a control character (U+0085)"),
        ("a\u2028b", "it has a line separator (U+2028)"),
        ("a\u2029b", "it has a paragraph separator (U+2029)"),
        ("a\ud800", "it has half of a surrogate pair (U+D800)"),
    ],
)
def test_what_no_output_can_carry_is_refused_in_the_same_printable_words(name: object, why: str) -> None:
    for said in (id_problem(name), category_problem(name)):
        assert said is not None
        assert said.endswith(f": {why}")
        assert said.isprintable()


@pytest.mark.parametrize("name", ["a/b", "..\\x", ".", "..", ".x", "x" * 251, "ü" * 126])
def test_what_is_no_files_name_is_no_id(name: str) -> None:
    assert id_problem(name) is not None
    assert len(str(id_problem(name))) < 200


def test_the_longest_names_are_names() -> None:
    assert id_problem("ü" * 125) is None
    assert category_problem("ü" * 1000) is None
    assert category_problem("ü" * 1001) is not None


def test_an_id_of_shop_the_look_has_32_hex_digits() -> None:
    assert hex_id_problem("0" * 32) is None
    assert all(hex_id_problem(name) for name in ("0" * 31, "G" * 32, "０" * 32, 7, None))
