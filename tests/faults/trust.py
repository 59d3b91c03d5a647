"""Trust: files of strangers are data. Nothing in them is run, no name in them is a path, no text in them is markup."""

import ast
import functools
import http.server
import io
import json
import os
import random
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.faults import children, same
from tests.faults.attack import Attack, Missed, require, require_no_traceback
from tests.faults.preparation import make_pictures
from tests.faults.scene import STAGES, Scene

NEVER_RUN = "the planted object is never unpickled"
NO_CODE = "no module of the program unpickles, or runs text that it read"
INSIDE = "nothing is written outside the folder of results"
ESCAPED = "in no page a name becomes markup"
VERIFIED = "what does not pass its check is removed and refused, and never gets its name"
MARKUP = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</script><b>",
    "&lt;\"'",
    "]]><svg onload=alert(1)>",
)
NAMES = (
    "..",
    "...",
    "-rf",
    "a b",
    "$(touch executed)",
    "`touch executed`",
    "{0}",
    "%s",
    "\u202egnp",
    "é",
    "CON",
    "a\\b",
)
DANGEROUS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}


class Planted:
    """Would make a file, were it ever unpickled."""

    def __init__(self, path: Path):
        """`path` tells afterwards."""
        self.path = path

    def __reduce__(self):
        """What unpickling would call."""
        return open, (str(self.path), "w")


def attacks(scene: Scene) -> Iterator[Attack]:
    """Objects in each array file that a command reads; names in folders of images; a source that sends something else."""
    yield Attack("the program's own code", NO_CODE, "every module", lambda chance: no_code(scene))
    for what in ("images", "labels"):
        yield Attack("objects in arrays given", NEVER_RUN, what, lambda chance, what=what: given(scene, what))
    kept = sorted(
        path.relative_to(scene.analysed().folder) for path in scene.analysed().folder.rglob("analysis/**/*.np[yz]")
    )
    for path in kept if scene.long else random.Random(scene.seed).sample(kept, 4):
        yield Attack("objects in arrays kept", NEVER_RUN, str(path), lambda chance, path=path: planted(scene, path))
    for number in range(scene.many(1, 6)):
        yield Attack("names of classes and files", ESCAPED, f"folder {number}", lambda chance: names(scene, chance))
    yield Attack("names of runs", ESCAPED, "a run folder", lambda chance: run_name(scene))
    for number in range(scene.many(2, 20)):
        yield Attack("downloads", VERIFIED, f"reply {number}", lambda chance: download(scene, chance))


