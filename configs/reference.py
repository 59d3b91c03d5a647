r"""The reference model of `pretrained/`, trained on two CPU cores, in stretches that each begin with the last one's parameters.

    TRAIN="python train.py --config configs/reference.py --config.data.data_dir=DATA"
    WHOLE="--config.train.crop=0 --config.train.batch_size=16 --config.train.schedule=cosine --config.train.learning_rate=1.5e-3
      --config.train.warmup_steps=200 --config.train.ema_decay=0 --config.checkpoint.milestones=5"

    $TRAIN --workdir runs/1
    $TRAIN --workdir runs/2 --config.train.start_from=runs/1/last $WHOLE --config.train.epochs=3.2 --config.seed=1
    $TRAIN --workdir runs/3 --config.train.start_from=runs/2/last $WHOLE --config.train.epochs=5 --config.seed=2
    python -m unetrep_jax.checkpoints runs/3/last runs/3-parameters --dtype bfloat16
    $TRAIN --workdir runs/4 --config.train.start_from=runs/3-parameters $WHOLE --config.train.epochs=10 --config.seed=3
    python -m unetrep_jax.checkpoints runs/4/last runs/4-parameters --dtype bfloat16
    $TRAIN --workdir runs/5 --config.train.start_from=runs/4-parameters $WHOLE --config.train.epochs=11 --config.seed=4 \
      --config.train.learning_rate=1e-3
    python -m unetrep_jax.checkpoints runs/5/last pretrained/photo24 --dtype bfloat16

The first trains on random 32x32 squares with a constant learning rate, the others on whole images until it is 0. A further one
begins with the model itself, and a seed of its own. `pretrained/photo24/README.md` tells how long they took and what came of them.
DATA holds `tiny_imagenet`: 80,800 ImageNet photographs at 64x64 for training and 5,050 for validation, as a TFDS data set.

It is not the paper's recipe: with that, so short a training left all but the two outer scales silent (docs/results.md). No biases,
initial gains of 1 and decoders of 2 layers, not 6, keep the inner scales in use; clipped gradients and bfloat16 train faster. That
is meant for processors that have products of bfloat16 numbers (Intel's from Sapphire Rapids on, AMD's from Zen 4 on).
Cost: 0.65 GFLOP an image forward, three times that with gradients. The analysis is set for two CPU cores too.
"""

from configs import imagenet64


def get_config():
    """Three eighths of the paper's width, and decoders of two layers."""
    config = imagenet64.get_config()
    config.data.name = "tiny_imagenet"
    config.model.channels = (24, 48, 96, 192)
    config.model.decoder_depth = 2
    config.model.bias = False
    config.model.gain_init = "one"
    config.model.dtype = "bfloat16"
    config.train.batch_size = 32
    config.train.crop = 32
    config.train.epochs = 2.4
    config.train.learning_rate = 2e-3
    config.train.clip_norm = 100.0
    config.train.schedule = "constant"
    config.train.warmup_steps = 500
    config.train.ema_decay = 0.999
    config.evaluate.every = 1000
    config.devices.cpu_devices = 2  # as the model was trained; others give other roundings
    config.evaluate.images = 64
    config.evaluate.batch_size = 64
    config.checkpoint.every = 250
    config.checkpoint.milestones = 9
    config.analysis.draws = 2
    config.analysis.clusters = (100, 202)
    config.analysis.untrained_images = 1000
    return config
