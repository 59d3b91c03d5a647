"""The published checkpoints open without their training data, are intact, and denoise."""

import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import jax.random
import numpy as np
import pytest

from unetrep_jax import checkpoints, data, measures, noise, storage

ROOT = Path(__file__).parents[1]
MODELS = sorted(path for path in (ROOT / "pretrained").iterdir() if path.is_dir())


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
def test_a_model_is_whole_and_small_and_names_no_machine(model):
    storage.verify_manifest(model)
    opened = checkpoints.open_checkpoint(model)
    published = max(opened.config["model"]["channels"]) >= 512
    assert sum(path.stat().st_size for path in model.rglob("*") if path.is_file()) <= (30 if published else 15) * 10**6
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(opened.params)} == {"float32"}
    assert not [value for value in opened.config["data"].values() if str(value).startswith("/")]


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
def test_a_model_denoises_photographs_that_it_never_saw(model, tmp_path):
    denoiser = checkpoints.load_denoiser(model)
    images = data.open_images("photographs", image_size=64, image_channels=3, cache_dir=str(tmp_path), crops=16).images
    clean = noise.to_unit(np.asarray(images))
    noisy = noise.add_noise(noise.image_keys(jax.random.key(0), jnp.arange(16)), clean, 50 / 255)
    gain = noise.psnr(denoiser.denoise(noisy), clean).mean() - noise.psnr(noisy, clean).mean()
    assert gain > 9  # dB
    phi = denoiser.represent(noisy)
    ratio = measures.participation_ratio(phi)
    assert ((ratio > 1 / phi.shape[1]) & (ratio < 1)).all()


def test_analyze_opens_the_reference_model_and_where_its_images_are_not_the_bundled_photographs(tmp_path):
    settings = {"images": 16, "clusters": (3,)}
    command = ["analyze.py", "--outdir", tmp_path / "out", "--only", "architecture"]
    command += [f"--config.analysis.{key}={value}" for key, value in settings.items()]
    command += [f"--config.data.{key}={tmp_path}" for key in ("cache_dir", "data_dir")]
    command += ["--config.devices.compilation_cache="]
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "will not be those of docs/results.md" in done.stderr
    assert {path.name for path in (tmp_path / "out" / "figures").iterdir()} == {"architecture.png", "architecture.pdf"}
    assert "photo24" in (tmp_path / "out" / "report.html").read_text()
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["architecture"]["phi"] == 192
