"""The report: one HTML page that carries everything it shows and opens anywhere, from a mail or a USB stick.

Pictures are inlined, the style is in the page, there is no script, and a content security policy makes sure that
nothing is ever fetched. The page only arranges: every number and every word comes in as it is printed.
"""

import base64
import collections
import html
import os
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from unetrep_jax import storage
from unetrep_jax.figures import FORMATS

Cell = str | int | float | None


class Table(NamedTuple):
    """A table whose first column names the rows.

    Attributes:
      caption: what it shows, a sentence or two.
      header: a name, with its unit, for every column.
      rows: the cells, as they are printed (None is an en dash); a column in which every cell begins with a number is
        aligned right, so give its numbers the same number of decimals.
      prose: the cells are phrases: never aligned right, and each of their `parts` on a line of its own.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    prose: bool = False


class Picture(NamedTuple):
    """A figure on disk, a PNG; the page links to it, and to the PDF or SVG of the same name beside it.

    Attributes:
      path: the PNG.
      caption: what it shows and how to read it.
      alt: the same for those who cannot see it: what the picture says, in a sentence.
    """

    path: Path
    caption: str
    alt: str


class Claim(NamedTuple):
    """What the paper says, with the number that was published, the one found here, and its null.

    Attributes:
      claim: the paper's statement, in a sentence that a number can support or refute.
      published: the published number, with its source's precision; None where there is none.
      here: the number found, as it is printed, with its unit or what it counts.
      null: the same number where the claim cannot hold: the untrained network, permuted channels, chance, pixels.
      holds: "yes" where the number supports the claim and the null does not, "in part" where the null does too, or where only a
        part of the claim is supported, "no"; "" where that cannot be said.
    """

    claim: str
    published: str | None
    here: str
    null: str
    holds: str = ""


def verdict(*parts: tuple[bool | None, bool]) -> str:
    """`Claim.holds`, from each part of a claim: does the number found here support it (None: it cannot be said), does the null."""
    if not parts or any(here is None for here, _ in parts):
        return ""
    if all(here and not null for here, null in parts):
        return "yes"
    return "in part" if any(here for here, _ in parts) else "no"


class Section(NamedTuple):
    """A titled part of the page: what is claimed, paragraphs, then tables, then figures.

    Attributes:
      title: a few words; also in the table of contents.
      text: paragraphs, plain text; `code` between backticks and **strong** between double asterisks.
      tables: tables, in order.
      figures: figures, in order.
      claims: what of the paper it tests; shown first, and again in the table at the head of the page.
    """

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Picture] = ()
    claims: Sequence[Claim] = ()


def write(
    path: Path | str, *, title: str, subtitle: str, sections: Sequence[Section], facts: Mapping[str, Cell]
) -> None:
    """Writes the page, atomically; equal arguments and pictures give equal bytes.

    Args:
      path: where the HTML file goes. Links to the figures' own files are relative to its folder.
      title: the page's name.
      subtitle: one sentence below it: what was done to what.
      sections: the parts, in order. Tables and figures are numbered through the page.
      facts: what is needed to judge and to repeat this, shown first: checkpoint, images, seed, noise level, machine,
        versions, command.

    Raises:
      storage.InputError: a picture is missing or is no PNG.
    """
    folder = Path(path).resolve().parent
    sections = with_claims(sections)
    contents = "".join(f'<li><a href="#section-{i}">{_words(s.title)}</a></li>' for i, s in enumerate(sections, 1))
    numbers = {"Table": 0, "Figure": 0}
    page = _PAGE.format(
        title=html.escape(title),
        subtitle=_words(subtitle),
        style=_STYLE,
        facts="".join(f"<div><dt>{_words(name)}</dt><dd>{_cell(fact)}</dd></div>" for name, fact in facts.items()),
        contents=contents,
        sections="\n".join(_section(i, section, folder, numbers) for i, section in enumerate(sections, 1)),
    )
    storage.write_atomically(path, page)


def with_claims(sections: Sequence[Section]) -> list[Section]:
    """The sections after one that holds all their claims, where there are some; each section's own claims among its tables."""
    claims = [claim for section in sections for claim in section.claims]
    text = [_CLAIMS_TEXT, _how_many_hold(claims)]
    first = [Section("Claims and findings", text, [_claims_table(claims)])] if claims else []
    tables = [[_claims_table(section.claims), *section.tables] if section.claims else section.tables for section in sections]
    return [*first, *(section._replace(tables=own) for section, own in zip(sections, tables, strict=True))]


_MARKUP = re.compile(r"`(?P<code>[^`]+)`|\*\*(?P<strong>[^*]+)\*\*|\[(?P<a>\w[\w/-]*\.html)\]")


