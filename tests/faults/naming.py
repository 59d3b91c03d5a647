"""What a text that a person typed may mean, and whether a line names it and says what to do."""

import ast
import math
import re
import warnings
from typing import Any

from faults.attack import said

LONG_ENOUGH = 12  # characters of a value, after which a line may cut it
# Settings whose refusal may speak of another one, which they change the meaning of.
MEANS = {
    "data.source": ("data.train_path", "data.validation_path", "data.name", "data.source"),
    "train.epochs": ("checkpoint.milestones",),
    "data.image_size": ("train.crop", "data.train_path", "data.validation_path", "--images"),
    "data.image_channels": ("data.train_path", "data.validation_path", "train.start_from"),
    "model.channels": ("model.decoder_depth", "model.encoder_depth", "data.image_size", "train.crop"),
    "analysis.sigmas": ("analysis.sigma", "analysis.robustness_sigma", "analysis.probe_sigmas"),
    "analysis.images": ("analysis.clusters",),
    "devices.cpu_devices": ("train.batch_size",),
}
# What a good line says, in words that are neither a part of a setting's name nor quoted. Either what is possible: a rule with its
# measure, or a list of what is known. Or that something is so, and what to do about it.
MEASURE = r"[\d<>]|positive|finite|above|below|between|one of|multiple|like \S|or (?:more|less)|of type|(?:\w+ ){2}\w"
POSSIBLE = re.compile(
    rf"(?<![\w.])(?:must|needs?|needed (?:is|are)|takes?) (?:[^;.]|\.\w)*?(?:{MEASURE})"
    r"|(?<![\w.])(?:at most|at least|below|above) -?\d|\bbetween \S+ and \S|\bhas no [^;]*, only \S|[:;,.] (?:give|use) [^;.]*\d"
    r"|(?:\bknown:|\bchoose from:|\bis one of|\bare given as|\bmay name|\bit has:?|\bis neither) \S"
    r"|\S, \S.* can\.|\bonly \w.* can\.",
    re.IGNORECASE,
)
IS_SO = re.compile(
    r"(?<![\w.])(?:is|are|was|were|has|have|had|holds?|lacks?|lies|got|cannot|must|needs?|not|no|none|only|exists|defines|differs?|"
    r"fits?|takes?|failed|diverged|expected|invalid|too (?:long|large|small|many|few)|denied)\b",
    re.IGNORECASE,
)
VERBS = (
    "add", "allow", "ask", "change", "check", "choose", "compare", "drop", "free", "get", "give", "install", "leave", "lower",
    "make", "measure", "name", "pip install", "prepare", "put", "raise", "remove", "repair", "resume", "save", "set", "start",
    "train", "undo", "update", "use", "wait", "write",
)  # fmt: skip
REMEDY = re.compile(
    rf"(?:[;:,.)]|\b(?:or|and)) (?:{'|'.join(VERBS)}) [^\s.;]|\bdid you mean \S"
    r"|\bthere are \S+\.py|[;:] see (?:\S+ --help|\S+\.py)\b",
    re.IGNORECASE,
)
QUOTED = re.compile(r"(?<!\w)'[^']*'|(?<!\w)\"[^\"]*\"")


def read(text: str) -> Any:
    """What Python reads in a text; the text where that is nothing."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def readings(text: str, value: Any) -> list[Any]:
    """What a text may mean for a setting of this kind."""
    found = read(text)
    if isinstance(value, str):
        return [text, found] if isinstance(found, str) else [text]
    return [list(found) if isinstance(found, tuple) else found]


def spellings(text: str) -> set[str]:
    """How a line may write the value of a text: as it was typed or as Python writes it, in thousands, or cut short."""
    value = read(text)
    found = {text, repr(text), str(value), repr(value)}
    if isinstance(value, int | float):
        number = value if abs(value) < 1e300 else math.inf  # whole numbers beyond are no floats
        found |= {f"{value:,}", f"{number:g}", f"{number:.1f}"}
    if isinstance(value, tuple | list):
        found |= {repr(tuple(value)), repr(list(value)), *(repr(item) for item in value)}
    return {" ".join(spelling.split())[:LONG_ENOUGH] for spelling in found if spelling.strip()}


def spelt(text: str, line: str) -> bool:
    """Whether a line writes the value of a text, and not only a longer one that holds it."""
    return any(spelling in line if len(spelling) == LONG_ENOUGH else said(spelling, line) for spelling in spellings(text))


def has_reason(line: str) -> bool:
    """Whether a line says which rule was broken, and what to do or what is possible; what it quotes says nothing."""
    line = QUOTED.sub("''", line)
    remedy = REMEDY.search(line)
    return POSSIBLE.search(line) is not None or (remedy is not None and IS_SO.search(line[: remedy.start()]) is not None)


def in_group(key: str, line: str) -> bool:
    """Whether a line names a setting with others, as analysis.sample_* does."""
    return any(key.removeprefix("analysis.").startswith(prefix) for prefix in re.findall(r"(\w+_)\*", line))


def names(line: str, argument: str) -> bool:
    """Whether a line names an argument as it was typed: the whole name of a setting, and its value.

    A wrong value's name may be that of a setting whose meaning it changed (`MEANS`); of a misspelt name the value does not matter.
    """
    key, equals, text = argument.removeprefix("--config.").partition("=")
    if not argument.startswith("--config.") or not equals:
        name = argument.partition("=")[0]
        parts = (argument[:40], repr(argument)[:40], name, argument[:2] if argument[1:2].isalpha() else "")
        return any(said(part, line) for part in parts if part)
    line = line.replace("--config.", "")
    if any(said(f"{key} {refused}", line) for refused in ("is no setting", "cannot be changed here")):
        return True
    if not said(key, line):
        return in_group(key, line) or any(said(name, line) for name in MEANS.get(key, ()))
    return not text.strip() or spelt(text, line)
