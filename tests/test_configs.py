"""Configurations: every file loads, overrides keep types, and mistakes get one line that names the remedy."""

import inspect
from pathlib import Path

import pytest

import configs
from configs import default
from unetrep_jax import data, models, noise
from unetrep_jax.storage import InputError

FILES = sorted(Path(configs.__file__).parent.glob("[!_]*.py"))
DEFAULT = Path(default.__file__)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_configuration_loads_describes_itself_and_builds(path):
    config = configs.load(str(path))
    assert config.is_locked and '"""' in path.read_text()[:4]
    models.build(**config.model, image_channels=config.data.image_channels)
    noise.check_distribution(**config.noise)
    assert set(config.data) <= set(inspect.signature(data.load).parameters)
    assert {config.analysis.sigma, *config.analysis.probe_sigmas} <= set(config.analysis.sigmas)


def test_the_defaults_are_the_papers():
    config = default.get_config()
    assert tuple(config.model.channels) == (64, 128, 256, 512)
    assert (config.model.encoder_depth, config.model.mid_depth, config.model.decoder_depth) == (2, 3, 6)
    assert config.noise.distribution == "inv_sqrt" and config.train.batch_size == 512
    assert (config.train.learning_rate, config.train.halve_every, config.train.epochs) == (1e-3, 100, 1000)
    assert len(config.analysis.sigmas) == 20 and config.analysis.draws == 20


@pytest.mark.parametrize(
    ("arguments", "key", "value"),
    [
        (["--config.train.batch_size=8"], "train.batch_size", 8),
        (["--config.train.batch_size", "8"], "train.batch_size", 8),
        (["--config.train.epochs=3"], "train.epochs", 3.0),
        (["--config.model.channels=(4,8)"], "model.channels", (4, 8)),
        (["--config.model.channels=[4,8]"], "model.channels", (4, 8)),
        (["--config.model.decoder_depth=(5,6,7)"], "model.decoder_depth", (5, 6, 7)),
        (["--config.model.bias=false"], "model.bias", False),
        (["--config.data.train_path=~/my photos"], "data.train_path", "~/my photos"),
        (["--config.data.name=123"], "data.name", "123"),
        (["--config.seed=1", "--config.seed=2"], "seed", 2),
    ],
)
def test_overrides_keep_the_settings_type(arguments, key, value):
    config = configs.load(str(FILES[0]))
    configs.override(config, arguments)
    found = dict(configs.flatten(config))[key]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--config.train.bacth_size=8", "did you mean train.batch_size"),
        ("--config.batch_size=8", "did you mean train.batch_size"),
        ("--config.train.batch_size=8.5", "must be int, like"),
        ("--config.train.batch_size=many", "must be int, like"),
        ("--config.model.bias=1", "must be bool"),
        ("--config.train.batch_size", "has no value"),
        ("--configs.train.batch_size=8", "is unknown"),
        ("batch_size=8", "is unknown"),
    ],
)
def test_a_wrong_override_is_refused_in_one_line(argument, words):
    with pytest.raises(InputError, match=words) as caught:
        configs.override(configs.load(str(FILES[0])), [argument])
    assert "\n" not in str(caught.value)


def test_a_configuration_survives_json_and_older_ones_gain_todays_defaults():
    config = configs.load(str(FILES[0]))
    plain = configs.plain(config)
    assert configs.plain(configs.from_plain(plain)) == plain
    del plain["analysis"], plain["data"]["cache_dir"]
    plain["gone"] = {"setting": 1}
    again = configs.from_plain(plain)
    assert again.analysis.draws == default.get_config().analysis.draws and "gone" not in again


@pytest.mark.parametrize(
    "text", ["{[]: 1}", "-" * 5000 + "1", "(" * 300, "9" * 400, "1e999", "-1e999", "9223372036854775808"]
)
@pytest.mark.parametrize("key", ["train.epochs", "train.batch_size", "analysis.sigmas", "evaluate.sigma_max"])
def test_what_is_no_usable_value_is_refused_in_one_line(key, text):
    with pytest.raises(InputError, match=f"--config.{key}=") as error:
        configs.override(configs.load(str(DEFAULT)), [f"--config.{key}={text}"])
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("value", ["float('inf')", "float('nan')"])
def test_numbers_that_are_none_are_refused_in_a_configuration_file_too(tmp_path, value):
    file = tmp_path / "mine.py"
    file.write_text(
        f"{DEFAULT.read_text()}\n\nwhole = get_config\n\n\ndef get_config():\n    config = whole().unlock()\n"
        f"    config.train.learning_rate = float({value})\n    return config\n"
    )
    with pytest.raises(InputError, match=r"train.learning_rate"):
        configs.load(str(file))


UNLOCKED = "def get_config():\n    config = default.get_config()\n    with config.unlocked(), config.train.unlocked(), "


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("raise SystemExit(3)", r"cannot be run: SystemExit: 3; repair it, or compare"),
        ("def get_config(:", r"cannot be run: SyntaxError"),
        ("config = 3", r"defines no get_config\(\); see"),
        ("def get_config():\n    assert False", r"get_config\(\) failed: AssertionError; repair it"),
        ("def get_config():\n    default.get_config().train.epoch = 3", r"get_config\(\) failed: .*epoch"),
        ("def get_config():\n    return {}", r"must return a ConfigDict; it gave a dict; see"),
        (f"{UNLOCKED}config.ignore_type():\n        del config.train.crop\n    return config", r"lacks train\.crop; add it"),
        (f"{UNLOCKED}config.ignore_type():\n        config.noise = 3\n    return config", r": noise is no setting; did you mean"),
        (f"{UNLOCKED}config.train.ignore_type():\n        config.train.crops = 3\n    return config", r"did you mean train\.crop"),
        (
            f"{UNLOCKED}config.train.ignore_type():\n        config.train.flip = print\n    return config",
            r"train\.flip=.* is of type builtin_function_or_method; it must be bool",
        ),
    ],
)
def test_a_file_that_gives_no_whole_configuration_is_refused_in_one_line_that_names_it(tmp_path, text, words):
    file = tmp_path / "mine.py"
    file.write_text(f"from configs import default\n\n{text}\n")
    with pytest.raises(InputError, match=words) as error:
        configs.load(str(file))
    assert str(error.value).startswith(f"--config {file}") and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["1e3", "007", "1_000", "1e999", "(1, 2)", "None", "true"])
def test_a_word_stays_as_it_was_typed_even_where_it_reads_as_a_number(text):
    config = configs.load(str(DEFAULT))
    configs.override(config, [f"--config.data.train_path={text}"])
    assert config.data.train_path == text
