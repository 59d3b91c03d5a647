"""The report as Markdown: for a repository, a notebook or a mail; its pictures are links to the figures' files."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from unetrep_jax import report, storage
from unetrep_jax.report import Cell, Section, Table

# What the report's own text marks up: `code`, **strong** and links to pages beside it. The rest is plain, and stays so.
_MARKUP = re.compile(r"(`[^`]+`|\*\*[^*]+\*\*|\[\w[\w/-]*\.html\])")
_BARE_PIPE = re.compile(r"(?<!\\)\|")  # in a table even that of `code` would end the cell
_SPECIAL = re.compile(r"([\\`*_\[\]<>&#|~]|^[-+](?=\s)|(?<=^\d)[.)](?=\s))")


def write(
    path: Path | str, *, title: str, subtitle: str, sections: Sequence[Section], facts: Mapping[str, Cell]
) -> None:
    """Writes what `report.write` does, from the same arguments, as Markdown with tables as GitHub reads them; atomically."""
    folder = Path(path).resolve().parent
    parts = [f"# {_words(title)}", _words(subtitle), _rows(("", ""), [False, False], list(facts.items()))]
    numbers = {"Table": 0, "Figure": 0}
    for section in report.with_claims(sections):
        parts += [f"## {_words(section.title)}", *map(_words, section.text)]
        for table in section.tables:
            parts += [_numbered("Table", table.caption, numbers), _table(table)]
        for picture in section.figures:
            parts += [f"![{_words(picture.alt)}]({report.link(picture.path, folder)})"]
            parts += [_numbered("Figure", picture.caption, numbers)]
    storage.write_atomically(path, "\n\n".join(parts) + "\n")


def _words(text: str) -> str:
    """Text in which nothing but the report's own markup means anything; on one line."""
    pieces = _MARKUP.split(" ".join(text.split()))
    return "".join(_marked(piece) if i % 2 else _plain(piece) for i, piece in enumerate(pieces))


def _marked(piece: str) -> str:
    if piece.startswith("`"):
        return piece
    return f"**{_plain(piece[2:-2])}**" if piece.startswith("*") else f"{piece}({piece[1:-1]})"


def _plain(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)


def _numbered(kind: str, caption: str, numbers: dict[str, int]) -> str:
    numbers[kind] += 1
    return f"**{kind} {numbers[kind]}.** {_words(caption)}"


def _table(table: Table) -> str:
    return _rows(table.header, report.numeric_columns(table), table.rows, table.prose)


def _rows(header: Sequence[str], numeric: Sequence[bool], rows: Sequence[Sequence[Cell]], prose: bool = False) -> str:
    head, *body = [f"| {' | '.join(_cell(value, prose) for value in line)} |" for line in (header, *rows)]
    rule = "".join("|---:" if is_number else "|---" for is_number in numeric)
    return "\n".join([head, f"{rule}|", *body])


def _cell(value: Cell, prose: bool) -> str:
    return _BARE_PIPE.sub(r"\\|", "<br>".join(map(_words, report.lines(value, prose))))
