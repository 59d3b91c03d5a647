"""Trust: files of strangers are data. Nothing in them is run, no name in them is a path, no text in them is markup."""

import ast
import functools
import hashlib
import http.server
import io
import json
import os
import pickle
import random
import signal
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from faults import children, markup, same, strangers
from faults.attack import Absent, Attack, Missed, about, require, require_ended_well, require_one_line
from faults.preparation import Preparation
from faults.scene import Scene
from faults.strangers import Planted, require_not_run

NEVER_RUN = "the planted object is never unpickled"
REMADE = "the planted object is never unpickled; what holds it is made again, bit for bit, and named where it has a checksum"
NO_CODE = "no module of the program unpickles, or runs text that it read"
ESCAPED = "in no page a name becomes markup, and none is a path"
VERIFIED = "what is not the file that it should be is removed and refused, and never gets its name"
INSIDE = "whatever part of a run is a symbolic link, nothing that lies elsewhere is written, cut or removed"
BELIEVED = "nothing in one is run; no name in it is a path; decoded images alone go where its configuration says"
REPLIES = ("as it was", "another zip", "cut", "nothing", "a page")
LONG = 120  # attacks on an analysis's arrays, of which there must be no more
# Setting or argument -> whether training reads it.
GIVEN = {
    "data.train_path": True, "data.train_labels": True, "data.validation_path": True, "data.validation_labels": True,
    "--images": False, "--config.data.validation_labels": False,
}  # fmt: skip
FORMS = ("an array of objects", "a pickle")
ASSEMBLED = r"/\.folder-[^/]*\.partial$"  # is made when all images are decoded, and about to get their place
# Where an object is planted of decoded images -> the name of the folder, and that of the array.
DECODED = {
    "labels": ("folder-*", "labels.npy"),
    "half-made status": (".folder-*.records", "status.npy"),
    "images": ("folder-*", "images.npy"),
    "half-made labels": (".folder-*.records", "labels.npy"),
    "half-made images": (".folder-*.records", "images.npy"),
}
STATES = (("drawn", "samples"), ("reconstructed", "reconstructions"))  # folders of an analysis that are made with states of batches
SAVED = r"\.state\.npz\.partial$"  # would be removed, had it not just got its place
# What unpickles, or runs text, by any of its names; and the one place that may: a configuration file is a Python program.
DANGEROUS = {
    "pickle", "_pickle", "cPickle", "pickletools", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "jsonpickle",
    "copyreg", "runpy", "code", "codeop", "subprocess",
}  # fmt: skip
CALLS = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {
    "import_module", "__import__", "exec_module", "load_module", "spec_from_file_location", "read_pickle", "unsafe_load",
    "full_load", "system", "popen", "load_source",
}  # fmt: skip
LOADERS = {"load": 2, "read_array": 1}  # numpy's function -> the place at which it takes whether to unpickle
BY_DESIGN = {"configs/__init__.py": {"exec_module", "spec_from_file_location"}}
# Each must be found, or the attack itself proves nothing.
SLIPS = (
    "import joblib.numpy_pickle", "from pickle import loads", "import cloudpickle as c", "from sklearn.externals import joblib",
    "import importlib\nimportlib.import_module(name)", "from importlib import import_module", "__import__(name)", "e = eval",
    "import builtins\nbuiltins.exec(text)", "np.load(path, None, True)", "np.load(path, allow_pickle=allowed)",
    "np.load(path, **how)", "np.load(*how)", "l = np.load", "from numpy import load", "np.lib.format.read_array(file, True)",
    "np.lib.format.pickle.loads(text)", "getattr(np, 'load')", "getattr(np, name)(path)", "sys.modules['pickle'].loads(text)",
    "yaml.load(file)", "pandas.read_pickle(path)", "os.system(text)", "spec.loader.exec_module(module)",
    "np.lib.npyio.NpzFile(path, allow_pickle=True)",
)  # fmt: skip


