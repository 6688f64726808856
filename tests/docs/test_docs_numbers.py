"""A number that stands in two places is the same in both: README's are those of the page of results."""

import re

from factories import REPOSITORY


def rows(text: str) -> dict[str, list[str]]:
    """The cells of the rows of a text's first table of methods, by the method's name."""
    lines = re.findall(r"^\| `(\w+)` \|(.+)\|$", text, re.MULTILINE)
    found: dict[str, list[str]] = {}
    for name, cells in lines:
        found.setdefault(name, [cell.strip() for cell in cells.split("|")])
    return found


def test_results_of_the_readme_are_those_of_the_page_of_results() -> None:
    readme = rows((REPOSITORY / "README.md").read_text())
    page = rows((REPOSITORY / "docs" / "results.md").read_text().partition("<!-- paper stl_fashion_lite0 -->")[2])
    assert len(readme) >= 11
    for name, (_, _, *shown) in readme.items():
        _, auc, _, _, _, unseen, lift, lift_geometry = page[name]
        assert shown == [auc, unseen, lift.split()[0], lift_geometry.split()[0]], name


def test_what_one_should_see_is_what_was_measured() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    page = (REPOSITORY / "docs" / "results.md").read_text()
    measured = re.search(r"`make train` \(seed 0, .*?\) reached (.*?), lift (.*?), pointing", page, re.DOTALL)
    assert measured
    for name, value in zip(("auc", "lift"), measured.groups(), strict=True):
        assert re.search(rf"│ {name} +│ +{re.escape(value)} │", readme), name
