"""analyze.py on a small trained run: what it writes, what it does again, and what it takes up where it was killed."""

import json
import re
import shutil
import signal
from pathlib import Path

import pytest
import running
from faults.attack import require_one_line
from faults.preparation import make_pictures
from running import Moment

import analyze
from unetrep_jax import stages

STAGES = analyze.STAGES
FIGURES = {
    "architecture", "channel_groups", "channel_marginals", "channel_selectivity",
    "channel_selectivity_by_noise", "channel_selectivity_mixture", "channel_stability", "cluster_page_1",
    "cluster_page_2", "cluster_page_3", "clusters", "clusters_by_noise", "clusters_from_classes",
    "clusters_tsne", "denoising", "emergence", "embedding", "embedding_by_level", "embedding_pairs",
    "embedding_reconstructed", "location_decoded", "location_objects", "location_shifts", "matching_loss",
    "matching_noise_level", "neighbours_1", "neighbours_by_noise", "one_matching", "participation_ratio",
    "participation_ratio_by_noise", "probe_accuracy", "probe_paths", "psnr", "reconstruction_controls",
    "reconstructions", "robustness", "robustness_cosines", "samples", "samples_nearest", "separation",
    "separation_controls", "subspaces_growth", "subspaces_near_zero", "subspaces_odds", "subspaces_overlap",
    "subspaces_spectra", "training",
}  # fmt: skip
# Only where there is something to draw: channels of a kind, labels in both sets, pairs that differ.
PERHAPS = {
    "subspaces_scatter", "top_channels_of_images", "top_images_common", "top_images_likeness", "top_images_specialised",
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return running.place_in(tmp_path_factory.getbasetemp() / "scripts")


@pytest.fixture(scope="module")
def analysed(place, tmp_path_factory) -> tuple[Path, running.Result]:
    """A copy of the finished run, analysed with labels; and what that printed."""
    run = shutil.copytree(place.finished_run, tmp_path_factory.mktemp("analysis") / "run")
    return run, place.run_fork(with_labels(place, run))


@pytest.fixture
def copy(analysed, tmp_path) -> Path:
    return shutil.copytree(analysed[0], tmp_path / "run")


def with_labels(place, run: Path, *arguments: object, **changed: object) -> list[str]:
    return place.analysis(run, *arguments, data__validation_labels=place.folder / "labels.npy", **changed)


def test_a_link_in_the_place_of_the_results_is_not_followed(place, tmp_path):
    run = shutil.copytree(place.finished_run, tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    (run / "analysis").symlink_to(tmp_path / "elsewhere")
    result = place.run_fork(place.analysis(run, "--only", "architecture"))
    require_one_line(result, "analyze.py", f"{run / 'analysis'} is a symbolic link", "--outdir")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def done(result: running.Result) -> dict[str, str]:
    """Stage -> "done" or "unchanged", of those it named."""
    return dict(re.findall(r"^(\w+): (done|unchanged)", result.out, re.MULTILINE))


def arrays(outdir: Path) -> dict[str, bytes]:
    return {name: content for name, (content, _) in running.snapshot(outdir).items() if name.endswith((".npy", ".npz"))}


def numbers(outdir: Path) -> dict:
    return {stage: values for stage, values in summary(outdir).items() if stage not in ("facts", "settings", "claims", "left_out")}


def summary(outdir: Path) -> dict:
    return json.loads((outdir / "summary.json").read_text())


def test_the_summary_holds_all_settings_as_they_were_taken(analysed):
    run, _ = analysed
    taken = summary(run / "analysis")["settings"]
    assert set(taken) == {"analysis", "data", "devices"}
    assert (taken["analysis"]["draws"], taken["analysis"]["clusters"]) == (2, [3, 4])  # as in `running.ANALYSIS`
    assert taken["data"]["validation_labels"].endswith("labels.npy")


def test_every_stage_runs_and_leaves_report_numbers_and_figures(analysed):
    run, result = analysed
    assert result.code == 0, result.err
    assert done(result) == dict.fromkeys(STAGES, "done")
    assert result.out.endswith(f"explorer: {run}/analysis/explorer/index.html\nreport: {run}/analysis/report.html\n")
    drawn = {path.name for path in (run / "analysis" / "figures").iterdir()}
    made = {Path(name).stem for name in drawn}
    assert drawn == {f"{name}.png" for name in made}
    assert made >= FIGURES and made - FIGURES <= PERHAPS, made ^ FIGURES
    page = (run / "analysis" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(made)
    assert "Claims and findings" in page
    text = (run / "analysis" / "report.md").read_text()
    assert set(re.findall(r"\]\((figures/[^)]+)\)", text)) == {f"figures/{name}" for name in drawn}
    found = numbers(run / "analysis")
    assert set(found) == set(STAGES) - {"representations", "untrained", "explorer"}
    assert (run / "analysis" / "explorer" / "index.html").exists()
    assert set(found["clusters"]["by_clusters"]) == {"3", "4"}
    assert found["clusters"]["by_clusters"]["3"]["labels"] is not None
    assert found["denoising"]["images"] == found["clusters"]["images"] == 24


def test_a_second_call_does_what_depends_on_changed_settings_and_nothing_else(place, copy):
    before = running.snapshot(copy / "analysis")
    again = place.run_fork(with_labels(place, copy, analysis__batch_size=6))
    assert (again.code, done(again)) == (0, dict.fromkeys(STAGES, "unchanged")), again.err
    after = running.snapshot(copy / "analysis")
    assert {name: after[name] for name in arrays(copy / "analysis")} == {
        name: before[name] for name in arrays(copy / "analysis")
    }
    other = place.run_fork(with_labels(place, copy, "--only", "clusters", analysis__clusters="(2,4)"))
    assert other.code == 0, other.err
    assert {stage for stage, what in done(other).items() if what == "done"} == {"clusters"}


def test_only_runs_what_is_asked_and_what_that_needs_and_redo_runs_it_again(place, copy, tmp_path):
    out = tmp_path / "out"
    commands = [
        with_labels(place, copy, "--outdir", out, "--only", "sparsity"),
        with_labels(place, copy, "--outdir", out, "--only", "sparsity", "--redo", "untrained"),
    ]
    first, second = place.run_forks(commands)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert done(first) == dict.fromkeys(("representations", "untrained", "sparsity"), "done")
    assert done(second) == {"representations": "unchanged", "untrained": "done", "sparsity": "unchanged"}
    assert set(numbers(out)) == {"sparsity"}
    assert numbers(out)["sparsity"] == numbers(copy / "analysis")["sparsity"]


KILLED = {
    "selectivity": "selectivity$",
    "clusters": "clusters$",
    "neighbours": "neighbours$",
    "probe": "probe$",
    "embedding": "embedded/reconstructions$",
    "location": "placed/trained$",
}


def test_an_analysis_killed_in_every_stage_goes_on_and_gives_identical_arrays(place, copy):
    outdir = copy / "analysis"
    expected, found = arrays(outdir), numbers(outdir)
    for stage in KILLED:
        for folder in (stage, *stages.STAGES[stage].keeps):
            shutil.rmtree(outdir / folder, ignore_errors=True)
    kills = [[Moment(signal.SIGKILL, "os.rename", f"analysis/{path}")] for path in KILLED.values()]
    *killed, last = place.run_forks([with_labels(place, copy)] * (len(kills) + 1), moments=[*kills, []])
    assert [result.code for result in killed] == [-signal.SIGKILL] * len(kills), [result.err for result in killed]
    assert last.code == 0, last.err
    assert done(last)["neighbours"] == "unchanged" and done(last)["location"] == "done"
    again = arrays(outdir)
    assert {name: again[name] for name in expected} == expected
    assert numbers(outdir) == found


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Twenty-one image files in two folders."""
    return make_pictures(tmp_path_factory.mktemp("pictures"), 21)


def test_other_images_may_be_a_folder_an_array_or_the_photographs(place, analysed, pictures):
    run, _ = analysed
    array = place.folder / "train.npy"
    sources = {"photographs": 21, pictures: 21, array: 21}
    changed = {"analysis__images": 21, "analysis__draws": 1}
    before = running.snapshot(run / "analysis")
    commands = [place.analysis(run, "--only", "clusters", "--images", source, **changed) for source in sources]
    for (source, count), result in zip(sources.items(), place.run_forks(commands, at_once=2), strict=True):
        assert result.code == 0, result.err
        out = Path(re.search(r"^report: (.*)/report.html$", result.out, re.MULTILINE)[1])
        assert out.parent == run
        assert out.name.startswith("analysis-")
        assert numbers(out)["clusters"]["images"] == count
        labelled = numbers(out)["clusters"]["by_clusters"]["3"]["labels"] is not None
        assert labelled == (source != array)
    assert running.snapshot(run / "analysis") == before


def test_a_single_checkpoint_is_analysed_elsewhere_and_stays_as_it_is(place, analysed, tmp_path):
    checkpoint = shutil.copytree(analysed[0] / "best" / "40", tmp_path / "mine")
    before = running.snapshot(checkpoint)
    result = place.run_fork(place.analysis(checkpoint, "--only", "denoising"))
    assert result.code == 0, result.err
    assert running.snapshot(checkpoint) == before
    outdir = place.folder / "runs" / "mine" / "analysis"
    assert (outdir / "report.html").exists()
    shutil.rmtree(place.folder / "runs")


def test_a_digit_that_changed_in_the_log_of_a_run_is_named_and_its_curves_are_left_out(place, tmp_path):
    run = shutil.copytree(place.finished_run, tmp_path / "run")
    command = place.analysis(run, "--only", "architecture")
    whole = place.run_fork(command)
    assert (whole.code, whole.err) == (0, "")
    assert (run / "analysis" / "figures" / "training.png").exists()
    log = run / "metrics.jsonl"
    content = log.read_text()
    digit = content.index('"loss": ') + len('"loss": ')
    log.write_text(content[:digit] + str(9 - int(content[digit])) + content[digit + 1 :])
    result = place.run_fork(command)
    assert result.code == 0, result.err
    [line] = result.err.splitlines()
    assert line.startswith(f"{log} is damaged: up to step 40 ")
    assert not (run / "analysis" / "figures" / "training.png").exists()
    log.unlink()
    result = place.run_fork(command)
    assert result.code == 0 and f"{log} is damaged" in result.err
    assert not (place.folder / "runs").exists()


def test_a_full_disk_costs_nothing_that_was_there(place, copy):
    before = {name: file for name, file in running.snapshot(copy / "analysis").items() if not name.startswith(".")}
    command = with_labels(place, copy, "--redo", "denoising", "sparsity")
    result = place.run(command, prefix=running.limited("-f", 4))
    require_one_line(result, "analyze.py", "File too large", "No space left")
    after = running.snapshot(copy / "analysis")
    assert {name: after[name] for name in before} == before
