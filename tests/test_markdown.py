"""The report as Markdown, read by another program."""

import pytest
from markdown_it import MarkdownIt
from test_report import Page, picture, table

from unetrep_jax import markdown, report


def page(folder, *sections, **changes) -> Page:
    """The file, as a renderer of Markdown understands it."""
    settings = {"title": "A report", "subtitle": "What was done", "facts": {"seed": 0}, **changes}
    markdown.write(folder / "report.md", sections=sections, **settings)
    renderer = MarkdownIt("commonmark", {"xhtmlOut": False}).enable("table")
    return Page(renderer.render((folder / "report.md").read_text(encoding="utf-8")))


def test_headings_tables_and_figures_come_in_their_order_and_numbered(tmp_path):
    section = report.Section("One", ["Words"], [table(("mid", 0.25), ("input", None))], [picture(tmp_path / "my figures")])
    parsed = page(tmp_path, section, section)
    assert parsed.text("h1") == ["A report"] and parsed.text("h2") == ["One", "One"]
    assert parsed.text("strong") == ["Table 1.", "Figure 1.", "Table 2.", "Figure 2."]
    assert parsed.text("th") == ["block", "ratio"] * 2
    assert parsed.text("td") == ["seed", "0", *["mid", "0.25", "input", "–"] * 2]
    assert [image["src"] for image in parsed.all("img")] == ["my%20figures/ratios.png"] * 2
    assert [image["alt"] for image in parsed.all("img")] == ["A picture of ratios"] * 2


def test_a_claims_parts_stand_on_lines_of_their_own(tmp_path):
    page(tmp_path, report.Section("Sparsity", claims=[report.Claim("It <i> holds.", None, "0.2; 0.3|4", "none", "yes")]))
    assert "| It \\<i\\> holds. | – | 0.2<br>0.3\\|4 | none | yes |" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_the_claims_stand_first_and_in_their_section(tmp_path):
    claim = report.Claim("It is sparse.", None, "0.20", "0.26", "no")
    parsed = page(tmp_path, report.Section("Sparsity", ["Words"], claims=[claim]))
    assert parsed.text("h2") == ["Claims and findings", "Sparsity"]
    assert parsed.text("td") == ["seed", "0", *["It is sparse.", "–", "0.20", "0.26", "no"] * 2]


@pytest.mark.parametrize(
    "text",
    [
        "a|b", "1 * 2 * 3", "PR_c of x_y_z", "<b>bold</b>", "&lt;", "[x](y)", "# no heading", "a ~~b~~", "- no list", "1. no list",
        "back\\slash",
    ],
)
def test_plain_text_stays_as_it_is(text, tmp_path):
    parsed = page(tmp_path, report.Section(text, [text], [report.Table("T", ("block", text), [("mid", text)])]), title=text)
    assert "".join(parsed.text("h1")) == "".join(parsed.text("h2")) == "".join(parsed.text("td")[3:]) == text
    assert "".join(parsed.text("th")[1:]) == text
    assert text in "".join(parsed.text("p"))
    assert not {"b", "em", "a", "li", "s"} & {tag for tag, _ in parsed.tags}


def test_code_strong_words_and_links_to_pages_are_marked(tmp_path):
    parsed = page(tmp_path, report.Section("One", ["`a*b|c` **twice** [explorer/index.html]"]), facts={"x": "`p|q`"})
    assert parsed.text("code") == ["p|q", "a*b|c"] and parsed.text("strong") == ["twice"]
    assert [link["href"] for link in parsed.all("a")] == ["explorer/index.html"]


def test_columns_of_numbers_are_aligned(tmp_path):
    parsed = page(tmp_path, report.Section("One", tables=[table(("mid", 0.25), ("input", None))]))
    assert [cell.get("style") for cell in parsed.all("td")[2:]] == [None, "text-align:right"] * 2


def test_the_same_content_gives_the_same_bytes_on_one_line_a_paragraph(tmp_path):
    page(tmp_path, report.Section("One", ["two\nlines"]))
    first = (tmp_path / "report.md").read_bytes()
    page(tmp_path, report.Section("One", ["two\nlines"]))
    assert (tmp_path / "report.md").read_bytes() == first and b"two lines" in first
