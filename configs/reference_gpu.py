"""The published network (13.1 million parameters) on one GPU, on the reference model's photographs, in stretches of nine minutes.

    timeout -s INT 540 python train.py --config configs/reference_gpu.py --config.data.data_dir=DATA --workdir runs/full64-1
    python -m unetrep_jax.checkpoints runs/full64-1 full64-1 --dtype bfloat16     # 26 MB
    tar c full64-1 | split -b 15M - full64-1.tar.                                 # in pieces, where only small files travel

Each further stretch begins with the last one's parameters (--config.train.start_from=full64-1, another --workdir), with fresh
moments and a warm-up; the last one with --config.train.schedule=cosine and as many --config.train.epochs as fit. SIGINT saves.
Nobody has run it on a GPU yet: batch size and learning rate are starting points, to be compared in pairs before the first stretch.
Cost: 8.2 GFLOP an image forward, three times that with gradients. No flips, as in the paper.
"""

from configs import reference


def get_config():
    """The reference's settings with the published widths and whole images."""
    config = reference.get_config()
    config.model.channels = (64, 128, 256, 512)
    config.model.dtype = "bfloat16"
    config.train.batch_size = 256
    config.train.crop = 0
    config.train.epochs = 100.0
    config.train.learning_rate = 1e-3
    config.evaluate.every = 2000
    config.evaluate.images = 200
    config.evaluate.batch_size = 200
    config.checkpoint.every = 1000
    return config
