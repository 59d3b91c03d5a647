"""The reference model of `pretrained/`, trained on two CPU cores, in stretches that each begin with the last one's parameters.

    python train.py --config configs/reference.py --config.data.data_dir=DATA --workdir runs/photo24-squares

trains on random 32x32 squares with a constant learning rate (it was stopped at step 5,085, half of the way);

    python train.py --config configs/reference.py --config.data.data_dir=DATA --workdir runs/photo24 \\
      --config.train.start_from=runs/photo24-squares/last --config.train.crop=0 --config.train.epochs=0.36 \\
      --config.train.schedule=cosine --config.train.learning_rate=1.5e-3 --config.train.ema_decay=0

goes on with whole images until the learning rate is 0. The next two stretches begin with those parameters (as bfloat16):

    python train.py --config configs/reference.py --config.data.data_dir=DATA --workdir runs/photo24-squares2 \\
      --config.train.start_from=runs/photo24/last --config.train.epochs=4.5
    python train.py --config configs/reference.py --config.data.data_dir=DATA --workdir runs/photo24-2 \\
      --config.train.start_from=runs/photo24-squares2/last --config.train.crop=0 --config.train.batch_size=16 \\
      --config.train.epochs=0.97 --config.train.schedule=cosine --config.train.learning_rate=1.5e-3 --config.train.ema_decay=0

(the first of them was stopped at step 6,640). The fifth, `--workdir runs/photo24-3`, is as the last, from `runs/photo24-2/last` and
with `--config.train.epochs=1.4`. `pretrained/photo24/README.md` tells how long they took and what came of them.
DATA holds `tiny_imagenet`: 80,800 ImageNet photographs at 64x64 for training and 5,050 for validation, as a TFDS data set.
Cost: 1.2 GFLOP an image forward, three times that with gradients. The analysis is set for two CPU cores too.
"""

from configs import imagenet64


def get_config():
    """The paper's depths at three eighths of its width."""
    config = imagenet64.get_config()
    config.data.name = "tiny_imagenet"
    config.model.channels = (24, 48, 96, 192)
    config.train.batch_size = 32
    config.train.crop = 32
    config.train.epochs = 4.0
    config.train.learning_rate = 2e-3
    config.train.schedule = "constant"
    config.train.warmup_steps = 200
    config.train.ema_decay = 0.999
    config.evaluate.every = 1000
    config.evaluate.images = 64
    config.evaluate.batch_size = 64
    config.checkpoint.every = 250
    config.checkpoint.milestones = 11
    config.analysis.draws = 2
    config.analysis.clusters = (100, 202)
    config.analysis.untrained_images = 1000
    return config
