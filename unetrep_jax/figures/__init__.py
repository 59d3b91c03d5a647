"""Figures: arrays in, a matplotlib `Figure` out, in one style; nothing is computed that is not needed to draw.

Every function takes finished numbers and returns a `Figure` that belongs to nobody: no pyplot, no window, no global
state. `save` writes it as PNG and PDF with the same bytes every time. A NaN is a value that is not there: it is left
out, and a panel with nothing else says "no data". Noise levels are given in intensity units (images in [0, 1]) and
drawn as 255 sigma, which is how the denoising literature quotes them.

"The paper" is Kadkhodaie, Mallat & Simoncelli 2025 (arXiv 2506.01912).
"""

from unetrep_jax.figures.curves import curves, denoising_curve, training_curves
from unetrep_jax.figures.images import cluster_grid, denoising_strip, image_rows
from unetrep_jax.figures.separation import separation_histograms, separation_scatter
from unetrep_jax.figures.sparsity import participation_ratio_by_noise, participation_ratio_histograms
from unetrep_jax.figures.style import FORMATS, save

__all__ = [
    "FORMATS",
    "cluster_grid",
    "curves",
    "denoising_curve",
    "denoising_strip",
    "image_rows",
    "participation_ratio_by_noise",
    "participation_ratio_histograms",
    "save",
    "separation_histograms",
    "separation_scatter",
    "training_curves",
]
