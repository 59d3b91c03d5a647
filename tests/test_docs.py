"""The examples of the README and of docs/ run as they are printed."""

import re
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from test_stages import WEIGHTS, colour_denoiser, image_set, small_settings

from unetrep_jax import stages, storage

PAGE = (Path(__file__).parents[1] / "docs" / "any_denoiser.md").read_text()
PROGRAMS = dict(zip(("shrinkage", "network"), re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL), strict=True))
README = (Path(__file__).parents[1] / "README.md").read_text()
FEW = {
    "draws": 1,
    "clusters": (3,),
    "cluster_seeds": 2,
    "cluster_runs": 1,
    "samples": 2,
    "sample_h0": 0.5,
    "untrained_images": 16,
}


@pytest.fixture(scope="module")
def example():
    """Name of a program -> the arguments with which it calls `stages.analyse`, after two steps of training in place of 2,000."""

    def run(program):
        calls, analyse = [], stages.analyse
        stages.analyse = lambda *arguments, **named: calls.append((arguments, named))
        try:
            exec(program.replace("2000)", "2)"), {})
        finally:
            stages.analyse = analyse
        return calls[0]

    return {name: run(program) for name, program in PROGRAMS.items()}


@pytest.mark.parametrize("denoiser", PROGRAMS)
def test_a_denoiser_that_is_not_ours_is_analysed_by_the_program_as_it_stands(example, tmp_path, denoiser):
    (trained, untrained, images, _), named = example[denoiser]
    images = images._replace(images=images.images[:20], labels=None, fingerprint="20 crops")
    named = named | {"settings": stages.changed(named["settings"], **FEW), "only": ["sparsity", "robustness"]}
    report = stages.analyse(trained, untrained, images, tmp_path, **named)
    assert report.exists() and "Sparsity" in report.read_text()


@pytest.mark.parametrize("denoiser", PROGRAMS)
def test_the_page_counts_the_lines_of_its_programs(denoiser):
    lines = [line for line in PROGRAMS[denoiser].splitlines() if line.strip()]
    before = PAGE[: PAGE.index(PROGRAMS[denoiser])]
    assert int(re.findall(r"(\d+) lines that are not\s+blank", before)[-1]) == len(lines)


def test_the_networks_twin_meets_its_own_opposite_edges(example):
    (trained, _, images, _), named = example["network"]
    clean = jnp.float32(images.images[:1]) / 255
    moved = jnp.roll(clean, (5, 9), (1, 2))
    zero, circular = (
        abs(denoiser.represent(moved) - denoiser.represent(clean)).max() for denoiser in (trained, named["circular"])
    )
    assert circular < 1e-5 < 1e-3 < zero


def test_every_stage_accepts_a_denoiser_that_is_a_formula(tmp_path):
    """No stage is left out, which `analyse` would raise; what one has nothing to say of, its section says."""
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        report = stages.analyse(
            colour_denoiser(WEIGHTS),
            colour_denoiser(-WEIGHTS),
            image_set(),
            tmp_path,
            settings=small_settings(selectivity_simulations=5, embedding_reconstructed_pairs=0, cluster_runs=1),
            name="halves the image",
            circular=colour_denoiser(WEIGHTS),  # pixel by pixel, so there is nothing to pad
            training_images=image_set(seed=1),
        )
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
    found = storage.read_json(tmp_path / "summary.json")
    assert not found["left_out"]
    assert set(found) - {"facts", "settings", "claims", "left_out"} == set(stages.STAGES) - {
        "representations",
        "untrained",
        "explorer",
    }
    assert (tmp_path / "explorer" / "index.html").exists()
    assert found["location"]["shifts"]["blocks"]["circular"]["mid"]["largest"] < 1e-5
    page = report.read_text()
    assert "No checkpoints along the training are at hand" in page and "no twin with circular padding" not in page


def test_the_readmes_program_reconstructs(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    less = {"[:4]": "[:1]", "), 4)": "), 1)", "matching_steps=30": "matching_steps=1"}
    less |= {"(1.0, 0.5, 0.25, 0.12, 0.06, 0.03)": "(0.5,)"}
    for printed, here in less.items():
        assert printed in program
        program = program.replace(printed, here)
    exec(textwrap.dedent(program), names := {})
    assert names["result"].images.shape == (1, 64, 64, 3) and jnp.isfinite(names["result"].images).all()
