"""The explorer: static files that let a person look at images, channels and clusters of phi, and the writer of their data.

The page opens from a disk or from any web host, in any browser of today, and fetches nothing from elsewhere. Browsers refuse to
read data files beside a page that was opened from a disk; scripts and images they do load. So every array is a script that hands
over its content (base64 of little-endian numbers), in pieces that are loaded when they are needed, and images lie on sheets.
"""

from unetrep_jax.explorer.collection import Channels, Clustering, Collection, Fires, Missing, Reconstructions, TopImages
from unetrep_jax.explorer.writing import write

__all__ = ["Channels", "Clustering", "Collection", "Fires", "Missing", "Reconstructions", "TopImages", "write"]
