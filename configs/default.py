"""Every setting, its unit and its default: the network and training of arXiv 2506.01912, on the bundled photographs.

    python train.py --config configs/default.py --workdir runs/mine --config.data.source=folder --config.data.train_path=~/photos

The other configurations change a few lines of this one.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The defaults."""
    config = ConfigDict()
    config.seed = 0  # of initial parameters, noise, and the order of images

    config.data = ConfigDict(
        {
            "source": "photographs",  # photographs (inside installed packages) | tfds | folder | npy
            "image_size": 64,  # pixels; height = width; a multiple of 2^(number of model.channels - 1)
            "image_channels": 3,  # 3 colour, 1 grey
            "cache_dir": "~/.cache/unetrep_jax",  # where decoded images are kept
            "name": "imagenet_resized/64x64",  # tfds: data set
            "data_dir": "~/tensorflow_datasets",  # tfds: where it is, or is prepared
            "zip_dir": "",  # tfds: folder with imagenet_resized's zips, instead of a download
            "train_split": "train",  # tfds: split to train on
            "validation_split": "validation",  # tfds: split to validate and analyse
            "train_path": "",  # folder, npy: training images
            "validation_path": "",  # folder, npy: validation images; folder: empty = a held-out share of train_path
            "validation_fraction": 0.05,  # folder: the held-out share of files
            "train_labels": "",  # npy: int array [n], optional
            "validation_labels": "",  # npy: int array [n], optional
            "max_unreadable": 0.01,  # folder: largest share of unreadable files that is borne
            "train_crops": 8192,  # photographs: crops to train on
            "validation_crops": 512,  # photographs: crops of the held-out photographs
        }
    )

    config.model = ConfigDict(
        {
            "name": "unet",
            "channels": (64, 128, 256, 512),  # per scale, finest first; the last is the middle block
            "encoder_depth": 2,  # layers per block: a number, or one per block, finest first
            "mid_depth": 3,  # layers
            "decoder_depth": 6,  # layers per block; the authors' code also uses (5, 6, 7)
            "norm": "layer",  # layer (deviation over the image) | instance (per channel)
            "bias": True,  # biases of the 3x3 convolutions
            "padding": "zero",  # what they see outside the image: zero (published) | circular
            "gain_init": "near_zero",  # initial norm gains: near_zero (published) | one
            "dtype": "float32",  # of convolutions and activations: float32 | bfloat16
        },
        type_safe=False,  # a depth is a number or a tuple
    )

    config.noise = ConfigDict(
        {
            "distribution": "inv_sqrt",  # uniform | inv_sqrt | power_law | inv | inv_1p5 | inv_sq | arccos
            "sigma_min": 0.0,  # intensity units: 1 = full range
            "sigma_max": 1.0,  # intensity units
            "power": 7.0,  # power_law's exponent
        }
    )

    config.train = ConfigDict(
        {
            "epochs": 1000.0,  # passes over the training images
            "start_from": "",  # run or checkpoint whose parameters to start from; empty = random ones
            "batch_size": 512,  # images, over all devices
            "minutes": 0.0,  # since the command was given; then it saves and stops, and the same command goes on; 0 = no limit
            "crop": 0,  # pixels; side of a random square of each image to train on; 0 = whole images
            "flip": False,  # show each image mirrored (left and right exchanged) half of the times
            "learning_rate": 1e-3,
            "schedule": "halving",  # halving | constant | cosine
            "halve_every": 100.0,  # epochs; halving only
            "warmup_steps": 0,  # steps of linear warm-up
            "weight": "one",  # of the error: one | inverse_sigma
            "clip_norm": 0.0,  # largest gradient norm; 0 = no clipping
            "ema_decay": 0.0,  # of averaged parameters; 0 = none kept
            "rematerialise": False,  # compute each block again in the backward pass: less memory, a third more work
        }
    )

    config.evaluate = ConfigDict(
        {
            "every": 1000,  # steps
            "images": 200,  # validation images, spread evenly over the set
            "batch_size": 100,  # images at once
            "levels": 10,  # noise levels, log-spaced
            "sigma_min": 0.01,  # intensity units, from 1e-6
            "sigma_max": 1.0,  # intensity units, to 1e15
        }
    )

    config.checkpoint = ConfigDict(
        {
            "every": 1000,  # steps
            "keep": 3,  # newest checkpoints kept, 2 or more
            "milestones": 0,  # parameters kept for good at the last step, half of it, a quarter, ...: so many; 0 = none
        }
    )

    config.log = ConfigDict({"every": 100})  # steps

    config.devices = ConfigDict(
        {
            "cpu_devices": 1,  # virtual devices where there is only a CPU; 1 uses all of its cores, 2 train narrow networks faster
            "precision": "default",  # of float32 products on GPUs, TPUs: default (TF32, bfloat16 passes) | highest (true float32)
            "compilation_cache": "~/.cache/unetrep_jax/compiled",  # of programs, for the next start; empty = none
            "distributed": False,  # several processes make one run: a TPU pod, a cluster
            "coordinator": "",  # "host:port" of process 0, where the platform does not tell
            "processes": 0,  # number of processes, with coordinator
            "process": 0,  # this process's number, with coordinator
        }
    )

    config.analysis = ConfigDict(
        {
            "images": 0,  # images to analyse, spread evenly over the set; 0 = all
            "untrained_images": 2000,  # of these, spread evenly, for the untrained network
            "first_images": 200,  # denoising: of the first ones the PSNR is also given apart, as published tables do
            "spectrum_images": 20_000,  # denoising: training images, spread over the set, for the Wiener filter
            "memory_images": 1000,  # denoising: training images, spread over the set, of which the PSNR is given beside the others'
            "batch_size": 64,  # images at once, over the devices of one process
            "sigmas": (  # noise levels, intensity units x 255
                0.0,
                10.0,
                30.0,
                50.0,
                70.0,
                80.0,
                90.0,
                100.0,
                110.0,
                120.0,
                150.0,
                170.0,
                190.0,
                220.0,
                255.0,
                300.0,
                400.0,
                510.0,
                650.0,
                765.0,
            ),
            "sigma": 100.0,  # working noise level, x 255; one of sigmas
            "draws": 20,  # noise draws averaged at each level above 0
            "clusters": (100, 1000),  # numbers of clusters
            "cluster_seeds": 3,  # seeds for which K-means is repeated
            "cluster_runs": 10,  # initialisations per seed, of which the best is kept
            "cluster_members": 50,  # images per cluster, on average, below which no statistics of clusters are made
            "robustness_sigma": 50.0,  # noise level that others are compared with, x 255; the nearest of sigmas is taken
            "selectivity_simulations": 1000,  # samples of the uniform for the dip's p-value, permutations of channels over groups
            "top_images_per_channel": 10,  # images with the largest phi of a channel
            "top_images_channels": 8,  # specialised channels drawn
            "top_images_common": 3,  # common channels drawn
            "top_images_targets": 4,  # images whose channels are drawn; 0 = none
            "neighbours": 10,  # nearest images whose labels are compared
            "neighbour_targets": 6,  # images whose neighbours are drawn
            "probe_sigmas": (10.0, 50.0, 100.0, 220.0),  # noise levels of phi for the linear probe, x 255; of sigmas
            "probe_images": 10_000,  # labelled training images to learn from, drawn at random; 0 = all
            "embedding_pairs": 100,  # pairs of images whose distances in phi and as densities are compared; 0 = none
            "embedding_reconstructed_pairs": 10,  # of these, by samples that are full reconstructions too; 0 = none
            "embedding_samples": 2,  # reconstructions of each image of those pairs
            "embedding_draws": 2,  # noise draws at each level
            "embedding_levels": 8,  # noise levels of the integral, log-spaced up to schedule_sigma_0
            "embedding_sigma_end": 0.05,  # lowest of them, intensity units
            "embedding_updates": 30,  # most updates of the pixels in one matching
            "location_images": 100,  # images that are shifted
            "location_composites": 1800,  # images with a pasted object whose place is decoded; 30 or more
            "emergence_images": 1000,  # images on which checkpoints along the training are measured, spread evenly; 0 = all
            "emergence_clusters": 20,  # clusters of phi at each of them
            "samples": 64,  # unconditional samples
            "copy_images": 20_000,  # training images, spread over the set, among which copies are looked for; 0 = all
            "sample_sigma_0": 1.0,  # noise level of the start, intensity units; the paper: 3
            "sample_sigma_end": 0.04,  # noise level at which a sample is done, intensity units
            "sample_h0": 0.1,  # step size, in (0, 1]; the paper: 0.01, ten times as many steps
            "sample_beta": 0.2,  # share of the removed noise that is not put back, in (0, 1]; the paper: 0.05
            "sample_step_size": "fixed",  # fixed | increasing
            "sample_max_steps": 20_000,
            "targets": 16,  # images to reconstruct from phi, spread over the analysed ones
            "samples_per_target": 4,
            "control_targets": 8,  # of these, for the controls and the adaptive version (2 samples each); 0 = none
            "published_targets": 1,  # of these, with the published settings (a hundred times 100 updates); 0 = none
            "schedule_levels": 20,  # noise levels, log-spaced; the paper: 100
            "schedule_sigma_0": 1.0,  # highest level, intensity units
            "schedule_sigma_end": 0.03,  # lowest level, intensity units
            "target_draws": 10,  # noise draws averaged in a target phi of the schedule
            "matching_steps": 30,  # most updates of the pixels in one matching; the paper: 100 to 200
            "matching_epsilon": 1e-20,  # Adam's; the paper's 1e-8 stalls where phi varies little over images
            "adaptive_sigma_end": 0.04,  # noise level at which the adaptive version is done, intensity units
            "adaptive_h0": 0.2,  # its step size; the paper: 0.01
            "adaptive_beta": 0.3,  # share of the removed noise that is not put back; the paper: 0.01
            "adaptive_max_steps": 100,  # score steps
            "reconstruction_batch": 8,  # reconstructions at once, over the devices of one process
            "figure_formats": ("png", "pdf"),  # of figures' files: png, which the report shows, and pdf, svg or none
            "seed": 42,
        }
    )
    return config.lock()
