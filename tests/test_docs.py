"""The examples of docs/ run as they are printed."""

import re
from pathlib import Path

import jax
import pytest

from unetrep_jax import stages

DOCS = Path(__file__).parents[1] / "docs"
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
    """What the page's programs define, and the arguments with which they call `stages.analyse`."""
    calls, names, analyse = [], {}, stages.analyse
    stages.analyse = lambda *arguments, **named: calls.append((arguments, named))
    try:
        for program in re.findall(r"```python\n(.*?)```", (DOCS / "any_denoiser.md").read_text(), re.DOTALL):
            exec(program, names)
    finally:
        stages.analyse = analyse
    return names, *calls


@pytest.mark.parametrize("denoiser", ["shrinkage", "network"])
def test_a_denoiser_that_is_not_ours_is_analysed(example, tmp_path, denoiser):
    names, (arguments, named) = example
    trained, untrained, images, _ = arguments
    if denoiser == "network":
        trained, untrained = (names["network"](names["initial"](jax.random.key(seed))) for seed in (0, 1))
    images = images._replace(images=images.images[:20], labels=None, fingerprint="20 crops")
    settings = stages.changed(named["settings"], **FEW)
    report = stages.analyse(
        trained, untrained, images, tmp_path, settings=settings, name=named["name"], only=["sparsity", "robustness"]
    )
    assert report.exists() and "Sparsity" in report.read_text()
