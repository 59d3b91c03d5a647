"""A few minutes on two CPU cores: a small network on crops of the photographs that come with the installed packages.

    make demo

trains and analyses it. Narrower and shallower than the published network and without biases, trained on squares of 32 pixels from
five photographs, with noise up to 128/255, analysed on 64x64 crops of two held-out photographs: it shows that everything works
and what it draws, and nothing about ImageNet.
"""

from configs import default


def get_config():
    """Defaults, made small."""
    config = default.get_config()
    config.data.validation_crops = 128
    config.model.channels = (24, 48, 96, 192)
    config.model.mid_depth = 2
    config.model.decoder_depth = 2
    # Otherwise its middle block would say the same of every image after so short a training; see docs/results.md.
    config.model.bias = False
    config.model.gain_init = "one"
    config.noise.sigma_max = 0.5
    config.train.crop = 32
    config.train.epochs = 3.5
    config.train.batch_size = 16
    config.train.learning_rate = 5e-3
    config.train.schedule = "cosine"
    config.train.warmup_steps = 50
    config.devices.cpu_devices = 2  # narrow networks train faster so, on two cores 1.2 times as fast; wide ones do not
    config.evaluate.every = 1024
    config.evaluate.images = 32
    config.evaluate.batch_size = 32
    config.evaluate.sigma_max = 0.5
    config.checkpoint.every = 500
    config.log.every = 200
    config.analysis.untrained_images = 128
    config.analysis.spectrum_images = 2000
    config.analysis.memory_images = 128
    config.analysis.sigmas = (0.0, 10.0, 25.0, 50.0, 100.0)
    config.analysis.draws = 2
    config.analysis.clusters = (4, 8)
    config.analysis.cluster_seeds = 2
    config.analysis.cluster_runs = 3
    config.analysis.cluster_members = 10
    config.analysis.selectivity_simulations = 100
    config.analysis.top_images_channels = 4
    config.analysis.top_images_common = 2
    config.analysis.top_images_targets = 2
    config.analysis.neighbour_targets = 4
    config.analysis.probe_sigmas = (50.0, 100.0)
    config.analysis.probe_images = 256
    config.analysis.embedding_pairs = 0
    config.analysis.location_images = 8
    config.analysis.location_composites = 60
    config.analysis.samples = 8
    config.analysis.copy_images = 1000
    config.analysis.sample_sigma_0 = 0.5
    config.analysis.sample_beta = 0.4
    config.analysis.targets = 4
    config.analysis.samples_per_target = 2
    config.analysis.control_targets = 0  # those of one target alone would take over a minute: six programs
    config.analysis.published_targets = 0
    config.analysis.schedule_sigma_0 = 0.5
    config.analysis.schedule_levels = 8
    config.analysis.matching_steps = 20
    config.analysis.adaptive_max_steps = 30
    return config
