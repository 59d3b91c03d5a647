"""Run configurations, and how a configuration is read, changed from the command line, and checked."""

import argparse
import ast
import difflib
import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import ml_collections

from unetrep_jax.storage import InputError

LARGEST = {int: 2**63, float: 3.4e38}  # what JAX and numpy count with: 64 bits, float32


def load(path: str | None) -> ml_collections.ConfigDict:
    """Reads a configuration file: a Python file with `get_config() -> ConfigDict`. The result is locked."""
    known = ", ".join(sorted(str(p.parent.name + "/" + p.name) for p in Path(__file__).parent.glob("[!_]*.py")))
    if not path:
        raise InputError(f"--config is missing; give a configuration file, for example one of {known}.")
    file = Path(path)
    if not file.is_file():
        close = difflib.get_close_matches(file.name, [p.name for p in Path(__file__).parent.glob("[!_]*.py")], n=1)
        hint = f"did you mean configs/{close[0]}?" if close else f"there are {known}."
        raise InputError(f"--config {path}: no such file; {hint}")
    spec = importlib.util.spec_from_file_location("_config", file)
    if spec is None:
        raise InputError(f"--config {path} is not a Python file; it must end in .py and define get_config().")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise InputError(f"--config {path} cannot be run: {_in_short(error)}; repair it, or compare configs/default.py.") from error
    if not hasattr(module, "get_config"):
        raise InputError(f"--config {path} defines no get_config(); see configs/default.py.")
    try:
        found = module.get_config()
    except (Exception, SystemExit) as error:  # a misspelt key or a wrong type in the file: ml_collections says which
        why = _in_short(error)
        raise InputError(f"--config {path}: get_config() failed: {why}; repair it, or compare configs/default.py.") from error
    return _checked(found, path)


def _in_short(error: BaseException) -> str:
    """Type and first line of an exception, which may have no text."""
    first = str(error).strip().splitlines()[:1]
    return ": ".join([type(error).__name__, *first])


def _checked(found: Any, path: str) -> ml_collections.ConfigDict:
    """What a file's `get_config` gave, if it has all settings and no other, each of its type."""
    from configs import default

    config = default.get_config()
    if not isinstance(found, ml_collections.ConfigDict):
        kind = type(found).__name__
        raise InputError(f"--config {path}: get_config() must return a ConfigDict; it gave a {kind}; see configs/default.py.")
    given = dict(flatten(found))
    for key, value in given.items():
        _set(config, key, value, named=f"--config {path}: {key}")
    if missing := [key for key, _ in flatten(config) if key not in given]:
        raise InputError(f"--config {path} lacks {missing[0]}; add it, or change the configuration that configs/default.py gives.")
    return config.lock()


class Parser(argparse.ArgumentParser):
    """A parser of command lines whose errors are InputErrors, one line each."""

    def error(self, message: str) -> NoReturn:
        """Raises what is printed as one line."""
        raise InputError(f"{message.replace('ignored explicit argument', 'takes no value; it has')}; see {self.prog} --help.")


def from_plain(plain: dict[str, Any]) -> ml_collections.ConfigDict:
    """A configuration from the plain dictionary that a checkpoint holds, on top of today's defaults for keys it lacks."""
    from configs import default

    config = default.get_config()
    for key, value in flatten(plain):
        try:
            _set(config, key, value)
        except InputError:  # A key that an older version had and this one does not: nothing reads it any more.
            continue
    return config.lock()


def override(config: ml_collections.ConfigDict, arguments: Sequence[str]) -> None:
    """Applies command-line arguments `--config.section.key=value` (or with a space instead of `=`), in order, in place.

    Raises:
      InputError: an argument of another form, an unknown key (with the nearest known one), or a value of the wrong type.
    """
    arguments = list(arguments)
    while arguments:
        argument = arguments.pop(0)
        if not argument.startswith("--config."):
            raise InputError(f"argument {argument!r} is unknown; settings are given as --config.section.key=value.")
        key, equals, text = argument.removeprefix("--config.").partition("=")
        if not equals:
            if not arguments:
                raise InputError(f"--config.{key} has no value; write --config.{key}=value.")
            text = arguments.pop(0)
        _set(config, key, _literal(text), text)


def _literal(text: str) -> Any:
    """What Python reads in a text; the text itself where that is nothing."""
    try:
        with warnings.catch_warnings(action="ignore"):  # about spellings such as 1if
            return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text


def _set(config: ml_collections.ConfigDict, key: str, value: Any, text: str = "", named: str = "") -> None:
    """Sets a value; a word stays as it was typed (`text`) even where it reads as a number. Refusals call the setting `named`."""
    named = named or f"--config.{key}"
    *sections, name = key.split(".")
    known = dict(flatten(config))
    if key not in known:
        close = difflib.get_close_matches(key, known, n=1) or [k for k in known if k.endswith(f".{name}")][:1]
        hint = f"did you mean {close[0]}?" if close else "see configs/default.py."
        raise InputError(f"{named} is no setting; {hint}")
    section = config
    for part in sections:
        section = section[part]
    old = section[name]
    if isinstance(old, str) and text:
        value = text
    if isinstance(old, tuple) and isinstance(value, list):
        value = tuple(value)
    fits = type(value) is type(old) or (isinstance(old, float) and type(value) is int) or _depth(key, old, value)
    if fits and isinstance(old, tuple) and old:
        kinds = (int, float) if isinstance(old[0], float) else (type(old[0]),)
        fits = all(type(item) in kinds for item in value)
    if not fits:
        raise InputError(
            f"{named}={value!r} is of type {type(value).__name__}; it must be {type(old).__name__}, like {old!r}."
        )
    _check_numbers(named, value)
    with section.ignore_type(), section.unlocked():
        section[name] = float(value) if isinstance(old, float) else value


def _check_numbers(named: str, value: Any) -> None:
    """Refuses what is a number for Python and not for a setting."""
    for item in value if isinstance(value, tuple | list) else (value,):
        if isinstance(item, float | int) and not abs(item) < LARGEST[float if isinstance(item, float) else int]:
            rule = "whole ones lie below 2^63, others below 3.4e38"
            raise InputError(f"{named}={str(value)[:40]} is no usable number: {rule}.")


def _depth(key: str, old: Any, value: Any) -> bool:
    """Depths are one number or one per block; both types are right."""
    items = value if isinstance(value, tuple | list) else (value,)
    return key.endswith("_depth") and all(type(item) is int for item in items)


def flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("section.key", value) for every setting."""
    for key, value in config.items():
        if hasattr(value, "items"):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def plain(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The configuration as dictionaries and lists: what JSON makes of it, so that it compares equal after a round trip."""
    return {
        key: plain(value) if hasattr(value, "items") else list(value) if isinstance(value, tuple) else value
        for key, value in config.items()
    }