def _words(text: str) -> str:
    """Plain text as HTML: everything escaped, then `code`, **strong** and links to pages beside this one: [explorer/index.html]."""
    return _MARKUP.sub(_element, html.escape(text))


def _element(found: re.Match) -> str:
    name, text = found.lastgroup, found[found.lastgroup]
    return f'<a href="{text}">{text}</a>' if name == "a" else f"<{name}>{text}</{name}>"


def _cell(value: Cell, prose: bool = False) -> str:
    first, *others = shown = lines(value, prose)
    return "".join(f'<span class="part">{_words(line)}</span> ' for line in shown) if others else _words(first)


def lines(value: Cell, prose: bool) -> list[str]:
    """What a cell shows, line by line."""
    if value is None:
        return ["–"]
    return parts(str(value)) if prose else [str(value)]


def parts(text: str) -> list[str]:
    """What semicolons separate, outside of brackets."""
    found, depth = [""], 0
    for piece in re.split(r"([()]|; )", text):
        depth += (piece == "(") - (piece == ")")
        if piece == "; " and not depth:
            found.append("")
        else:
            found[-1] += piece
    return found


def _section(index: int, section: Section, folder: Path, numbers: dict[str, int]) -> str:
    parts = [f"<p>{_words(paragraph)}</p>" for paragraph in section.text]
    parts += [_table(table, _numbered("Table", table.caption, numbers)) for table in section.tables]
    parts += [_figure(picture, _numbered("Figure", picture.caption, numbers), folder) for picture in section.figures]
    heading = f'<h2 id="heading-{index}">{_words(section.title)}</h2>'
    body = "\n".join([heading, *parts])
    return f'<section id="section-{index}" aria-labelledby="heading-{index}">\n{body}\n</section>'


def _numbered(kind: str, caption: str, numbers: dict[str, int]) -> str:
    numbers[kind] += 1
    return f"<strong>{kind} {numbers[kind]}.</strong> {_words(caption)}"


_CLAIMS_TEXT = (
    "What the paper says of its network, trained on ImageNet, beside the same number for the network analysed here, and beside "
    "its null: what one gets where the claim cannot hold. A claim holds where the number here supports it and the null does not; "
    "in part, where the null supports it as well, or the number supports some of it."
)


def _how_many_hold(claims: Sequence[Claim]) -> str:
    counts = collections.Counter(claim.holds for claim in claims)
    unsaid = f", of {counts['']} it cannot be said" if counts[""] else ""
    return f"Of {len(claims)} claims {counts['yes']} hold, {counts['in part']} in part, and {counts['no']} do not{unsaid}."


def _claims_table(claims: Sequence[Claim]) -> Table:
    rows = [(claim.claim, claim.published, claim.here, claim.null, claim.holds or None) for claim in claims]
    return Table(
        "What is claimed, and what was found.", ("claim", "published", "here", "null", "holds"), rows, prose=True
    )


_NUMBER = re.compile(r"[-−+±<>≈~]?\s?\.?\d|(nan|inf|–|)$")


def numeric_columns(table: Table) -> list[bool]:
    """Which columns hold numbers, and are aligned right."""
    columns = list(zip(*table.rows, strict=True)) or [()] * len(table.header)
    return [not table.prose and all(v is None or _NUMBER.match(str(v)) for v in column) for column in columns]


def _table(table: Table, caption: str) -> str:
    aligned = [' class="number"' if is_number else "" for is_number in numeric_columns(table)]
    header = "".join(f'<th scope="col"{a}>{_words(name)}</th>' for name, a in zip(table.header, aligned, strict=True))
    body = "\n".join(_row([_cell(value, table.prose) for value in row], aligned) for row in table.rows)
    opening = '<table class="prose">' if table.prose else "<table>"
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{html.escape(table.caption)}">\n'
        f"{opening}<caption>{caption}</caption>\n<thead><tr>{header}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _row(cells: list[str], aligned: list[str]) -> str:
    first = f'<th scope="row"{aligned[0]}>{cells[0]}</th>'
    return f"<tr>{first}{''.join(f'<td{a}>{cell}</td>' for cell, a in zip(cells[1:], aligned[1:], strict=True))}</tr>"


def _figure(picture: Picture, caption: str, folder: Path) -> str:
    content, width, height = _read_png(picture.path)
    source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    files = [file for kind in FORMATS if (file := picture.path.with_suffix(f".{kind}")).is_file()]
    links = " · ".join(f'<a href="{html.escape(link(file, folder))}">{file.suffix[1:].upper()}</a>' for file in files)
    shown = round(width * _SCREEN), round(height * _SCREEN)
    return (
        f'<figure><img src="{source}" alt="{html.escape(picture.alt)}" width="{shown[0]}" height="{shown[1]}">\n'
        f'<figcaption>{caption} <span class="files">{links}</span></figcaption></figure>'
    )


