"""The sweep over images, noise levels and draws, and participation ratios of every block (figure 1)."""

from pathlib import Path
from typing import Any

import numpy as np

from unetrep_jax import figures, measures, report, representation
from unetrep_jax.stages.context import NETWORKS, Arrays, Context, averages, layout_of, picture, write_stage
from unetrep_jax.stages.verdicts import part
from unetrep_jax.stages.wording import number, quartiles_of, quartiles_text, unknown


def run_representations(context: Context, folder: Path, key: str) -> None:
    """The sweep over images, noise levels and draws."""
    sweep(context, context.denoiser, context.images.images, folder, key, "representations")


def run_untrained(context: Context, folder: Path, key: str) -> None:
    """The same sweep for the network with random initial parameters."""
    sweep(
        context, context.untrained(), context.images.images[context.untrained_subset], folder, key, "untrained network"
    )


def sweep(context: Context, denoiser: Any, images: np.ndarray, folder: Path, key: str, label: str) -> None:
    """Streams channel averages of images to a folder."""
    settings = context.settings
    representation.sweep(
        denoiser,
        images,
        folder,
        key,
        sigmas=tuple(context.sigmas.tolist()),
        draws=settings.draws,
        batch_size=settings.batch_size,
        seed=settings.seed,
        label=label,
    )


# Modes of the histograms on the authors' slide (+-0.02), by the paper's blocks: encoders 2 and 3, middle, decoders 3 and 2.
PUBLISHED_OUTPUT_RATIO = {"encoder1": 0.63, "encoder2": 0.76, "mid": 0.25, "decoder2": 0.48, "decoder1": 0.25}


def run_sparsity(context: Context, folder: Path, key: str) -> None:
    """Participation ratios [n, levels, blocks] of both networks, and their quartiles at the working level."""
    columns = layout_of(context)
    arrays = {name: ratios(averages(context, stage), columns) for name, stage in NETWORKS.items()}
    first, end = columns.columns["mid"]
    summary: dict = {"sigma_times_255": context.settings.sigma, "draws": context.settings.draws}
    for name, values in arrays.items():
        at_level = values[:, context.working]
        summary[f"{name}_images"] = len(at_level)
        summary[name] = {block: quartiles_of(at_level[:, k]) for k, block in enumerate(columns.columns)}
    summary["effective_channels_of_phi"] = {name: summary[name]["mid"]["median"] * (end - first) for name in arrays}
    write_stage(folder, key, arrays, summary)


def ratios(values: np.ndarray, columns: representation.Layout) -> np.ndarray:
    """Channel averages [n, levels, K] -> participation ratios [n, levels, blocks], level by level: [n, K] in memory at once."""
    by_level = []
    for level in range(values.shape[1]):
        at_level = np.asarray(values[:, level])
        by_level.append(
            [np.asarray(measures.participation_ratio(columns.of(at_level, block))) for block in columns.columns]
        )
    return np.asarray(by_level, np.float32).transpose(2, 0, 1)


def section_sparsity(context: Context, arrays: Arrays, summary: dict) -> Any:
    """Figure 1, its table, and the ratio against the noise level."""
    blocks = list(layout_of(context).columns)
    inputs = representation.block_inputs(context.denoiser)

    def ends(name):
        at_level = arrays[name][:, context.working]
        return {b: (at_level[:, blocks.index(source)], at_level[:, blocks.index(b)]) for b, source in inputs.items()}

    def medians(name):
        return {b: tuple(summary[name][end]["median"] for end in (source, b)) for b, source in inputs.items()}

    def by_noise(name):
        return {b: measures.quartiles(arrays[name][:, :, blocks.index(b)]).T for b in inputs}

    level = f"σ = {context.settings.sigma:.0f}/255, {context.settings.draws} noise draws"
    histograms = figures.participation_ratio_histograms(
        *(ends(name) for name in NETWORKS),
        *(medians(name) for name in NETWORKS),
        levels_text=f"{level}, {summary['trained_images']:,} images",
    )
    effective = {
        name: number(summary["effective_channels_of_phi"][name], 0) or "an unknown number of" for name in NETWORKS
    }
    rows = [
        (
            block,
            *(quartiles_text(summary[name][b]) for name in ("trained", "untrained") for b in (source, block)),
            f"{PUBLISHED_OUTPUT_RATIO[block]:.2f}" if block in PUBLISHED_OUTPUT_RATIO else None,
        )
        for block, source in inputs.items()
    ]
    header = (
        "block",
        "input, trained",
        "output, trained",
        "input, untrained",
        "output, untrained",
        "output, published",
    )
    return report.Section(
        "Sparsity: participation ratio",
        [
            "The participation ratio is the fraction of a block's channels that carry its channel averages: phi has "
            f"{effective['trained']} effective channels here, that of the untrained network {effective['untrained']}. The "
            "published network's ratio rises through the encoders and falls in the middle block and the decoders."
        ],
        [
            report.Table(
                f"Median (quartiles) over images of the participation ratio at {level}. The untrained network has the "
                f"same shape and random initial weights ({summary['untrained_images']:,} images). Published: histogram modes read "
                "off the authors' slide for the full network on ImageNet, noise level not stated.",
                header,
                rows,
            )
        ],
        [
            picture(
                context,
                histograms,
                "participation_ratio",
                "Participation ratio of each block's input and output over images (figure 1).",
            ),
            picture(
                context,
                figures.participation_ratio_by_noise(context.sigmas, by_noise("trained"), by_noise("untrained")),
                "participation_ratio_by_noise",
                "Participation ratio of each block's output against the noise level.",
            ),
        ],
        sparsity_claims(inputs, summary),
    )


def sparsity_claims(inputs: dict[str, str], summary: dict) -> list[report.Claim]:
    """What the paper says of the ratios (figure 1; its numbers are read off the authors' slide)."""
    encoders = [block for block in inputs if block.startswith("encoder")]
    decoders = [block for block in inputs if block.startswith("decoder")]
    chains = {
        ("The participation ratio rises through the encoders.", "0.40 → 0.63 → 0.76"): (
            [[inputs[encoders[0]], *encoders]] if encoders else [],
            np.less,
        ),
        ("It falls in the middle block: phi is sparse.", "0.76 → 0.25"): ([[inputs["mid"], "mid"]], np.greater),
        ("It falls in the decoders.", "0.76 → 0.48, 0.63 → 0.25"): ([[inputs[b], b] for b in decoders], np.greater),
    }
    return [
        report.Claim(
            claim,
            published,
            medians_text(summary["trained"], blocks),
            f"{medians_text(summary['untrained'], blocks)} (untrained)",
            report.verdict(part(*(ordered(summary[name], blocks, order) for name in NETWORKS))),
        )
        for (claim, published), (blocks, order) in chains.items()
        if blocks
    ]


def medians_text(ratios: dict, chains: list[list[str]]) -> str:
    """Medians block by block, as 0.40 → 0.63; a dash where all images are zero."""
    return ", ".join(" → ".join(number(ratios[block]["median"]) or "–" for block in chain) for chain in chains)


def ordered(ratios: dict, chains: list[list[str]], order: Any) -> bool | None:
    """Whether the medians of each chain of blocks follow the order; None where one is missing."""
    medians = [[ratios[block]["median"] for block in chain] for chain in chains]
    if any(unknown(median) for chain in medians for median in chain):
        return None
    return all(order(chain[:-1], chain[1:]).all() for chain in medians)
