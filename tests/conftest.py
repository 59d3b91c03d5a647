"""Tests run on two virtual CPU devices, with shapes checked and silent broadcasting refused."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_rank_promotion", "raise")

_hook = install_import_hook("unetrep_jax", "beartype.beartype")

from unetrep_jax import devices  # noqa: E402 (after the hook, so that it is checked too)

devices.start(cpu_devices=2)
