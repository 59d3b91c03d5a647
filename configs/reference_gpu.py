"""The published network (13.1 million parameters) on one GPU, on the reference model's photographs, in stretches of minutes.

    DATA=folder OUT=folder bash configs/reference_gpu.sh 1
    DATA=folder OUT=folder START=full64-1 bash configs/reference_gpu.sh 2

Each further stretch begins with the last one's parameters (26 MB as bfloat16), with fresh moments, a warm-up, and a seed of its
own; the last one with --config.train.schedule=cosine and as many --config.train.epochs as fit. To be compared in pairs before the
first one, with MINUTES=2 and a number each: --config.train.batch_size=128, 256, 512, 1024, --config.train.learning_rate=5e-4,
1e-3, 2e-3, and --config.train.flip=True (the paper used no flips); and what the reference changed for its short training, each
with what is published: --config.train.clip_norm=0, --config.model.bias=True with --config.model.gain_init=near_zero. The log says
what the middle block gives (docs/results.md). Nobody has run it on a GPU yet: these settings are starting points.
Cost: 8.2 GFLOP an image forward, three times that with gradients.
"""

from configs import reference


def get_config():
    """The reference's settings with the published widths and depths, and whole images."""
    config = reference.get_config()
    config.model.channels = (64, 128, 256, 512)
    config.model.decoder_depth = 6
    config.train.batch_size = 256
    config.train.crop = 0
    config.train.epochs = 100.0
    config.train.learning_rate = 1e-3
    config.evaluate.every = 2000
    config.evaluate.images = 200
    config.evaluate.batch_size = 200
    config.checkpoint.every = 1000
    return config