def attacks(scene: Scene) -> Iterator[Attack]:
    """Objects in each array file that a command reads; names in folders of images; a source that sends something else."""
    yield Attack("the program's own code", NO_CODE, "every module", lambda chance: no_code(scene))
    for number, (what, form) in enumerate((what, form) for what in GIVEN for form in FORMS):
        if scene.long or number % 4 in (0, 3):
            act = lambda chance, what=what, form=form: given(scene, what, form)  # noqa: E731
            yield Attack("objects in arrays given", NEVER_RUN, f"{form} as {what}", act)
    for number in range(scene.many(4, LONG)):
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
    for name in list(DECODED)[: scene.many(2, len(DECODED))]:
        act = lambda chance, name=name: plant_decoded(scene, *DECODED[name])  # noqa: E731
        yield Attack("objects in decoded images", REMADE, name, act)
    for folders in STATES[: scene.many(1, 2)]:
        act = lambda chance, folders=folders: plant_state(scene, folders)  # noqa: E731
        yield Attack("objects in states of batches", REMADE, folders[0], act)
    for what, names in strangers.LINKS.items():
        if "half-made" in what and not scene.long:
            continue
        yield Attack("links in runs of strangers", INSIDE, what, lambda chance, w=what, n=names: strangers.linked(scene, w, n))
        for name in names if scene.long and len(names) > 1 else ():
            act = lambda chance, w=what, n=name: strangers.linked(scene, w, (n,))  # noqa: E731
            yield Attack("links in runs of strangers", INSIDE, f"{what}: {name}", act)


def no_code(scene: Scene) -> None:
    """Read as text: which modules are imported, which functions called, under whatever name."""
    for text in SLIPS:
        require(dangers(ast.parse(text)) != set(), f"the attack itself sees nothing in {text!r}")
    packages = [path for folder in ("unetrep_jax", "configs") for path in (children.ROOT / folder).rglob("*.py")]
    for path in [*packages, children.ROOT / "train.py", children.ROOT / "analyze.py"]:
        name = str(path.relative_to(children.ROOT))
        found = dangers(ast.parse(path.read_text())) - BY_DESIGN.get(name, set())
        require(not found, f"{name} has {', '.join(sorted(found))}")


def dangers(tree: ast.AST) -> set[str]:
    """What in a program may unpickle something or run text."""
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return {found for node in ast.walk(tree) for found in dangers_of(node, id(node) in called)}


def dangers_of(node: ast.AST, is_called: bool) -> Iterator[str]:
    """What in a single node may; a function that is called is judged with its arguments."""
    match node:
        case ast.Import(names=names):
            yield from {part for alias in names for part in alias.name.split(".")} & DANGEROUS
        case ast.ImportFrom(module=module, names=names):
            parts = {part for text in (module or "", *(alias.name for alias in names)) for part in text.split(".")}
            yield from parts & (DANGEROUS | CALLS | ATTRIBUTES)
            yield from parts & LOADERS.keys() if (module or "").startswith("numpy") else ()
        case ast.Name(id=name) if name in CALLS | DANGEROUS - {"code"}:
            yield name
        case ast.Attribute(attr=name, value=owner):
            yield from {name} & (DANGEROUS - {"code"} | ATTRIBUTES)
            yield from {name} & CALLS if isinstance(owner, ast.Name) and owner.id in ("builtins", "__builtins__") else ()
            yield from {f"{name} under another name"} if name in LOADERS and is_numpy(owner) and not is_called else ()
        case ast.Constant(value=str(text)) if text in DANGEROUS - {"code"}:
            yield f"the name {text!r}"
        case ast.keyword(arg="allow_pickle", value=value) if getattr(value, "value", None) is not False:
            yield "allow_pickle"
        case ast.Call(func=ast.Name(id="getattr"), args=[owner, *_]) if is_numpy(owner):
            yield "a function of numpy by its name"
        case ast.Call(func=ast.Attribute(attr=name, value=owner), args=args, keywords=named) if name in LOADERS and is_numpy(owner):
            is_open = any(isinstance(one, ast.Starred) for one in args) or any(one.arg is None for one in named)
            yield from {f"{name} with more arguments than can be read"} if is_open or len(args) > LOADERS[name] else ()


