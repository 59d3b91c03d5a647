"""Imports point one way: the table of rooms, who may use whom, and who alone may use which library."""

import ast
import builtins
import dis
import inspect
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "unetrep_jax"
SCRIPTS = ("train", "analyze")

# Room -> rooms that it may import. All may import storage.
MAY_IMPORT = {
    "storage": set(),
    "denoiser": set(),
    "winograd": set(),
    "convolution": {"winograd"},
    "models": {"convolution"},
    "data": set(),
    "programs": set(),
    "devices": {"programs"},
    "noise": set(),
    "baselines": set(),
    "measures": set(),
    "figures": set(),
    "explorer": set(),
    "clusters": {"measures"},
    "selectivity": {"measures"},
    "stimuli": {"selectivity"},
    "subspaces": {"measures"},
    "probes": set(),
    "densities": {"denoiser", "reconstruction", "sampling"},
    "neighbours": set(),
    "sampling": {"denoiser"},
    "reconstruction": {"denoiser", "sampling"},
    "training": {"noise"},
    "middle": {"denoiser", "devices", "training"},
    "checkpoints": {"models", "denoiser"},
    "representation": {"denoiser", "devices", "noise"},
    "report": {"figures"},
    "markdown": {"report"},
    "logs": set(),
    "endings": {"devices"},
    "stages": {
        "baselines", "clusters", "data", "denoiser", "densities", "devices", "explorer", "figures", "markdown", "measures",
        "middle", "neighbours", "noise", "probes", "reconstruction", "report", "representation", "sampling", "selectivity",
        "stimuli", "subspaces", "training",
    },
}  # fmt: skip
# Library -> the only rooms and scripts that may import it.
ONLY_IN = {
    "orbax": {"checkpoints"},
    "matplotlib": {"figures"},
    "ml_collections": {"configs"},
    "tensorflow_datasets": {"data"},
    "grain": {"data"},
    "tensorboardX": {"logs"},
}


def rooms():
    """(room or script, file) for every Python file that is guarded."""
    root = PACKAGE.parent
    files = [(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path) for path in PACKAGE.rglob("*.py")]
    files += [(name, root / f"{name}.py") for name in SCRIPTS]
    return [*files, *(("configs", path) for path in (root / "configs").glob("*.py"))]


def imports(path):
    """Dotted names of all that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_module_has_a_row_in_the_table():
    found = {room for room, path in rooms() if PACKAGE in path.parents} - {"__init__"}
    assert found == set(MAY_IMPORT)


@pytest.mark.parametrize(("room", "path"), rooms(), ids=lambda value: getattr(value, "name", value))
def test_a_room_imports_only_what_it_may(room, path):
    used = {name.split(".")[1] for name in imports(path) if name.startswith("unetrep_jax.")}
    allowed = set(MAY_IMPORT) if room in SCRIPTS else MAY_IMPORT.get(room, set()) | {"storage", room}
    assert used <= allowed


@pytest.mark.parametrize(("room", "path"), rooms(), ids=lambda value: getattr(value, "name", value))
def test_libraries_stay_in_their_rooms(room, path):
    for name in imports(path):
        assert room in ONLY_IN.get(name.split(".")[0], {room}), f"{path} imports {name}"


def test_pmap_is_called_in_devices_alone():
    users = {room for room, path in rooms() if "pmap(" in path.read_text()}
    assert users == {"devices"}


def test_the_package_never_imports_configurations_tests_or_benchmarks():
    for room, path in rooms():
        if room in MAY_IMPORT:
            assert not {name.split(".")[0] for name in imports(path)} & {"configs", "tests", "benchmarks", *SCRIPTS}


def loads(code):
    """Global names that a code object and those inside it read."""
    yield from (step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    for constant in code.co_consts:
        if inspect.iscode(constant):
            yield from loads(constant)


@pytest.mark.parametrize("path", sorted(path for _, path in rooms()), ids=lambda path: path.name)
def test_every_name_that_a_file_uses_is_defined(path):
    # The linter cannot tell: it takes the shapes in annotations for names.
    code = compile("from __future__ import annotations\n" + path.read_text(), path, "exec", dont_inherit=True)
    stored = {step.argval for step in dis.get_instructions(code) if step.opname == "STORE_NAME"}
    inner = {name for constant in code.co_consts if inspect.iscode(constant) for name in stored_in(constant)}
    known = (
        stored
        | inner
        | set(dir(builtins))
        | {"__file__", "__name__", "__doc__", "__module__", "__qualname__", "__annotations__"}
    )
    assert set(loads(code)) <= known


def stored_in(code):
    """Names that the bodies of classes define."""
    yield from (step.argval for step in dis.get_instructions(code) if step.opname == "STORE_NAME")
