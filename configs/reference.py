"""The reference model of `pretrained/`, trained on two CPU cores, in stretches that each begin with the last one's parameters.

    TRAIN="python train.py --config configs/reference.py --config.data.data_dir=DATA"
    WHOLE="--config.train.crop=0 --config.train.schedule=cosine --config.train.learning_rate=1.5e-3 --config.train.ema_decay=0"

    $TRAIN --workdir runs/1
    $TRAIN --workdir runs/2 --config.train.start_from=runs/1/last $WHOLE --config.train.epochs=0.36
    python -m unetrep_jax.checkpoints runs/2 photo24 --dtype bfloat16
    $TRAIN --workdir runs/3 --config.train.start_from=photo24 --config.train.epochs=4.5
    WHOLE="$WHOLE --config.train.batch_size=16"
    $TRAIN --workdir runs/4 --config.train.start_from=runs/3/last $WHOLE --config.train.epochs=0.97
    $TRAIN --workdir runs/5 --config.train.start_from=runs/4/last $WHOLE --config.train.epochs=1.4
    $TRAIN --workdir runs/6 --config.train.start_from=runs/5/last $WHOLE --config.train.epochs=2.3

The first and the third train on random 32x32 squares with a constant learning rate; they were stopped at step 5,085 and at step
6,640 (half of the way). The others train on whole images until the learning rate is 0. `pretrained/photo24/README.md` tells how
long they took and what came of them. All have the same seed, which was a mistake: stretches of one kind begin with the same
images in the same order under the same noise. Give further ones their own (--config.seed=7).
DATA holds `tiny_imagenet`: 80,800 ImageNet photographs at 64x64 for training and 5,050 for validation, as a TFDS data set.
What came of it denoises with its outer scales alone, for its middle block fell silent (docs/results.md): a model whose phi is to be
studied needs --config.model.gain_init=one and --config.model.bias=False from its first stretch on.
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
