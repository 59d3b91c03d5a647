import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from unetrep_jax import report, storage

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Tags with their attributes, the text in them, and whether everything that opens closes."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self, tag: str) -> list[str]:
        return [data for name, data in self.texts if name == tag]


def picture(folder: Path, name: str = "ratios", size: tuple[int, int] = (40, 20), pdf: bool = True) -> report.Picture:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "teal").save(folder / f"{name}.png")
    if pdf:
        (folder / f"{name}.pdf").write_bytes(b"%PDF-1.4")
    return report.Picture(folder / f"{name}.png", f"The {name}.", f"A picture of {name}")


def page(folder: Path, *sections: report.Section, **changes) -> Page:
    settings = {"title": "A report", "subtitle": "What was done", "facts": {"seed": 0}, **changes}
    report.write(folder / "report.html", sections=sections, **settings)
    parsed = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert parsed.open == []
    return parsed


def table(*rows, header=("block", "ratio")) -> report.Table:
    return report.Table("Medians.", header, rows)


def test_every_picture_is_in_the_page_byte_for_byte_with_its_alternative_text(tmp_path):
    pictures = [picture(tmp_path / "figures", name) for name in ("ratios", "clusters")]
    parsed = page(tmp_path, report.Section("Pictures", figures=pictures))
    images = parsed.all("img")
    assert [image["alt"] for image in images] == ["A picture of ratios", "A picture of clusters"]
    for image, given in zip(images, pictures, strict=True):
        kind, content = image["src"].split(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content) == given.path.read_bytes()


