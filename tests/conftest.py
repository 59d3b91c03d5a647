"""Tests run on two virtual CPU devices, with shapes checked and silent broadcasting refused."""

import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")
# Most of the time goes into compiling small programs, so they are compiled fast rather than well.
FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST}"

# Programs with oneDNN could not be kept; tests/test_convolution.py has its own.
os.environ["UNETREP_ONEDNN"] = "0"

SLOW = ("test_scripts_analysis", "test_scripts_resume", "test_scripts", "test_stages", "test_models", "test_sampling")

import jax  # noqa: E402 (after the settings that it reads)
import pytest  # noqa: E402
import running  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
# Programs that several tests share are compiled once; each worker has a folder of its own, for JAX does not write atomically.
_programs = tempfile.TemporaryDirectory()
jax.config.update("jax_compilation_cache_dir", _programs.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

_hook = install_import_hook("unetrep_jax", "beartype.beartype")

from unetrep_jax import devices  # noqa: E402 (after the hook, so that it is checked too)

devices.start(cpu_devices=2)


@pytest.fixture(scope="module", autouse=True)
def _unrendered(request):
    """In tests of stages figures are made and not rendered; tests of figures render, and scripts in their own processes."""
    with pytest.MonkeyPatch.context() as patch:
        if request.path.name.startswith(("test_stages", "test_docs")):
            from unetrep_jax import figures

            patch.setattr(figures, "save", running.save_unrendered)
        yield


def pytest_collection_modifyitems(items):
    """The files that take longest come first, so that no worker begins one when the others are done."""
    items.sort(
        key=lambda item: next((n for n, start in enumerate(SLOW) if item.path.name.startswith(start)), len(SLOW))
    )
