"""The paper's training: ImageNet at 64x64, 13.1 million parameters, batch 512, 1000 epochs.

    python train.py --config configs/imagenet64.py

The data set is `imagenet_resized/64x64`; if it is not prepared under data.data_dir yet, it is made there, from a download of 14 GB
or from the zips in data.zip_dir. Decoded, the training images take 15.7 GB under data.cache_dir.
Cost: 8.2 GFLOP an image forward, three times that with gradients; 32 PFLOP an epoch.
"""

from configs import default


def get_config():
    """Defaults, with ImageNet."""
    config = default.get_config()
    config.data.source = "tfds"
    config.data.name = "imagenet_resized/64x64"
    config.train.batch_size = 512
    config.evaluate.every = 2500
    config.checkpoint.every = 2500
    return config
