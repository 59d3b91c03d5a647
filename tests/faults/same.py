"""Whether what a command left is, bit for bit, what an undisturbed one left; and whether it left anything else.

Left out, for they hold the time of day: TensorBoard's events. Of checkpoints the arrays, values and names of files are compared,
for Orbax writes times in some, and calls those of arrays by what is in them. Everything else, reports and the explorer's page too,
is compared byte by byte.
"""

import hashlib
import json
import re
from pathlib import Path

from faults import children
from faults.attack import Broken

SERIES = ("last", "best", "milestones")  # of checkpoints
LASTING = (".lock", ".figures.json")  # hidden files that belong there
# What is written before it gets its name, and what was set aside: ours, and as Orbax and others call theirs.
PASSING = re.compile(r"^\.|^progress\.json$|\.(tmp|temp|partial|damaged|removing|old)$|orbax-checkpoint-tmp")
CHECKSUMMED = ("config.json", "metrics.jsonl")  # files of a run; of the others it is the names, and what checkpoints hold


def run_content(run: Path) -> dict[str, str]:
    """Names and checksums of all that a training run left."""
    from faults import checkpoint_content

    files = [path.relative_to(run) for path in sorted(run.rglob("*")) if path.is_file() and path.name != ".lock"]
    files = [path for path in files if path.parts[0] not in ("tensorboard", "analysis") and path.parent.name != "d"]
    found = {str(path): _sha256((run / path).read_bytes()) if str(path) in CHECKSUMMED else "" for path in files}
    return found | children.call(lambda: checkpoint_content.of_run(run))


def analysis_content(run: Path) -> dict[str, str]:
    """Names and checksums of all that an analysis left."""
    outdir = run / "analysis"
    files = (path for path in sorted(outdir.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(outdir)): _sha256(path.read_bytes()) for path in files}


def folder_content(folder: Path) -> dict[str, str]:
    """Names and checksums of all files below a folder, but for locks."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.endswith(".lock"))
    return {str(path.relative_to(folder)): _sha256(path.read_bytes()) for path in files}


def without(content: dict[str, str], checkpoint: str) -> dict[str, str]:
    """The content of a run but for a checkpoint."""
    return {name: checksum for name, checksum in content.items() if name != checkpoint and not name.startswith(f"{checkpoint}/")}


def newest(series: Path) -> str:
    """The name of the newest checkpoint of a series."""
    return max((path.name for path in series.iterdir() if path.name.isdecimal()), key=int)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def changed(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """The names of what is not as expected, or missing."""
    return [name for name in sorted(expected) if found.get(name) != expected[name]]


def difference(found: dict[str, str], expected: dict[str, str]) -> str:
    """The first names that differ, and how."""
    missing, more = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    other = [name for name in changed(found, expected) if name in found]
    return json.dumps(
        {kind: names[:4] for kind, names in {"missing": missing, "more": more, "other": other}.items() if names}
    )


def require_same(found: dict[str, str], expected: dict[str, str], what: str) -> None:
    """Raises Broken where anything differs."""
    if found != expected:
        raise Broken(f"{what} differs from the undisturbed one: {difference(found, expected)}")


def require_tidy(folder: Path) -> None:
    """Raises Broken where a temporary file or folder stayed behind, or one that was set aside."""
    for path in folder.rglob("*"):
        if PASSING.search(path.name) and path.name not in LASTING and not path.name.endswith(".lock"):
            raise Broken(f"left behind: {path.relative_to(folder)}")