def is_numpy(node: ast.AST) -> bool:
    """Whether an expression is numpy, JAX's or one of its modules."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id in ("np", "numpy", "jnp", "onp")


def given(scene: Scene, what: str, form: str) -> None:
    """As images or labels of a training or an analysis."""
    trains = GIVEN[what]
    scene.clear() if trains else scene.lay_trained()
    path, sign = scene.arena / "planted.npy", Planted(scene.folder / "executed")
    path.write_bytes(pickle.dumps(sign) if form == "a pickle" else array_of(sign, 64))
    if trains:
        result = scene.do(scene.training(**{what.replace(".", "__"): path}))
    else:
        arguments = ["--images", path] if what == "--images" else [f"{what}={path}"]
        result = scene.do(scene.place.analysis(scene.run, "--only", "sparsity", *arguments))
    require_not_run(scene, result)
    require_one_line(result, "train.py" if trains else "analyze.py", str(path))


def array_of(sign: Planted, count: int = 1) -> bytes:
    """A .npy file of so many planted objects."""
    content = io.BytesIO()
    np.save(content, np.array([sign] * count, object))
    return content.getvalue()


def plant_in(target: Path, sign: Planted) -> None:
    """In the place of every array of a file."""
    if target.suffix == ".npz":
        with np.load(target) as arrays:
            names = arrays.files
        if not names:
            raise Absent("there is no array in it")
        content = io.BytesIO()
        np.savez(content, **dict.fromkeys(names, np.array([sign], object)))
        target.write_bytes(content.getvalue())
    else:
        target.write_bytes(array_of(sign))


def plant(scene: Scene, number: int) -> None:
    """In one of the arrays that an analysis left."""
    kept = sorted(scene.analysed().folder.rglob("analysis/**/*.np[yz]"))
    random.Random(scene.seed).shuffle(kept)
    if number >= len(kept):
        raise Absent("all arrays have been tried")
    require(not scene.long or len(kept) <= LONG, f"{len(kept)} arrays are more than there are attacks")
    path = kept[number].relative_to(scene.analysed().folder)
    with about(str(path)):
        planted(scene, path)


def planted(scene: Scene, path: Path) -> None:
    """In the place of an array of an analysis, with checksums that fit, as in a folder that a stranger sent."""
    scene.lay(scene.analysed())
    target = scene.arena / path
    plant_in(target, Planted(scene.folder / "executed"))
    covered = fit_checksums(target)
    analysis = scene.run / "analysis"
    for stage in scene.stages:  # what reads it is made anew; what it belongs to stays
        children.remove(analysis / stage / "section.json" if analysis / stage in target.parents else analysis / stage)
    result = read_again(scene, [target], lambda watch: scene.do(scene.analysis(), watch))
    require(not covered or f"{target.name} holds something else" in result.err, f"made again in silence: {result.err!r}")
    same.require_same(same.analysis_content(scene.run), scene.analysed().content, "the analysis")


def read_again(scene: Scene, targets: list[Path], run: Callable[[Callable[[], Any]], children.Result]) -> children.Result:
    """A command that opens one of the planted files ends well, and runs nothing of it."""
    opened = scene.folder / "opened"
    opened.write_bytes(b"")

    def watch() -> None:
        file = os.open(opened, os.O_WRONLY | os.O_APPEND)
        found = set(map(str, targets))
        sys.addaudithook(lambda event, given: event == "open" and str(given[0]) in found and os.write(file, b"."))

    result = run(watch)
    require_not_run(scene, result)
    if not opened.stat().st_size:
        raise Missed("nothing reads it again")
    require_ended_well(result)
    return result


def plant_decoded(scene: Scene, folder: str, name: str) -> None:
    """In a cache of decoded images, or in the rows that a process left which was killed when all were decoded."""
    preparation = Preparation(scene)
    expected = preparation.reference().content
    if folder.startswith("."):
        scene.clear()
        if preparation.start(children.kill_at_name("os.mkdir", ASSEMBLED)).wait().code != -signal.SIGKILL:
            raise Missed("it had ended before")
    [target] = scene.arena.glob(f"{folder}/{name}")
    plant_in(target, Planted(scene.folder / "executed"))
    require(fit_checksums(target), "the attack itself: no checksums")
    result = read_again(scene, [target], lambda watch: preparation.start(watch).wait())
    require(f"{name} holds something else" in result.err, f"made again in silence: {result.err!r}")
    same.require_same(same.folder_content(scene.arena), expected, "the decoded images")


def plant_state(scene: Scene, folders: tuple[str, ...]) -> None:
    """In the state of a batch that a killed analysis was at; of the rest all is there."""
    reference = scene.analysed()
    scene.lay(reference)
    for folder in folders:
        children.remove(scene.run / "analysis" / folder)
    killed = scene.do(scene.analysis(), children.kill_at_name("os.remove", SAVED, position=2))
    targets = [path for path in (scene.run / "analysis").rglob(".*.state.npz") if not path.name.startswith("..")]
    if killed.code != -signal.SIGKILL or not targets:
        raise Missed("no state was there")
    for target in targets:
        plant_in(target, Planted(scene.folder / "executed"))
    read_again(scene, targets, lambda watch: scene.do(scene.analysis(), watch))
    same.require_same(same.analysis_content(scene.run), reference.content, "the analysis")
    same.require_tidy(scene.arena)


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
