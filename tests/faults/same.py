"""Whether what a command left is, bit for bit, what an undisturbed one left; and whether it left anything else.

Left out, for they hold the time of day: TensorBoard's events. Of checkpoints the arrays and values are compared, for Orbax writes
times beside them. Everything else, reports and the explorer's page too, is compared byte by byte.
"""

import hashlib
import json
from pathlib import Path

from faults import children
from faults.attack import Broken

LASTING = (".lock", ".figures.json")  # hidden files that belong there


def run_content(run: Path) -> dict[str, str]:
    """Names and checksums of all that a training run left."""
    from faults import checkpoint_content

    found = {"metrics.jsonl": _sha256((run / "metrics.jsonl").read_bytes())}
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


def newest(series: Path) -> str:
    """The name of the newest checkpoint of a series."""
    return max((path.name for path in series.iterdir() if path.name.isdecimal()), key=int)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def difference(found: dict[str, str], expected: dict[str, str]) -> str:
    """The first names that differ, and how."""
    missing, more = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    other = [name for name in sorted(expected.keys() & found.keys()) if found[name] != expected[name]]
    return json.dumps(
        {kind: names[:4] for kind, names in {"missing": missing, "more": more, "other": other}.items() if names}
    )


def require_same(found: dict[str, str], expected: dict[str, str], what: str) -> None:
    """Raises Broken where anything differs."""
    if found != expected:
        raise Broken(f"{what} differs from the undisturbed one: {difference(found, expected)}")


def require_tidy(folder: Path) -> None:
    """Raises Broken where a temporary file stayed behind."""
    for path in folder.rglob("*"):
        hidden = path.name.startswith(".") and path.name not in LASTING and not path.name.endswith(".lock")
        if hidden or path.name == "progress.json":
            raise Broken(f"left behind: {path.relative_to(folder)}")
