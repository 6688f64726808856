"""Links of README and docs/ as they are read in the repository: files and headings are there; other hosts are listed, not asked."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from doc_blocks import PAGES, prose

LINK = re.compile(r"\[[^\[\]]*\]\(([^()\s]+)\)")

GENERATED = "reference"
"""The folder of docs/ that `make docs` writes; test_docs_site follows the links to it."""


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them: letters, digits and hyphens; of equal ones the first."""
    headings = re.findall(r"^#+ (.*)", prose(page), re.MULTILINE)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_what_is_there(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme in ("https", "mailto"), link
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if target.parent.name == GENERATED:
            continue
        assert target.exists(), link
        if parts.fragment:
            assert parts.fragment in anchors(target), link


def test_links_to_other_hosts_are_listed() -> None:
    found = {link for page in PAGES for link in LINK.findall(prose(page)) if urlsplit(link).scheme}
    assert found
    print(*sorted(found), sep="\n")


def test_a_broken_link_and_a_broken_anchor_are_seen(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# A heading: of `two` parts\n\n[here](#a-heading-of-two-parts)\n")
    test_links_lead_to_what_is_there(tmp_path / "a.md")
    for link in ("b.md", "#another", "http://plain.example"):
        (tmp_path / "a.md").write_text(f"# One\n\n[there]({link})\n")
        with pytest.raises(AssertionError):
            test_links_lead_to_what_is_there(tmp_path / "a.md")
