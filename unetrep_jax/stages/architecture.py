"""The network as its own shapes tell it (figure 9)."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unetrep_jax import report
from unetrep_jax.denoiser import Denoiser
from unetrep_jax.figures import architecture as figures
from unetrep_jax.stages.context import Arrays, Context, picture, write_stage

READ_FROM = "mid"  # by the contract of `Denoiser`, phi is the last layer of this block
# Layers x channels of the published network.
PUBLISHED = {
    "encoder0": "2 × 64",
    "encoder1": "2 × 128",
    "encoder2": "2 × 256",
    "mid": "3 × 512",
    "decoder2": "6 × 256",
    "decoder1": "6 × 128",
    "decoder0": "6 × 64",
}


def run_architecture(context: Context, folder: Path, key: str) -> None:
    """Shapes of all layers, and the share of the activations in each block; nothing is computed but shapes."""
    image = context.images.images.shape[1:]
    shapes = layer_shapes(context.denoiser, image)
    arrays: Arrays = {name: np.array(layers, np.int64).reshape(-1, 3) for name, layers in shapes.items()}
    values = {name: int(layers.prod(1).sum()) for name, layers in arrays.items()}
    total = max(1, sum(values.values()))
    phi = jax.eval_shape(context.denoiser.represent, jax.ShapeDtypeStruct((1, *image), jnp.float32))
    summary = {
        "image": list(image),
        "phi": phi.shape[-1],
        "activations": sum(values.values()),
        "blocks": {
            name: {
                "layers": len(layers),
                "last": layers[-1].tolist() if len(layers) else None,
                "share": values[name] / total,
            }
            for name, layers in arrays.items()
        },
    }
    write_stage(folder, key, arrays, summary)


def layer_shapes(denoiser: Denoiser, image: tuple[int, ...]) -> dict[str, list[tuple[int, ...]]]:
    """Block name -> (height, width, channels) of each layer's activations, blocks and layers in the order in which they run."""
    shapes = jax.eval_shape(denoiser.activations, jax.ShapeDtypeStruct((1, *image), jnp.float32))
    split = {key: key.rpartition(".") for key in shapes}
    return {
        name: [shapes[key].shape[1:] for key in sorted(split, key=lambda k: int(split[k][2])) if split[key][0] == name]
        for name in denoiser.block_names
    }


def skip_of(name: str, blocks: dict) -> str:
    """The encoder of a decoder's scale, by its number; empty where the blocks are named otherwise."""
    encoder = name.replace("decoder", "encoder")
    return encoder if name != encoder and encoder in blocks else ""


def shape_words(shape: list[int] | None) -> tuple[str | None, str | None]:
    """Channels and resolution of a layer; nothing for a block without activations."""
    return (None, None) if shape is None else (str(shape[2]), f"{shape[0]}×{shape[1]}")


def section_architecture(context: Context, arrays: Arrays, summary: dict) -> Any:
    """Figure 9 and its table."""
    drawn = [
        figures.DrawnBlock(name, tuple(layers[:, 2].tolist()), *layers[-1, :2].tolist(), skip_of(name, arrays))
        for name, layers in ((name, arrays[name]) for name in summary["blocks"])
        if len(layers)
    ]
    image = tuple(summary["image"])
    figure = figures.architecture(drawn, image=image, read_from=READ_FROM, read_channels=summary["phi"])
    rows = [
        (name, str(block["layers"]), *shape_words(block["last"]), f"{block['share']:.1%}", PUBLISHED.get(name))
        for name, block in summary["blocks"].items()
    ]
    return report.Section(
        "Architecture",
        [
            "Drawn from the shapes of the network's own activations. A layer is counted where it has an activation, so the last "
            "layer, a linear one to the image, is not (the published numbers count it). Shapes do not tell what is connected: a "
            "skip connection is drawn from each encoder to the decoder of the same number, which is what the blocks' names mean."
        ],
        [
            report.Table(
                f"Blocks in the order in which they run, for images of {image[0]}×{image[1]} with {image[2]} "
                f"colour{'s' * (image[2] > 1)}; share of the {summary['activations']:,} activations of one image. phi is the "
                f"{summary['phi']} spatial means of the last layer of `{READ_FROM}`.",
                ("block", "layers", "channels", "resolution", "activations", "published layers × channels"),
                rows,
            )
        ],
        [
            picture(
                context,
                figure,
                "architecture",
                "The network (figure 9): a box for each layer, as wide as it has channels and as high as its resolution; arrows "
                "with the factor by which the resolution falls or rises, skip connections above, and where phi is read.",
            )
        ],
    )
