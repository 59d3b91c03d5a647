"""A few minutes on two CPU cores: a small network on crops of the photographs that come with the installed packages.

    make demo

trains and analyses it. Narrower and shallower than the published network, 32x32 pixels, five photographs to train on and two held
out: it shows that everything works and what it draws, and nothing about ImageNet.
"""

from configs import default


def get_config():
    """Defaults, made small."""
    config = default.get_config()
    config.data.image_size = 32
    config.model.channels = (24, 48, 96, 192)
    config.model.mid_depth = 2
    config.model.decoder_depth = 2
    config.train.epochs = 12.0
    config.train.batch_size = 16
    config.train.learning_rate = 5e-3
    config.train.schedule = "cosine"
    config.train.warmup_steps = 50
    config.evaluate.every = 1000
    config.evaluate.images = 100
    config.checkpoint.every = 500
    config.log.every = 200
    config.analysis.untrained_images = 512
    config.analysis.sigmas = (0.0, 10.0, 25.0, 50.0, 100.0, 200.0)
    config.analysis.draws = 2
    config.analysis.clusters = (8, 16)
    config.analysis.cluster_seeds = 2
    config.analysis.cluster_runs = 3
    return config
