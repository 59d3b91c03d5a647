"""The fault campaign itself: it goes on whatever an attack does, tells edits by name, and notices a broken program."""

import contextlib
import random
import subprocess
import sys
from pathlib import Path

import pytest
from faults import attack, children, harms, kills, naming, people, phases, record, same, table
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
        ("--config.train.crop has no value; write --config.train.crop=value", "--config.train.crop", True),
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


def test_only_wanted_files_are_chosen_and_the_first_of_a_kind_is_one_of_them(tmp_path):
    for name in ("last/4/values", "best/4/values", "best/8/values"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(name.encode())
    for seed in "abcdef":
        found = harms.pairs(tmp_path, seed, lambda path: path.parts[:2] == ("best", "8"))
        assert {path for path, _ in found} == {Path("best/8/values")}
        assert {harm for _, harm in found} == set(harms.HARMS)


def test_files_with_names_that_a_machine_made_are_of_one_kind():
    kinds = {harms.kind_of(Path("kept") / name) for name in ("0123456789abcdef.npz", "fedcba9876543210.npz", "arrays.npz")}
    assert kinds == {"kept/d.npz", "kept/arrays.npz"}


@pytest.mark.parametrize("name", [".a.partial", "a.tmp", "4.orbax-checkpoint-tmp-1", "8.damaged", "progress.json", ".4.writing"])
@pytest.mark.parametrize("folder", [False, True])
def test_what_was_not_finished_or_set_aside_is_not_tidy(tmp_path, name, folder):
    for whole in (".lock", ".images.lock", ".figures.json", "complete.json", "template.npy"):
        (tmp_path / whole).touch()
    same.require_tidy(tmp_path)
    (tmp_path / name).mkdir() if folder else (tmp_path / name).touch()
    with pytest.raises(Broken, match="left behind"):
        same.require_tidy(tmp_path)


def test_a_run_without_one_of_its_checkpoints_has_all_the_others():
    content = {"metrics.jsonl": "a", "last/3": "b", "last/3/manifest.json": "", "last/32": "c", "last/32/manifest.json": ""}
    assert same.without(content, "last/3").keys() == {"metrics.jsonl", "last/32", "last/32/manifest.json"}


def test_a_later_attempt_comes_sooner():
    chances = [attack.Chance(0) for _ in range(attack.ATTEMPTS)]
    for attempt, chance in enumerate(chances):
        chance.attempt = attempt
    moments = [chance.moment(10) for chance in chances]
    assert moments == sorted(moments, reverse=True)
    assert 10 > moments[0] > 4 * moments[-1] > 0


def test_a_child_that_hangs_is_not_taken_for_one_that_was_killed(tmp_path):
    child = children.Child(lambda: __import__("time").sleep(60), tmp_path)
    with pytest.raises(TimeoutError, match="hung"):
        child.wait(patience=0.2)
    assert child.poll() == -9


def test_from_an_operation_on_a_disk_is_full(tmp_path):
    def fill() -> list:
        children.fill_up(2, tmp_path)
        (tmp_path / "first").write_bytes(b"it fits")
        refused = []
        for act in ((tmp_path / "second").touch, (tmp_path / "third").mkdir):
            try:
                act()
            except OSError as error:
                refused.append(error.strerror)
        (tmp_path / "first").unlink()
        return refused

    assert children.call(fill) == ["No space left on device"] * 2
    assert list(tmp_path.iterdir()) == []


def test_what_a_stage_begins_anew_is_another_file_and_what_it_goes_on_with_the_same(tmp_path):
    for name in ("drawn/a.npy", "kept/.0.npz.partial", ".rows.partial/a.npy", ".none.partial/a.npy"):
        (tmp_path / "analysis" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "analysis" / name).touch()
    for name, done in (("rows", 3), ("none", 0)):
        (tmp_path / "analysis" / f".{name}.partial" / "progress.json").write_text(f'{{"done": {done}}}')
    found = kills.hold(tmp_path / "analysis", children.fresh(tmp_path / "held"))
    names = {str(path.relative_to(tmp_path / "analysis")): held for held, path in found.items()}
    assert set(names) == {"drawn/a.npy", "rows/a.npy"}
    (tmp_path / "analysis" / ".rows.partial").rename(tmp_path / "analysis" / "rows")
    (tmp_path / "analysis" / "drawn" / "a.npy").unlink()
    (tmp_path / "analysis" / "drawn" / "a.npy").touch()
    again = {name: not (tmp_path / "analysis" / name).samefile(held) for name, held in names.items()}
    assert again == {"drawn/a.npy": True, "rows/a.npy": False}


def test_a_campaign_goes_on_where_it_was_and_another_one_begins_anew(tmp_path):
    file = tmp_path / "outcomes"
    first = attack.Outcome(Attack("row", "promise", "name", print), 3, "survived", hit=["a step"])
    record.Record(file, "made by").add("kills", first)
    record.Record(file, "made by").add("kills", first._replace(number=4))
    with open(file, "a") as torn:
        torn.write('["kills", "row')
    found = record.Record(file, "made by").known
    assert [(key, one[1:]) for key, one in found.items()] == [(("kills", n), (n, "survived", "", ["a step"])) for n in (3, 4)]
    assert table.what_was_hit(("kills", one) for one in found.values()) == ["- kills: row: a step 2"]
    assert record.Record(file, "another program").known == {}


def test_a_long_campaign_must_hit_each_part_of_a_training_and_of_an_analysis():
    enough = {*phases.OF_TRAINING, phases.DECODING, phases.HAD_ROWS, phases.HAD_STATE, "untrained", "drawn", "reconstructed"}
    enough |= {"clusters_kept", "fires", "report"}
    assert kills.unmet(enough) == []
    assert kills.unmet(enough - {"an evaluation"}) == ["kills: none hit an evaluation of a training"]
    assert kills.unmet(enough - {"drawn"}) == ["kills: none hit samples of an analysis"]
    assert kills.unmet(enough - {phases.DECODING}) == ["kills: none hit the decoding of images"]


def test_a_table_that_cannot_be_written_is_refused_before_anything_is_attacked(tmp_path):
    result = campaign("--write", str(tmp_path / "missing" / "table.md"), "--folder", str(tmp_path / "campaign"))
    assert result.returncode == 2
    assert "there is no folder" in result.stderr
    assert not (tmp_path / "campaign").exists()


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