def no_code(scene: Scene) -> None:
    """Read as text: which modules are imported, which functions called."""
    package = children.ROOT / "unetrep_jax"
    for path in [*package.rglob("*.py"), children.ROOT / "train.py", children.ROOT / "analyze.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            imported = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            imported |= {str(node.module)} if isinstance(node, ast.ImportFrom) else set()
            require(not imported & DANGEROUS, f"{path.name} imports {imported & DANGEROUS}")
            called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            require(called not in ("eval", "exec", "compile", "__import__"), f"{path.name} calls {called}")
            allows = (
                isinstance(node, ast.keyword)
                and node.arg == "allow_pickle"
                and getattr(node.value, "value", None) is not False
            )
            require(not allows, f"{path.name} allows pickles")


def require_not_run(scene: Scene, result: children.Result) -> None:
    """The sign that an object was unpickled is not there."""
    require(not (scene.folder / "executed").exists(), "the planted object was unpickled")
    require(result.code in (0, 2), f"code {result.code}: {result.err[-600:]}")
    require_no_traceback(result)


def given(scene: Scene, what: str) -> None:
    """As images or labels of a training."""
    path = scene.clear() / "planted.npy"
    np.save(path, np.array([Planted(scene.folder / "executed")] * 64, object))
    changed = {"images": {"data__train_path": path}, "labels": {"data__train_labels": path}}[what]
    result = scene.do(scene.training(**changed))
    require_not_run(scene, result)
    require(result.code == 2 and str(path) in result.err, f"not refused: {result.err[-600:]}")


def planted(scene: Scene, path: Path) -> None:
    """In the place of an array of an analysis, with checksums that fit, as in a folder that a stranger sent."""
    scene.lay(scene.analysed())
    target, bad = scene.arena / path, np.array([Planted(scene.folder / "executed")], object)
    content = io.BytesIO()
    if target.suffix == ".npz":
        with np.load(target) as arrays:
            names = arrays.files
        np.savez(content, **dict.fromkeys(names, bad))
    else:
        np.save(content, bad)
    target.write_bytes(content.getvalue())
    covered = fit_checksums(target)
    analysis = scene.run / "analysis"
    for stage in STAGES:  # what reads it is made anew; what it belongs to stays
        children.remove(analysis / stage / "section.json" if analysis / stage in target.parents else analysis / stage)
    opened = scene.folder / "opened"
    opened.write_bytes(b"")

    def watch() -> None:
        file = os.open(opened, os.O_WRONLY | os.O_APPEND)
        found = str(target)
        sys.addaudithook(lambda event, given: event == "open" and str(given[0]) == found and os.write(file, b"."))

    result = scene.do(scene.analysis(), watch)
    require(not (scene.folder / "executed").exists(), f"the planted object was unpickled: {result.err[-300:]}")
    if opened.stat().st_size <= covered:
        raise Missed("nothing reads it again")


def fit_checksums(target: Path) -> int:
    """Makes the checksums of the folders that a file lies in fit it; returns how many there are."""
    from unetrep_jax import storage

    records = [folder / storage.COMPLETE for folder in target.parents[:2] if (folder / storage.COMPLETE).exists()]
    for record in records:
        written = json.loads(record.read_text())
        written["sha256"][str(target.relative_to(record.parent))] = storage.sha256(target)
        record.write_text(json.dumps(written))
    return len(records)


def names(scene: Scene, chance: random.Random) -> None:
    """Folders of images are named so; their names are classes, which reports and pages show."""
    scene.lay(scene.trained())
    pictures = children.fresh(scene.folder / "named")
    make_pictures(pictures, 40, seed=chance.randrange(1000))
    for old, name in zip(
        ("class0", "class1"), chance.sample([text.replace("/", "∕") for text in MARKUP + NAMES[2:]], 2), strict=True
    ):
        (pictures / old).rename(pictures / name)
    before = outside(scene)
    result = scene.do(scene.place.analysis(scene.run, "--only", "clusters", "explorer", "--images", pictures))
    require(result.code == 0, f"code {result.code}: {result.err[-600:]}")
    require_escaped(scene)
    same.require_same(outside(scene), before, "what lies outside")


def outside(scene: Scene) -> dict[str, str]:
    """What lies in the scene beside the arena and the caches that commands may write."""
    found = same.folder_content(scene.folder)
    mine = ("arena/run/analysis", "arena/weird", "programs/", "place/cache/", "named/", "temporary/")
    return {name: checksum for name, checksum in found.items() if not name.startswith(mine)}


def require_escaped(scene: Scene) -> None:
    """No page holds the markup as it was named."""
    pages = [path for path in scene.arena.rglob("*") if path.suffix in (".html", ".svg")]
    require(len(pages) >= 2, "no pages")
    for path in pages:
        text = path.read_text()
        for markup in ("<script>alert", "<img src=x", "<svg onload"):
            require(markup not in text, f"{path.name} holds {markup}")


def run_name(scene: Scene) -> None:
    """A run folder's name stands in reports and on the explorer's page."""
    scene.lay(scene.analysed())
    weird = scene.arena / "weird <img src=x onerror=alert(1)>"
    scene.run.rename(weird)
    before = outside(scene)
    result = scene.do(scene.place.analysis(weird, "--only", "sparsity", "explorer"))
    require(result.code == 0, f"code {result.code}: {result.err[-600:]}")
    require_escaped(scene)
    after = outside(scene)
    same.require_same(after, before, "what lies outside")


def download(scene: Scene, chance: random.Random) -> None:
    """A server on this machine sends other bytes than were promised."""
    from unetrep_jax.data.download import download as fetch
    from unetrep_jax.storage import InputError, sha256

    scene.clear()
    served, right = children.fresh(scene.folder / "served"), chance.randbytes(50_000)
    wrong = bytearray(right)
    wrong[chance.randrange(len(wrong))] ^= 1
    sent = chance.choice([bytes(wrong), right[:-1], b"", b"<html>login</html>"])
    (served / "x.zip").write_bytes(right)
    expected = sha256(served / "x.zip")
    (served / "x.zip").write_bytes(sent)

    def check(path: Path) -> str:
        return "" if sha256(path) == expected else "another checksum"

    handler = functools.partial(QuietHandler, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            fetch(f"http://127.0.0.1:{server.server_port}/x.zip", scene.arena / "x.zip", remedy="-", check=check)
            refused = ""
        except InputError as error:
            refused = str(error)
        finally:
            server.shutdown()
            thread.join()
    require("cannot be used" in refused, f"not refused: {refused}")
    require(not any(scene.arena.iterdir()), f"left: {[path.name for path in scene.arena.iterdir()]}")


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files and prints nothing."""

    def log_message(self, *_: object) -> None:
        """Nothing."""
