"""Files that survive: atomic writes, checksums, locks, arrays that resume, cached stages, and progress that a person can read.

Nothing here knows about images or networks. Every other module may import this one.
"""

from unetrep_jax.storage.files import (
    MANIFEST,
    UNREADABLE,
    DamagedError,
    InputError,
    fingerprint,
    finite,
    is_refused,
    read_arrays,
    read_json,
    require_memory,
    sha256,
    sync,
    too_little_memory,
    verify_manifest,
    write_arrays,
    write_atomically,
    write_json,
    write_manifest,
)
from unetrep_jax.storage.folders import (
    COMPLETE,
    PROGRESS,
    discard,
    is_complete,
    lock,
    one_line_when_full,
    recover,
    replacing,
    tidy,
)
from unetrep_jax.storage.progress import Progress, duration
from unetrep_jax.storage.rows import RowWriter

__all__ = [
    "COMPLETE",
    "MANIFEST",
    "PROGRESS",
    "UNREADABLE",
    "DamagedError",
    "InputError",
    "Progress",
    "RowWriter",
    "discard",
    "duration",
    "fingerprint",
    "finite",
    "is_complete",
    "is_refused",
    "lock",
    "one_line_when_full",
    "read_arrays",
    "read_json",
    "recover",
    "replacing",
    "require_memory",
    "sha256",
    "sync",
    "tidy",
    "too_little_memory",
    "verify_manifest",
    "write_arrays",
    "write_atomically",
    "write_json",
    "write_manifest",
]