def test_nothing_is_fetched_from_outside(tmp_path):
    sections = [report.Section("One", ["Words"], [table(("mid", 0.25))], [picture(tmp_path / "figures")])]
    parsed = page(tmp_path, *sections)
    assert not parsed.all("script") and not parsed.all("link") and not parsed.all("iframe")
    assert all(attributes["src"].startswith("data:") for _, attributes in parsed.tags if "src" in attributes)
    assert not re.search(
        r"https?:|url\(|@import|//\w", re.sub(r"base64,[\w+/=]+", "", (tmp_path / "report.html").read_text())
    )
    policy = next(meta["content"] for meta in parsed.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_links_lead_to_the_files_beside_the_page(tmp_path):
    odd = picture(tmp_path / "my figures", "50 % & more")
    lone = picture(tmp_path / "my figures", "lone", pdf=False)
    parsed = page(tmp_path / "out", report.Section("Pictures", figures=[odd, lone]))
    links = [link["href"] for link in parsed.all("a") if not link["href"].startswith("#")]
    folder = "../my%20figures/"
    assert links == [f"{folder}50%20%25%20%26%20more.png", f"{folder}50%20%25%20%26%20more.pdf", f"{folder}lone.png"]


def test_a_script_anywhere_is_shown_as_text(tmp_path):
    attack = '<script>alert("1")</script>'
    given = picture(tmp_path)._replace(caption=attack, alt=f'"><{attack}')
    section = report.Section(attack, [attack], [report.Table(attack, [attack, attack], [[attack, attack]])], [given])
    parsed = page(tmp_path, section, title=attack, subtitle=attack, facts={attack: attack})
    assert not parsed.all("script")
    assert parsed.all("img")[0]["alt"] == f'"><{attack}'
    for tag in ("title", "h1", "h2", "p", "caption", "th", "td", "figcaption", "dt", "dd", "a"):
        assert attack in "".join(parsed.text(tag))


def test_backticks_and_double_asterisks_mark_code_and_strong_words(tmp_path):
    parsed = page(tmp_path, report.Section("One", ["Run `a**b <c>` and `d**e`, **twice**; 2 * 3 ** 4"]))
    assert parsed.text("code") == ["a**b <c>", "d**e"]
    assert parsed.text("strong") == ["twice"]
    assert parsed.text("p")[-1] == "; 2 * 3 ** 4"


def test_cells_come_as_given_and_columns_of_numbers_are_aligned(tmp_path):
    rows = [("mid", 0.25, "−1.50", "12.3 ± 0.2", None), ("decoder1", 7, "0.10", "nan", "0.25 to 0.31")]
    header = ("block", "a", "b (dB)", "c", "d")
    parsed = page(tmp_path, report.Section("One", tables=[table(*rows, header=header)]))
    assert parsed.text("td") == ["0.25", "−1.50", "12.3 ± 0.2", "–", "7", "0.10", "nan", "0.25 to 0.31"]
    assert [cell.get("class") for cell in parsed.all("td")] == ["number"] * 8
    assert parsed.text("th") == [*header, "mid", "decoder1"]
    assert [cell.get("class") for cell in parsed.all("th")] == [None, *["number"] * 4, None, None]
    assert [cell["scope"] for cell in parsed.all("th")] == ["col"] * 5 + ["row"] * 2


def test_a_column_with_a_word_in_it_is_not_aligned_as_numbers(tmp_path):
    parsed = page(tmp_path, report.Section("One", tables=[table(("mid", "0.25"), ("input", "none"))]))
    assert [cell.get("class") for cell in parsed.all("td")] == [None, None]


def test_a_table_without_rows_keeps_its_header(tmp_path):
    assert page(tmp_path, report.Section("One", tables=[table()])).text("th") == ["block", "ratio"]


def test_the_contents_lead_to_every_section_and_headings_are_nested(tmp_path):
    parsed = page(tmp_path, report.Section("First"), report.Section("Second"))
    targets = [link["href"][1:] for link in parsed.all("a")]
    assert targets == [section["id"] for section in parsed.all("section")]
    assert parsed.text("h1") == ["A report"]
    assert parsed.text("h2") == ["Contents", "First", "Second"]
    assert parsed.all("html")[0]["lang"] == "en"


def test_tables_and_figures_are_numbered_through_the_page(tmp_path):
    section = report.Section("One", tables=[table(("mid", 1))], figures=[picture(tmp_path)])
    parsed = page(tmp_path, section, section)
    assert parsed.text("strong") == ["Table 1.", "Figure 1.", "Table 2.", "Figure 2."]


def test_facts_stand_at_the_top_in_their_order(tmp_path):
    parsed = page(tmp_path, facts={"checkpoint": "`runs/x`", "images": "5,050", "seed": 0, "labels": None})
    assert parsed.text("dt") == ["checkpoint", "images", "seed", "labels"]
    assert parsed.text("code") + parsed.text("dd") == ["runs/x", "5,050", "0", "–"]


def test_the_page_has_a_light_a_dark_and_a_printed_form(tmp_path):
    (style,) = page(tmp_path).text("style")
    assert "prefers-color-scheme: dark" in style and "@media print" in style


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two sRGB colours, in [1, 21] (WCAG 2.2, section 1.4.3)."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_text_stands_out_from_its_ground_in_every_scheme(tmp_path):
    (style,) = page(tmp_path).text("style")
    schemes = [dict(re.findall(r"--(\w+): (#\w{6})", rule)) for rule in re.findall(r":root \{(.*?)\}", style)]
    assert len(schemes) == 3
    for scheme in schemes:
        for ground in ("paper", "panel"):
            assert all(contrast(scheme[text], scheme[ground]) >= 4.5 for text in ("ink", "soft", "link"))


def test_a_missing_picture_is_named_and_leaves_the_old_page(tmp_path):
    page(tmp_path, report.Section("Old"))
    given = picture(tmp_path)
    given.path.unlink()
    with pytest.raises(storage.InputError, match=r"ratios\.png cannot be read.*make the figures again") as raised:
        page(tmp_path, report.Section("New", figures=[given]))
    assert "\n" not in str(raised.value)
    assert "Old" in (tmp_path / "report.html").read_text()


def test_a_file_that_is_no_png_is_named(tmp_path):
    given = picture(tmp_path)
    given.path.write_bytes(b"GIF89a")
    with pytest.raises(storage.InputError, match=r"ratios\.png is no PNG"):
        page(tmp_path, report.Section("One", figures=[given]))


def test_the_same_content_gives_the_same_bytes(tmp_path):
    section = report.Section("One", ["Words"], [table(("mid", 0.25))], [picture(tmp_path)])
    page(tmp_path, section)
    first = (tmp_path / "report.html").read_bytes()
    page(tmp_path, section)
    assert (tmp_path / "report.html").read_bytes() == first


def test_claims_stand_in_their_section_and_again_at_the_head_of_the_page(tmp_path):
    claims = [
        report.Claim("phi is sparse", "0.25", "0.20 (0.19–0.21)", "0.26, untrained", "no"),
        report.Claim("phi is stable", None, "3 of 4 levels", "1 of 4"),
    ]
    parsed = page(
        tmp_path,
        report.Section("Sparsity", claims=claims[:1]),
        report.Section("Robustness", claims=claims[1:]),
        report.Section("Nothing claimed"),
    )
    assert parsed.text("h2") == ["Contents", "Claims and findings", "Sparsity", "Robustness", "Nothing claimed"]
    cells = [text for text in parsed.text("td") if text]
    once = ["0.25", "0.20 (0.19–0.21)", "0.26, untrained", "no", "–", "3 of 4 levels", "1 of 4", "–"]
    assert cells == [*once, *once]
    assert not any(attributes.get("class") == "number" for attributes in parsed.all("td"))  # phrases may break
    assert "Of 2 claims 0 hold, 0 in part, and 1 do not, of 1 it cannot be said." in " ".join(parsed.text("p"))


def test_parts_are_what_semicolons_separate_outside_of_brackets():
    assert report.parts("a; b (c; d (e; f)); g") == ["a", "b (c; d (e; f))", "g"]
    assert report.parts("one;two") == ["one;two"]


def test_a_claims_parts_stand_on_lines_of_their_own_and_other_cells_on_one(tmp_path):
    claim = report.Claim("It <i> holds.", None, "0.2; 0.3 (at 10; 20)", "none", "yes")
    page(tmp_path, report.Section("Sparsity", tables=[report.Table("T", ("a", "b"), [("x", "1; 2")])], claims=[claim]))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    cell = '<td><span class="part">0.2</span> <span class="part">0.3 (at 10; 20)</span> </td>'
    assert text.count(cell) == 2 and "1; 2</td>" in text and "<i>" not in text
