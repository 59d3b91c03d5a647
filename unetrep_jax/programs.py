"""Compiled programs that are kept for the next process. JAX keeps them; whether they are what was kept is looked after here."""

import contextlib
import os
import platform
import sys
import warnings
from pathlib import Path
from typing import Any

import jax

from unetrep_jax.storage import fingerprint, sha256, write_atomically

PROGRAM, SEAL = "-cache", ".sha256"  # how JAX calls its files, and what is added for their checksums
COMPILED = "/jax/core/compile/backend_compile_duration"  # what JAX announces when a program is compiled, and kept


def keep(folder: Path) -> None:
    """Lets JAX keep what it compiles, apart for each kind of processor: a program for one may not run on another.

    A program that is not what it was when it was kept is removed first, and so is one that was not kept to its end: JAX would
    believe in it, and abort, or compute something else.
    """
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    kind = {line for line in lines if line.startswith(("model name", "flags", "Features"))} or {platform.platform()}
    folder /= fingerprint(sorted(kind))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_changed(folder)
    except OSError as error:
        print(
            f"devices.compilation_cache: {folder} cannot be used ({error.strerror}); every start compiles anew.", file=sys.stderr
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # JAX may have been killed in the middle of writing one, or another process may be writing it: it is compiled again.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")

    def compiled(event: str, *_: Any, **__: Any) -> None:
        if event == COMPILED:
            with contextlib.suppress(OSError):  # a full disk: what has no checksum is compiled again
                seal(folder)

    jax.monitoring.register_event_duration_secs_listener(compiled)


def remove_changed(folder: Path) -> None:
    """Removes the programs that are not what their checksums say, or have none."""
    for program in folder.glob(f"*{PROGRAM}"):
        checksum = _seal_of(program)
        if not checksum.exists() or checksum.read_text() != _checksum(program):
            program.unlink(missing_ok=True)
            checksum.unlink(missing_ok=True)


def seal(folder: Path) -> None:
    """Gives every program that has none yet its checksum."""
    names = set(os.listdir(folder))
    for name in names:
        if name.endswith(PROGRAM) and f"{name}{SEAL}" not in names:
            write_atomically(_seal_of(folder / name), _checksum(folder / name))


def _seal_of(program: Path) -> Path:
    return program.with_name(f"{program.name}{SEAL}")


def _checksum(program: Path) -> str:
    """Names a program's content and its own name: one that has another's place is another one."""
    return fingerprint(program.name, sha256(program))