_SCREEN = 0.6  # CSS pixels per PNG pixel: 8-point letters at 200 dpi become 13 pixels, and fine screens get the rest


def link(file: Path, folder: Path) -> str:
    """The address of a file for a page in that folder."""
    return quote(Path(os.path.relpath(file.resolve(), folder)).as_posix())


def _read_png(path: Path) -> tuple[bytes, int, int]:
    """A PNG's bytes, width and height (the first fields of its header)."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise storage.InputError(
            f"report: the picture {path} cannot be read ({error.strerror}); make the figures again, then the report"
        ) from error
    if len(content) < 24 or not content.startswith(b"\x89PNG\r\n\x1a\n"):
        raise storage.InputError(f"report: {path} is no PNG; make the figures again, then the report")
    return content, *struct.unpack(">II", content[16:24])


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="subtitle">{subtitle}</p>
<dl>{facts}</dl>
</header>
<nav aria-label="Contents">
<h2>Contents</h2>
<ol>{contents}</ol>
</nav>
<main>
{sections}
</main>
</body>
</html>
"""

_STYLE = """
:root { --paper: #ffffff; --ink: #1d2126; --soft: #57606a; --line: #d8dee4; --panel: #f5f7f9; --link: #0058a3; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171a; --ink: #e3e7eb; --soft: #a3adb8; --line: #343b43; --panel: #1d2227; --link: #7cbcf5; }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 5rem; max-width: 56rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
}
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; letter-spacing: -0.01em; text-wrap: balance; }
h2 { margin: 3rem 0 0.75rem; font-size: 1.3rem; line-height: 1.3; }
p { max-width: 42rem; margin: 0.75rem 0; }
a { color: var(--link); text-underline-offset: 0.15em; }
a:focus-visible, .wide:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
code {
  font: 0.875em ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere;
}
.subtitle { font-size: 1.1rem; color: var(--soft); margin: 0.5rem 0 1.75rem; }
dl { margin: 0; padding: 0.5rem 1.1rem; background: var(--panel); border: 1px solid var(--line); border-radius: 8px; }
dl div { display: grid; grid-template-columns: 9rem 1fr; gap: 1rem; padding: 0.35rem 0; }
dl div + div { border-top: 1px solid var(--line); }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
nav h2 { margin: 2rem 0 0.25rem; font-size: 1rem; color: var(--soft); }
nav ol { margin: 0; padding-left: 1.4rem; columns: 18rem; }
nav li { padding: 0.1rem 0; break-inside: avoid; }
.wide { overflow-x: auto; margin: 1.5rem 0; }
table {
  border-collapse: collapse; min-width: min(100%, 30rem); font-size: 0.9375rem; font-variant-numeric: tabular-nums;
}
caption, figcaption { text-align: left; color: var(--soft); font-size: 0.9rem; line-height: 1.5; max-width: 42rem; }
caption { padding-bottom: 0.5rem; }
caption strong, figcaption strong { color: var(--ink); }
th, td { padding: 0.35rem 1.5rem 0.35rem 0; text-align: left; vertical-align: baseline; font-weight: normal; }
th:last-child, td:last-child { padding-right: 0; }
.prose td { min-width: 3rem; }
.prose td:nth-child(3), .prose td:nth-child(4) { width: 32%; }
.part { display: block; margin-bottom: 0.25rem; padding-left: 0.75rem; text-indent: -0.75rem; }
thead th { font-weight: 600; border-bottom: 1.5px solid var(--soft); vertical-align: bottom; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
.number { text-align: right; white-space: nowrap; }
figure { margin: 2rem 0; }
figure img {
  display: block; box-sizing: content-box; max-width: calc(100% - 1.5rem - 2px); height: auto; padding: 0.75rem;
  background: #ffffff; border: 1px solid var(--line); border-radius: 8px;
}
figcaption { margin-top: 0.6rem; }
.files { white-space: nowrap; }
@media (max-width: 40rem) { dl div { grid-template-columns: 1fr; gap: 0; } h1 { font-size: 1.5rem; } }
@media print {
  :root { --paper: #ffffff; --ink: #000000; --soft: #444444; --line: #cccccc; --panel: #ffffff; --link: #000000; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav, .files { display: none; }
  figure, table, dl { break-inside: avoid; }
  h2 { break-after: avoid; }
  figure img { border: 0; padding: 0; max-width: 100%; }
}
""".strip()
