"""What the explorer shows: arrays over images and channels, and words."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8

from unetrep_jax.storage import InputError


class Channels(NamedTuple):
    """What is known of each of the k channels of phi.

    Attributes:
      numbers: what a number is -> one for each channel; NaN where it has none.
      groups: name of a group -> its channels; a channel may be in none.
      threshold: value above which a channel counts as on, the largest phi of any image without noise; None where there is none.
      level_means: phi's mean over images at each noise level.
      level_correlations: correlation over images of phi at each noise level with phi at the working one; NaN for constant channels.
      companions: for each channel the ones whose phi goes with its own, then those that go against it.
      companion_correlations: correlations over images with these; NaN where there is none, and the channel beside it is not shown.
    """

    numbers: Mapping[str, Float[np.ndarray, " k"]]
    groups: Mapping[str, Bool[np.ndarray, " k"]]
    threshold: Float[np.ndarray, " k"] | None
    level_means: Float[np.ndarray, "s k"]
    level_correlations: Float[np.ndarray, "s k"]
    companions: Integer[np.ndarray, "k q"]
    companion_correlations: Float[np.ndarray, "k q"]


class TopImages(NamedTuple):
    """The images with the largest phi of each channel, largest first, and where the channel fires in them.

    Attributes:
      index: positions of the images; -1 where no further image lies above the channel's least value.
      maps: activations of the channel.
    """

    index: Integer[np.ndarray, "k m"]
    maps: Float[np.ndarray, "k m y x"]


class Fires(NamedTuple):
    """The channels that each image excites most, and where they fire.

    Attributes:
      what: how they were chosen, for a sentence that begins "Of ...".
      channels: positions of the channels, the most excited first.
      deviations: (phi - mean) / deviation over images.
      maps: activations.
    """

    what: str
    channels: Integer[np.ndarray, "n q"]
    deviations: Float[np.ndarray, "n q"]
    maps: Float[np.ndarray, "n q y x"]


class Clustering(NamedTuple):
    """K clusters of the images.

    Attributes:
      assignment: cluster of each image.
      distance: of each image from its cluster's centroid, over the root mean squared distance of all images from their mean.
      nearest: for each cluster the others, nearest first.
      separation: from these: distance of the centroids over the deviation along the line between them; NaN where not known.
    """

    assignment: Integer[np.ndarray, " n"]
    distance: Float[np.ndarray, " n"]
    nearest: Integer[np.ndarray, "K q"]
    separation: Float[np.ndarray, "K q"]


class Reconstructions(NamedTuple):
    """Images made from phi of some of the images, in one way.

    Attributes:
      title: what they are made from and how, and whether they are a control, a sentence.
      levels: at which noise levels, a few words.
      targets: positions of the images whose phi it was; one that has several reconstructions stands several times.
      images: the reconstructions, intensities nominally in [0, 1].
    """

    title: str
    levels: str
    targets: Integer[np.ndarray, " r"]
    images: Float[np.ndarray, "r h w c"]


class Missing(NamedTuple):
    """Something that the page would show, and does not.

    Attributes:
      what: its name.
      why: a sentence; may be empty.
      command: what adds it; empty where nothing does.
    """

    what: str
    why: str
    command: str


class Collection(NamedTuple):
    """All that the page shows.

    Attributes:
      title: its name.
      checkpoint: the denoiser, for the line below every picture.
      level: the working noise level in words, for the same.
      facts: what is needed to judge and to repeat this.
      images: the images; grey ones have one channel.
      names: of the images; empty where they have none.
      labels: class of each image; None where there are none.
      class_names: name of each class.
      phi: at the working noise level.
      image_numbers: what a number is -> one for each image.
      sigmas: noise levels, intensity units x 255.
      working: position of the working one.
      channels: what is known of the channels.
      layouts: name -> positions of the images on a map; one or more.
      top: top images of each channel; None where they were not made.
      fires: channels of each image; None where they were not made.
      neighbours: name of a space -> positions of each image's nearest ones, nearest first.
      clusterings: with different K.
      reconstructions: in different ways.
      missing: what is not there.
    """

    title: str
    checkpoint: str
    level: str
    facts: Mapping[str, str]
    images: UInt8[np.ndarray, "n h w c"]
    names: Sequence[str]
    labels: Integer[np.ndarray, " n"] | None
    class_names: Sequence[str]
    phi: Float[np.ndarray, "n k"]
    image_numbers: Mapping[str, Float[np.ndarray, " n"]]
    sigmas: Sequence[float]
    working: int
    channels: Channels
    layouts: Mapping[str, Float[np.ndarray, "n 2"]]
    top: TopImages | None = None
    fires: Fires | None = None
    neighbours: Mapping[str, Integer[np.ndarray, "n q"]] = MappingProxyType({})
    clusterings: Sequence[Clustering] = ()
    reconstructions: Sequence[Reconstructions] = ()
    missing: Sequence[Missing] = ()


def check(collection: Collection) -> None:
    """Refuses a collection whose arrays do not fit together.

    Raises:
      InputError: names the array, the size expected and the one that came.
    """
    images, channels = collection.phi.shape
    known = collection.channels
    sizes = {"images": (len(collection.images), images)}
    sizes |= {f"image_numbers[{name!r}]": (len(of), images) for name, of in collection.image_numbers.items()}
    sizes |= {f"layouts[{name!r}]": (len(of), images) for name, of in collection.layouts.items()}
    sizes |= {f"neighbours[{name!r}]": (len(of), images) for name, of in collection.neighbours.items()}
    sizes |= {f"channels.numbers[{name!r}]": (len(of), channels) for name, of in known.numbers.items()}
    sizes |= {f"channels.groups[{name!r}]": (len(of), channels) for name, of in known.groups.items()}
    for name in ("level_means", "level_correlations"):
        sizes[f"channels.{name}"] = getattr(known, name).size, len(collection.sigmas) * channels
    for name in ("companions", "companion_correlations"):
        sizes[f"channels.{name}"] = len(getattr(known, name)), channels
    for i, of in enumerate(collection.clusterings):
        sizes[f"clusterings[{i}].assignment"] = len(of.assignment), images
        sizes[f"clusterings[{i}].distance"] = len(of.distance), images
        sizes[f"clusterings[{i}].separation"] = of.separation.size, of.nearest.size
    for i, of in enumerate(collection.reconstructions):
        sizes[f"reconstructions[{i}].images"] = len(of.images), len(of.targets)
    if collection.top is not None:
        sizes |= {"top.index": (len(collection.top.index), channels)}
        sizes |= {"top.maps": (collection.top.maps[..., 0, 0].size, collection.top.index.size)}
    if collection.fires is not None:
        sizes |= {"fires.channels": (len(collection.fires.channels), images)}
        sizes |= {"fires.maps": (collection.fires.maps[..., 0, 0].size, collection.fires.channels.size)}
    if collection.names:
        sizes["names"] = len(collection.names), images
    if collection.labels is not None:
        sizes["labels"] = len(collection.labels), images
    if known.threshold is not None:
        sizes["channels.threshold"] = len(known.threshold), channels
    for name, (size, expected) in sizes.items():
        if size != expected:
            raise InputError(f"explorer: {name} has {size:,} entries instead of {expected:,}; give as many as phi asks for.")
    if not collection.layouts:
        raise InputError("explorer: layouts is empty; give the map at least one.")
