"""Random edits of settings and of command lines, as people make them: wrong types, signs, sizes, spellings, nothing at all."""

import random
from typing import Any

# Of any setting. Literals are read as Python reads them, the rest are words.
VALUES = (
    "", " ", "None", "nan", "inf", "-inf", "1e999", "-1e999", "0", "-1", "1", "2", "3", "7", "0.5", "-0.5", "1e-30", "1e30",
    "True", "False", "true", "many", "()", "(1,)", "(1, 'x')", "(-1, 2)", "(0, 0)", "[]", "[3, 4]", "{}", "{[]: 1}", "(1e999,)",
    "('nan',)", "1j", "b'x'", "{1, 2}", "12345678901234567890123", "-9223372036854775809", "9" * 400, "-" * 5000 + "1",
    "(" * 300, "ä", "数", "a b", "'", '"', "\\", "/", "..", "~", "*", "../..", "/dev/null", "x" * 300, "x/" * 600,
    "<script>alert(1)</script>", "%s", "{}{}", "$HOME", "\n", "a\nb", "\t", "-", "--", "=", "=1", "float32", "layer", "tfds:",
    "1_000", "0x10", "1if 2", "'\\d'",
)  # fmt: skip
ARGUMENTS = (
    "--", "-", "-h2", "--fresh=1", "--workdir", "--config", "--config.", "--config.x", "--config.train", "--config.train=1",
    "--config.train.batch_size", "--batch_size=3", "x", "--only", "--redo=", "--config..=1", "--config.train.epochs.x=2",
    "--configs.seed=1",
)  # fmt: skip


def misspelt(key: str, chance: random.Random) -> str:
    """A key with one letter dropped, doubled or exchanged."""
    place = chance.randrange(len(key))
    middle = chance.choice(["", key[place] * 2, chance.choice("abcxyz._0")])
    return key[:place] + middle + key[place + 1 :]


def edit(settings: dict[str, Any], chance: random.Random) -> list[str]:
    """Arguments that change one setting, or are wrong themselves: one edit in ten spoils the name, one in ten the argument."""
    key = chance.choice(sorted(settings))
    kind = chance.random()
    if kind < 0.1:
        return [f"--config.{misspelt(key, chance)}={settings[key]}"]
    if kind < 0.2:
        return [chance.choice(ARGUMENTS)]
    return [f"--config.{key}={value_for(settings[key], chance)}"]


def value_for(old: Any, chance: random.Random) -> str:
    """A value near the old one, or any at all."""
    if isinstance(old, bool | str | tuple | list) or chance.random() < 0.4:
        return chance.choice(VALUES)
    factor = chance.choice([-1, 0, 1, 1, 0.5, 0.5, 2, 2, 1e-6, 1e6, 1e15])  # half of them near enough to run
    return repr(type(old)(old * factor))
