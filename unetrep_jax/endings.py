"""How a program ends that cannot go on: one line for a person, and an exit code."""

import errno
import sys
from collections.abc import Callable
from typing import Any

from unetrep_jax import storage
from unetrep_jax.storage import InputError

# What to do about what the system says.
NO_PLACE = (errno.EEXIST, errno.ENOTDIR, errno.ENOENT, errno.ELOOP, errno.EISDIR)
REMEDIES = dict.fromkeys(NO_PLACE, "; name another file or folder") | {
    errno.ENAMETOOLONG: "; use a shorter name",
    errno.EACCES: "; change its permissions, or name another",
    errno.EROFS: "; name a folder on a disk that can be written to",
}


def in_one_line(program: str, work: Callable[[], int], *, goes_on: str, lost: int = 2) -> int:
    """Does the work; what a person can do something about ends it with one line on the error stream instead of a traceback.

    Args:
      program: begins the line.
      work: gives the exit code.
      goes_on: from where the same command goes on after Ctrl-C.
      lost: exit code where another process, or memory of the devices, was lost.

    Returns:
      The exit code: that of the work; 2 for bad input, no space or too little memory; `lost`; 130 after Ctrl-C.

    Raises:
      Exception: any other, which is a fault of the program.
    """
    sys.unraisablehook = _unless_too_late
    try:
        storage.require_memory()
        return work()
    except KeyboardInterrupt:
        line, code = f"stopped; the same command goes on from {goes_on}", 130
    except MemoryError as error:
        line, code = storage.too_little_memory(error), 2
    except (InputError, OSError) as error:
        line, code = " ".join(str(error).split()) + REMEDIES.get(getattr(error, "errno", None), ""), 2
    except (RuntimeError, ValueError) as error:  # as either comes what happened in JAX's runtime
        from unetrep_jax import devices

        line, code = devices.explain(error), lost
        if not line:
            raise
    print(f"{program}: {line}", file=sys.stderr)
    return code


def _unless_too_late(unraisable: Any) -> None:
    """Keeps quiet where a file's operation comes back to Orbax's event loop, which closed as another operation failed."""
    if not (isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"):
        sys.__unraisablehook__(unraisable)
