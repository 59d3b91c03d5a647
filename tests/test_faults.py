"""The fault campaign itself: it goes on whatever an attack does, tells edits by name, and notices a broken program."""

import contextlib
import random
import subprocess
import sys
from pathlib import Path

import pytest
from faults import attack, harms, naming, people, table
from faults.attack import Absent, Attack, Broken, Impossible, Missed

CAMPAIGN = Path(__file__).parent / "faults"


def ended(error: Exception | None) -> str:
    """How an attack ends that raises this."""

    def act(_):
        if error:
            raise error

    return attack.make(Attack("row", "promise", "name", act), "kills", 3, 0).ended


def test_an_attack_that_fails_in_any_way_is_an_outcome_and_no_end():
    ends = {
        "survived": [None],
        "failed": [Broken("x"), RuntimeError("a reference"), AssertionError(), ValueError("slip")],
        "missed": [Missed("x")],
        "impossible": [Impossible("x")],
        "absent": [Absent("x")],
    }
    assert {end: {ended(error) for error in errors} for end, errors in ends.items()} == {end: {end} for end in ends}


def test_what_hit_nothing_is_not_among_the_survived():
    outcomes = [attack.Outcome(Attack("row", "promise", "name", print), 0, end) for end in ("survived", "missed", "impossible")]
    assert "| kills: row (1 not possible here) | 3 | 1 | promise | 1 | 0 |" in table.table(("kills", one) for one in outcomes)


@pytest.mark.parametrize(
    ("line", "argument", "names"),
    [
        ("train.crop = 5 must be 0 or a multiple of 2", "--config.train.crop=5", True),
        ("train.crop = 7 must be 0 or a multiple of 2", "--config.train.crop=5", False),
        ("train.crops = 5 must be 0", "--config.train.crop=5", False),
        ("train.crop = 15 must be 0 or a multiple of 2", "--config.train.crop=5", False),
        ("analysis.sample_*: h0 must lie in (0, 1]", "--config.analysis.sample_h0=5", True),
        ("analysis.sample_*: h0 must lie in (0, 1]", "--config.analysis.samples=5", False),
        ("--config.train.crop cannot be changed here: it is the checkpoint's", "--config.train.crop=5", True),
        ("--config.train.cro is no setting; did you mean train.crop?", "--config.train.cro=5", True),
        ("--config.train.crop is no setting", "--config.train.cro=5", False),
        ("train.epochs must be positive and finite; got inf.", "--config.train.epochs=1e999", True),
        ("argument '--fresh=1' is unknown", "--fresh=1", True),
        ("something is wrong with an argument", "--fresh=1", False),
        ("stage '' is unknown", "--redo=", False),
        ("data.train_path='a.npy' does not exist", "--config.data.source=folder", True),
    ],
)
def test_a_line_names_an_edit_by_its_whole_name_and_its_value(line, argument, names):
    assert naming.names(line, argument) == names


@pytest.mark.parametrize(
    ("line", "has"),
    [
        ("train.crop = 5 must be 0 or a multiple of 2", True),
        ("model.padding 'x' is unknown. Known: zero, circular.", True),
        ("data.name = 5 is wrong, and so is train.start_from", False),
        ("something went wrong", False),
    ],
)
def test_a_line_with_a_reason_has_a_rule_or_a_remedy(line, has):
    assert naming.has_reason(line) == has


@pytest.mark.parametrize(
    ("argument", "told", "held"),
    [
        ("--config.analysis.clusters=(3, 4)", "", True),
        ("--config.analysis.clusters=(3, 4, 9)", "", False),
        ("--config.analysis.clusters=(3, 4, 9)", "too few images (24) for 9 clusters: left out", True),
        ("--config.analysis.clusters=(3, 9)", "too few images (24) for 9 clusters: left out", False),
        ("--config.analysis.draws=2", "", True),
        ("--config.analysis.draws=3", "", False),
    ],
)
def test_a_setting_that_is_not_what_was_typed_is_a_broken_promise(argument, told, held):
    recorded = {"analysis": {"clusters": [3, 4], "draws": 2, "sigma": 100.0}}
    with contextlib.nullcontext() if held else pytest.raises(Broken, match="was given as"):
        people.require_as_typed(recorded, [argument], told)


def test_an_exchange_keeps_to_files_of_the_same_ending_and_leaves_the_log_alone(tmp_path):
    for name, content in {"metrics.jsonl": b"log", "0/manifest": b"a", "1/manifest": b"b", "x.npy": b"c", "y.json": b"d"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    harms.exchange(tmp_path / "0/manifest", tmp_path, random.Random(0))
    assert [(tmp_path / name).read_bytes() for name in ("0/manifest", "1/manifest", "metrics.jsonl")] == [b"b", b"a", b"log"]
    with pytest.raises(Missed):
        harms.exchange(tmp_path / "x.npy", tmp_path, random.Random(0))


def test_every_harm_hits_one_file_of_each_kind_and_one_harm_each_other_file(tmp_path):
    for step in range(3):
        (tmp_path / str(step)).mkdir()
        (tmp_path / str(step) / "values").write_bytes(bytes([step]))
    found = harms.pairs(tmp_path, "seed")
    assert len(found) == len(harms.HARMS) + 2
    assert {harm for _, harm in found} == set(harms.HARMS)
    assert {path for path, _ in found} == {Path(f"{step}/values") for step in range(3)}


def campaign(*arguments: str) -> subprocess.CompletedProcess:
    """The campaign as a command."""
    return subprocess.run([sys.executable, CAMPAIGN, *arguments], capture_output=True, text=True)


def test_the_list_of_attacks_is_printed_without_making_anything(tmp_path):
    result = campaign("--list", "--folder", str(tmp_path / "nowhere"))
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n") > 150
    assert not (tmp_path / "nowhere").exists()


def test_the_campaign_notices_a_program_that_does_not_compare_checksums(tmp_path):
    result = campaign("--only", "controls", "--case", "0", "--folder", str(tmp_path / "campaign"))
    assert result.returncode == 0, result.stderr
    assert "| controls: a broken program | 1 | 1 | the campaign calls it a failure | 1 | 0 |" in result.stdout
