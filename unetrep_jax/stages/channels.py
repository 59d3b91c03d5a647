"""Channels that tell nothing: how many of a representation are the same for all images, and how that is said."""

from collections.abc import Mapping

import numpy as np


def count_channels(features: np.ndarray) -> dict[str, int]:
    """Of channels [n, k]: all of them, those that are 0 for every image, and the others that are the same for every image."""
    constant, dead = np.ptp(features, axis=0) == 0, (features == 0).all(axis=0)
    return {"channels": features.shape[1], "dead": int(dead.sum()), "constant": int((constant & ~dead).sum())}


def channels_text(counts: Mapping[str, Mapping[str, int]]) -> str:
    """The same in words, for each network: of what it is the phi -> its counts."""
    parts = (
        f"{of['dead']} of the {of['channels']} channels of {name} are 0 for all images and {of['constant']} others the same for all"
        for name, of in counts.items()
    )
    return f"{'; '.join(parts)}. They add nothing to any distance but, where they are not 0, to what all images have in common."
