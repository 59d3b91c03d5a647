"""Trust: files of strangers are data. Nothing in them is run, no name in them is a path, no text in them is markup."""

import ast
import functools
import hashlib
import http.server
import io
import json
import os
import random
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from faults import children, markup, same, strangers
from faults.attack import Absent, Attack, Missed, about, require, require_ended_well
from faults.scene import Scene
from faults.strangers import Planted, require_not_run

NEVER_RUN = "the planted object is never unpickled"
REMADE = "the planted object is never unpickled; what holds it is made again, bit for bit, and named where it has a checksum"
NO_CODE = "no module of the program unpickles, or runs text that it read"
ESCAPED = "in no page a name becomes markup, and none is a path"
VERIFIED = "what is not the file that it should be is removed and refused, and never gets its name"
BELIEVED = "nothing in one is run; no name in it is a path; decoded images alone go where its configuration says"
REPLIES = ("as it was", "another zip", "cut", "nothing", "a page")
DANGEROUS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}


def attacks(scene: Scene) -> Iterator[Attack]:
    """Objects in each array file that a command reads; names in folders of images; a source that sends something else."""
    yield Attack("the program's own code", NO_CODE, "every module", lambda chance: no_code(scene))
    for what in ("images", "labels"):
        yield Attack("objects in arrays given", NEVER_RUN, what, lambda chance, what=what: given(scene, what))
    for number in range(scene.many(4, 120)):
        act = lambda chance, number=number: plant(scene, number)  # noqa: E731
        yield Attack("objects in arrays kept", REMADE, f"array {number}", act)
    for number in range(scene.many(1, 6)):
        act = lambda chance: markup.names(scene, chance)  # noqa: E731
        yield Attack("names of classes and files", ESCAPED, f"folder {number}", act)
    for number in range(scene.many(1, 4)):
        act = lambda chance: markup.class_names(scene, chance)  # noqa: E731
        yield Attack("names of a data set's classes", ESCAPED, f"set {number}", act)
    for path in markup.RUNS:
        yield Attack("names of runs", ESCAPED, path, lambda chance, path=path: markup.run_name(scene, path))
    for reply in REPLIES:
        yield Attack("downloads", VERIFIED, reply, lambda chance, reply=reply: download(scene, reply, chance))
    for name in strangers.CASES:
        for number in range(scene.many(3, 20) if name == strangers.OBJECT else 1):
            act = lambda chance, name=name: strangers.checkpoint(scene, name, chance)  # noqa: E731
            yield Attack("checkpoints of strangers", BELIEVED, f"{name} {number}", act)


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


def given(scene: Scene, what: str) -> None:
    """As images or labels of a training."""
    path = scene.clear() / "planted.npy"
    np.save(path, np.array([Planted(scene.folder / "executed")] * 64, object))
    changed = {"images": {"data__train_path": path}, "labels": {"data__train_labels": path}}[what]
    result = scene.do(scene.training(**changed))
    require_not_run(scene, result)
    require(result.code == 2 and str(path) in result.err, f"not refused: {result.err[-600:]}")


def plant(scene: Scene, number: int) -> None:
    """In one of the arrays that an analysis left."""
    kept = sorted(scene.analysed().folder.rglob("analysis/**/*.np[yz]"))
    random.Random(scene.seed).shuffle(kept)
    if number >= len(kept):
        raise Absent("all arrays have been tried")
    path = kept[number].relative_to(scene.analysed().folder)
    with about(str(path)):
        planted(scene, path)


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
    for stage in scene.stages:  # what reads it is made anew; what it belongs to stays
        children.remove(analysis / stage / "section.json" if analysis / stage in target.parents else analysis / stage)
    opened = scene.folder / "opened"
    opened.write_bytes(b"")

    def watch() -> None:
        file = os.open(opened, os.O_WRONLY | os.O_APPEND)
        found = str(target)
        sys.addaudithook(lambda event, given: event == "open" and str(given[0]) == found and os.write(file, b"."))

    result = scene.do(scene.analysis(), watch)
    require_not_run(scene, result)
    if not opened.stat().st_size:
        raise Missed("nothing reads it again")
    require_ended_well(result)
    require(not covered or f"{target.name} holds something else" in result.err, f"made again in silence: {result.err!r}")
    same.require_same(same.analysis_content(scene.run), scene.analysed().content, "the analysis")


def fit_checksums(target: Path) -> bool:
    """Makes the checksums of the folders that a file lies in fit it; returns whether there are any."""
    from unetrep_jax import storage

    records = [folder / storage.COMPLETE for folder in target.parents[:2] if (folder / storage.COMPLETE).exists()]
    for record in records:
        written = json.loads(record.read_text())
        written["sha256"][str(target.relative_to(record.parent))] = storage.sha256(target)
        record.write_text(json.dumps(written))
    return bool(records)


def download(scene: Scene, reply: str, chance: random.Random) -> None:
    """A server on this machine, whose files' checksums count as those that TFDS knows, sends these or others."""
    scene.clear()
    served = children.fresh(scene.folder / "served")
    names = [write_zip(served, split, chance) for split in ("train", "validation")]
    checksums = {name: hashlib.sha256((served / name).read_bytes()).hexdigest() for name in names}
    wrong = served / chance.choice(names)
    right = wrong.read_bytes()
    if reply == "another zip":
        write_zip(served, "train" if "train" in wrong.name else "validation", chance)
    else:
        wrong.write_bytes({"as it was": right, "cut": right[:-1], "nothing": b"", "a page": b"<html>login</html>"}[reply])

    def prepare(address: str) -> str:
        from unetrep_jax.data import imagenet_resized
        from unetrep_jax.storage import InputError

        imagenet_resized._checksums = lambda _: checksums
        try:
            imagenet_resized.prepare("imagenet_resized/8x8", data_dir=str(scene.arena), url_prefix=address)
        except InputError as error:
            return str(error)
        return ""

    handler = functools.partial(QuietHandler, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            refused = children.call(lambda: prepare(f"http://127.0.0.1:{server.server_port}"))
        finally:
            server.shutdown()
            thread.join()
    prepared = [path.name for path in scene.arena.rglob("*array_record*")]
    if reply == "as it was":
        require(not refused and prepared, f"refused: {refused}")
        return
    require("cannot be used" in refused and wrong.name in refused, f"not refused: {refused}")
    require(not prepared, f"prepared: {prepared}")
    left = {path.name for path in (scene.arena / "downloads" / "imagenet_resized").iterdir()} - (set(names) - {wrong.name})
    require(not left, f"left: {left}")


def write_zip(folder: Path, split: str, chance: random.Random) -> str:
    """A zip with two images, in the form of imagenet_resized/8x8; returns its name."""
    from unetrep_jax.data import imagenet_resized

    [name] = imagenet_resized.zip_names(8)[split]
    content = io.BytesIO()
    pixels = np.frombuffer(chance.randbytes(2 * 192), np.uint8).reshape(2, 192)
    np.savez(content, data=pixels, labels=np.array([1, 2]), mean=np.zeros(3))
    with zipfile.ZipFile(folder / name, "w") as archive:
        archive.writestr(f"{split}_data_batch_1.npz", content.getvalue())
    return name


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files and prints nothing."""

    def log_message(self, *_: object) -> None:
        """Nothing."""
