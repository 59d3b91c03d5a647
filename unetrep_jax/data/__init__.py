"""Image sets and the batches that training draws from them.

`load` and `open_images` turn any source (a TFDS data set, a folder of image files, an array on disk, the photographs
that come with installed packages) into one `ImageSet`: a uint8 memory map, decoded once. `batches` shuffles it, the
same way on any number of processes, and resumes exactly.
"""

from unetrep_jax.data.batches import Batch, Batches, batches
from unetrep_jax.data.image_set import ImageSet
from unetrep_jax.data.imagenet_resized import prepare as prepare_imagenet_resized
from unetrep_jax.data.sources import SOURCES, load, open_images

__all__ = ["SOURCES", "Batch", "Batches", "ImageSet", "batches", "load", "open_images", "prepare_imagenet_resized"]
