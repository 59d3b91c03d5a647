"""Tests run on two virtual CPU devices, with shapes checked and silent broadcasting refused."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")

_hook = install_import_hook("unetrep_jax", "beartype.beartype")
