"""The stages of the union of subspaces and of the architecture, on representations that were planted."""

import re

import jax
import jax.numpy as jnp
import matplotlib.text
import numpy as np
import pytest
from test_stages import colour_denoiser, make_context  # noqa: F401

from unetrep_jax import clusters, denoiser, models, report, stages, storage
from unetrep_jax.stages import architecture, subspaces, subspaces_section

CHANNELS, IMAGES = 12, 60
GROUP = np.arange(IMAGES) % 3  # of each image
OWN = np.repeat([0, 1, 2, 3], 3)  # of each channel: three groups' own, and the common ones


def union() -> np.ndarray:
    """phi of 60 images: three channels of the image's group, and three common ones."""
    on = (GROUP[:, None] == OWN) | (OWN == 3)
    return (on * np.random.default_rng(0).uniform(1, 1.2, on.shape)).astype(np.float32)


@pytest.fixture
def planted(make_context):  # noqa: F811
    """(phi at the working level, phi without noise, untrained) -> context with the files of the stages before."""

    def make(working, quiet, untrained, specialised=OWN < 3, **settings):
        context = make_context(**settings)
        weights = np.ones((3, CHANNELS), np.float32)
        context = context._replace(denoiser=colour_denoiser(weights))
        write_sweep(context, "representations", quiet, working)
        write_sweep(context, "untrained", quiet[context.untrained_subset], untrained[context.untrained_subset])
        channels = {
            "threshold": quiet.max(0).astype(np.float64),
            "specialised": specialised,
            "common": OWN == 3,
            "dead": working.max(0) == 0,
        }
        write(context.outdir / "selectivity", {f"channels/{name}": values for name, values in channels.items()})
        return context

    return make


def write_sweep(context, stage, quiet, working):
    """Channel averages [n, 3 levels, 4 blocks x 12], of which only those of the middle block matter."""
    means = np.zeros((len(working), 3, 4 * CHANNELS), np.float32)
    means[:, 0, 2 * CHANNELS : 3 * CHANNELS], means[:, 2, 2 * CHANNELS : 3 * CHANNELS] = quiet, working
    (context.outdir / stage).mkdir(parents=True)
    np.save(context.outdir / stage / "mean.npy", means)


def write(folder, arrays):
    folder.mkdir(parents=True)
    np.savez(folder / "arrays.npz", **arrays)


@pytest.fixture
def unsaved(monkeypatch, tmp_path):
    """Figures are made and not saved, which takes most of the time."""
    for stage in (subspaces_section, architecture):
        monkeypatch.setattr(
            stage, "picture", lambda _, figure, name, caption: report.Picture(tmp_path / name, caption, "")
        )


def run(context, name="subspaces"):
    """(arrays, summary) as `write_report` reads them, and the section."""
    folder = context.outdir / name
    stages.STAGES[name].run(context, folder, "key")
    with np.load(folder / "arrays.npz") as found:
        arrays = dict(found)
    summary = storage.read_json(folder / "summary.json")
    return arrays, summary, stages.STAGES[name].section(context, arrays, summary)


def words_of(section) -> str:
    claims = [word or "" for claim in section.claims for word in claim]
    cells = [cell or "–" for table in section.tables for row in table.rows for cell in row]
    return "\n".join([*section.text, *claims, *cells, *(p.caption for p in section.figures)])


def test_a_planted_union_is_reported_and_its_null_is_not(planted, unsaved):
    quiet = np.full((IMAGES, CHANNELS), 0.5, np.float32) * (OWN != 3)
    quiet[:, OWN == 3] = 0.005
    noise = np.random.default_rng(3).uniform(0.9, 1.1, (IMAGES, CHANNELS)).astype(np.float32)
    arrays, summary, section = run(planted(union(), quiet, noise))
    trained, permuted = (summary["sets"][name]["threshold"] for name in ("trained", "permuted"))
    assert trained["size"]["median"] == 6 and trained["always_on"] == 3 and trained["never_on"] == 0
    assert trained["energy_inside"]["median"] == 1
    assert trained["overlap"]["within"]["median"] == 1
    assert trained["overlap"]["between"]["median"] == pytest.approx(3 / 9)
    assert permuted["overlap"]["within"]["median"] < 0.9
    assert trained["distinct"]["all"] == {"supports": 3, "new_in_second_half": 0}
    assert permuted["distinct"]["all"]["supports"] > 30
    assert trained["pairs"]["pairs"] == 36 and trained["pairs"]["exclusive"] == pytest.approx(27 / 36)
    assert permuted["pairs"]["exclusive"] < 0.2 and trained["pairs"]["together"] == pytest.approx(9 / 36)
    assert summary["sets"]["untrained"]["images"] == 30 and summary["sets"]["same_images"]["images"] == 30
    assert summary["sets"]["trained"]["effective_channels"]["median"] == pytest.approx(6, rel=0.02)
    assert {claim.claim[:12]: claim.holds for claim in section.claims}["Two speciali"] == "yes"
    assert not re.search(r"\bnan\b", words_of(section).lower())
    np.testing.assert_allclose(summary["near_zero"]["trained"]["share_of_channels"], [0, 3 / 12, 3 / 12])
    assert arrays["odds/threshold/trained"].shape == (36,)
    odds, between = permuted["pairs"]["median"], permuted["overlap"]["medians"]["between"]
    assert odds["low"] < odds["value"] < odds["high"] and between["low"] < between["value"] < between["high"]
    assert odds["value"] == pytest.approx(np.median(np.exp(arrays["odds/threshold/permuted"])))
    assert between["value"] == pytest.approx(permuted["overlap"]["between"]["median"])
    assert f"({permuted['overlap']['medians']['within']['low']:.3f}–" in section.claims[2].null
    for name, row in summary["spectra"].items():
        found = row["dimension"]
        for kind in ("inside", "random"):
            shares = np.diff(arrays[f"spectrum/{kind}/{name}"], axis=1, prepend=0)
            assert found[kind]["value"] == pytest.approx((1 / (shares**2).sum(1)).mean())
        assert found["ratio"]["value"] == pytest.approx(found["inside"]["value"] / found["random"]["value"])
        assert len(arrays[f"spectrum/whole/{name}"]) == 12 and 1 <= found["whole"] <= 12
    found = summary["spectra"]["trained"]["dimension"]
    # Three far groups span two dimensions between them, and six channels inside: no fewer.
    assert found["whole"] < 3 < found["inside"]["low"] and section.claims[3].holds == "no"
    assert f"ratio {found['ratio']['value']:.2f} (" in section.claims[3].here


def test_the_scatter_shows_two_channels_that_exclude_each_other_and_a_common_one(planted):
    arrays, summary, section = run(planted(union(), np.zeros((IMAGES, CHANNELS), np.float32), union()))
    trained, permuted = (summary["scatter"]["clouds"][name] for name in ("trained", "permuted"))
    first, second, third = trained["channels"]
    assert OWN[first] != OWN[second] and OWN[first] < 3 and OWN[second] < 3 and OWN[third] == 3
    assert (trained["both"], trained["either"], trained["common"]) == (0, 40, True)
    np.testing.assert_array_equal(arrays["scatter/trained"], union()[:, [first, second, third]])
    # The null shows the lowest of its own pairs, which is lower than that of the pair that is the lowest without permuting.
    null = clusters.permuted_null(union(), 0)
    np.testing.assert_array_equal(arrays["scatter/permuted"], null[:, permuted["channels"]])
    odds = np.exp(subspaces.subspaces.log_odds_ratios(null[:, :9] > 0, 5).ratio)
    assert permuted["odds_ratio"] == pytest.approx(np.nanmin(odds)) and permuted["odds_ratio"] <= odds[first, second]
    assert trained["odds_ratio"] < permuted["odds_ratio"]
    caption = section.figures[0].caption
    assert "Of all pairs of specialised channels" in caption and "of the 40 images" in caption
    assert section.figures[0].path.stem == "subspaces_scatter"
    assert len({p.path for p in section.figures}) == len(section.figures)


@pytest.mark.parametrize("case", ["threshold above all", "threshold below all", "constant", "zero"])
def test_representations_without_supports_are_reported_without_nan(planted, unsaved, monkeypatch, case):
    if case == "constant":
        monkeypatch.undo()
    phi = union() + 1
    if case in ("constant", "zero"):
        phi = np.full_like(phi, case == "constant")
    quiet = np.full_like(phi, 9 if case == "threshold above all" else 0)
    context = planted(phi, quiet, phi, specialised=np.zeros(CHANNELS, bool), untrained_images=0)
    _, summary, section = run(context)
    threshold = summary["sets"]["trained"]["threshold"]
    expected = {"threshold above all": (12, 0), "threshold below all": (0, 12), "constant": (0, 12), "zero": (12, 0)}
    assert (threshold["never_on"], threshold["always_on"]) == expected[case]
    assert "same_images" not in summary["sets"] and threshold["pairs"]["pairs"] == 0
    assert not re.search(r"\bnan\b|None", words_of(section))
    assert (summary["scatter"] is None) == (case in ("constant", "zero"))
    if summary["scatter"]:
        assert "no two specialised channels" in section.figures[0].caption
        assert "Of all pairs of specialised channels" not in section.figures[0].caption


def test_a_representation_and_its_null_have_as_many_clusters_as_their_images_support(planted, unsaved):
    quiet = np.zeros((IMAGES, CHANNELS), np.float32)
    _, summary, section = run(planted(union(), quiet, union(), clusters=(50,), cluster_members=10))
    assert {name: row["clusters"] for name, row in summary["sets"].items()} == {
        "trained": 6, "permuted": 6, "same_images": 3, "untrained": 3,
    }  # fmt: skip
    assert [row[1] for row in section.tables[2].rows][:4] == ["6", "6", "3", "3"]


@pytest.mark.parametrize(("members", "left"), [(20, {"trained", "permuted"}), (40, set())])
def test_too_few_images_for_two_clusters_leave_overlap_and_spectra_out_and_say_so(planted, unsaved, members, left):
    quiet = np.zeros((IMAGES, CHANNELS), np.float32)
    arrays, summary, section = run(planted(union(), quiet, union(), clusters=(50,), cluster_members=members))
    assert set(summary["spectra"]) == left
    assert {name for name, row in summary["sets"].items() if row["clusters"]} == left
    assert np.isnan(arrays["overlap/threshold/untrained"]).all()
    assert any(f"Fewer than {2 * members} images" in text for text in section.text)
    assert not re.search(r"\bnan\b|None", words_of(section))
    assert section.claims[2].holds == ""


def definition_rows(trained, permuted, untrained, **others):
    return {"trained": trained, "permuted": permuted, "untrained": untrained} | others


def exclusive(share):
    return {"pairs": {"pairs": 0 if share is None else 9, "exclusive": share}}


def test_pairs_exclude_each_other_where_most_do_significantly():
    found = [subspaces_section.mostly_exclusive(exclusive(share)) for share in (0.6, 0.4, None)]
    assert found == [True, False, None]


def overlap_row(within, between, size=5):
    return {"size": {"median": size}, "overlap": {"within": {"median": within}, "between": {"median": between}}}


@pytest.mark.parametrize(
    ("trained", "permuted", "untrained", "word"),
    [
        ((0.5, 0.2), (0.3, 0.2), (0.3, 0.2), "yes"),
        ((0.5, 0.2), (0.6, 0.2), (0.3, 0.2), "in part"),
        ((0.5, 0.2), (0.3, 0.2), (0.6, 0.2), "in part"),
        ((0.2, 0.5), (0.3, 0.2), (0.3, 0.2), "no"),
        ((None, 0.2), (0.3, 0.2), (0.3, 0.2), ""),
        ((0.5, 0.2), (0.3, 0.2), (None, None), ""),
    ],
)
def test_supports_are_more_alike_within_clusters_by_more_than_in_the_nulls(trained, permuted, untrained, word):
    rows = definition_rows(*(overlap_row(*numbers) for numbers in (trained, permuted, untrained)))
    assert report.verdict(subspaces_section.more_alike(rows, "trained")) == word


def test_overlap_is_held_against_the_untrained_network_at_the_same_images():
    rows = definition_rows(
        *(overlap_row(*n) for n in ((0.9, 0.2), (0.3, 0.2), (0.5, 0.2))), same_images=overlap_row(0.4, 0.2)
    )
    assert report.verdict(subspaces_section.more_alike(rows, "same_images")) == "in part"
    assert report.verdict(subspaces_section.more_alike(rows, "trained")) == "yes"


def test_the_spectra_of_every_representation_are_drawn_inside_of_random_images_and_of_all(planted):
    quiet = np.zeros((IMAGES, CHANNELS), np.float32)
    context = planted(union(), quiet, union())
    arrays, summary, _ = run(context)
    panels = {}
    original = subspaces_section.figures.spectra

    def kept(given, *, part):
        panels.update(given)
        return original(given, part=part)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subspaces_section.figures, "spectra", kept)
        subspaces_section.section_subspaces(context, arrays, summary)
    assert len(panels) == 4 and all(
        list(series) == list(subspaces_section.SPECTRA.values()) for series in panels.values()
    )
    np.testing.assert_allclose(
        panels["trained, 60 images"]["all images"].T,
        [np.cumsum(subspaces.subspaces.variance_shares(union()))] * 3,
        rtol=1e-5,
    )
    figure = original(panels, part=0.9)
    drawn = [line.get_ydata() for line in figure.axes[0].lines]
    for bands in panels["trained, 60 images"].values():
        assert any(len(y) == len(bands) and np.allclose(y, bands[:, 1]) for y in drawn)
    assert len(original({}, part=0.9).axes) == 1  # no clusters, no spectra: an empty panel that says so


def dimension_row(value, high):
    return {"dimension": {"ratio": {"value": value, "low": None, "high": high}}}


@pytest.mark.parametrize(
    ("trained", "permuted", "untrained", "word"),
    [
        ((0.5, 0.6), (0.8, 0.9), (1.2, 1.3), "yes"),
        ((0.5, 0.6), (0.4, 0.9), (1.2, 1.3), "in part"),
        ((0.5, 0.6), (0.4, 1.1), (0.5, 0.6), "in part"),
        ((0.5, 0.6), (0.4, 1.1), (0.9, 1.1), "yes"),  # a null that is below 1 by chance alone is none
        ((0.9, 1.1), (0.8, 0.9), (0.8, 0.9), "no"),
        ((2.0, 3.0), (1.2, 1.3), (1.2, 1.3), "no"),
        ((None, None), (0.8, 0.9), (0.8, 0.9), ""),
        ((0.5, 0.6), (None, None), (0.8, 0.9), ""),
    ],
)
def test_clusters_span_fewer_dimensions_than_random_images_by_more_than_the_nulls(trained, permuted, untrained, word):
    rows = definition_rows(*(dimension_row(*numbers) for numbers in (trained, permuted, untrained)))
    assert report.verdict(subspaces_section.lower_inside(rows, "trained")) == word
    assert report.verdict(subspaces_section.lower_inside({}, "trained")) == ""


def test_a_share_of_channels_is_the_published_one_and_most_supports_are_new():
    shares = [
        subspaces_section.published_share({"effective_channels": {"median": m}}, 512) for m in (130, 90, 200, None)
    ]
    assert shares == [True, False, False, None]
    rows = [{"distinct": {"all": {"new_in_second_half": share}}} for share in (0.7, 0.3)]
    assert [subspaces_section.mostly_new(row) for row in rows] == [True, False]


@pytest.mark.parametrize(
    ("trained", "untrained", "word"),
    [
        ((0.0, 0.33, 0.9), (0.0, 0.0, 0.0), "yes"),
        ((0.0, 0.33, 0.9), (0.0, 0.4, 0.9), "in part"),
        ((0.0, 0.1, 0.33), (0.0, 0.0, 0.0), "in part"),
        ((0.0, 0.0, 0.1), (0.0, 0.0, 0.0), "no"),
        ((None,) * 3, (0.0, 0.0, 0.0), ""),
        ((0.0, 0.33, 0.9), (None,) * 3, ""),
    ],
)
def test_a_third_of_the_channels_is_near_zero_and_not_so_without_training(trained, untrained, word):
    assert subspaces_section.third_near_zero(trained, untrained) == word


def test_the_real_stages_feed_it_and_the_same_seed_gives_the_same_arrays(make_context, unsaved):  # noqa: F811
    context = make_context(clusters=(3,))
    stages.run_stages(context, ["representations", "untrained"], [])
    groups = {"threshold": np.full(6, 0.1), "dead": np.zeros(6, bool)}
    groups |= {"specialised": np.arange(6) < 3, "common": np.arange(6) >= 3}
    write(context.outdir / "selectivity", {f"channels/{name}": values for name, values in groups.items()})
    first, _, section = run(context)
    second, _, _ = run(context)
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])
    assert len(section.tables) == 6 and len(section.figures) >= 5
    assert {len(row) for table in section.tables for row in table.rows} <= {len(t.header) for t in section.tables}


# Architecture


def zeros(model, size=64):
    """The model with parameters of zeros: its shapes need no compiled program."""
    images = jax.ShapeDtypeStruct((1, size, size, model.image_channels), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    return denoiser.bind(model, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes))


def test_the_published_network_has_its_published_shapes(make_context, unsaved):  # noqa: F811
    context = make_context()
    context = context._replace(denoiser=zeros(models.UNet()))
    arrays, summary, section = run(context, "architecture")
    layers = {name: block["layers"] for name, block in summary["blocks"].items()}
    assert list(layers.items()) == [
        *(("encoder0", 2), ("encoder1", 2), ("encoder2", 2), ("mid", 3)),
        *(("decoder2", 6), ("decoder1", 6), ("decoder0", 5)),
    ]
    assert summary["blocks"]["mid"]["last"] == [1, 1, 512] and summary["phi"] == 512
    assert summary["activations"] == 8 * 8 * (64 * 7 + 128 * 8 / 4 + 256 * 8 / 16 + 512 * 3 / 64)
    assert sum(block["share"] for block in summary["blocks"].values()) == pytest.approx(1)
    assert [row[-1] for row in section.tables[0].rows][3] == "3 × 512"
    np.testing.assert_array_equal(arrays["decoder2"], [[2, 2, 256]] * 6)


def test_layers_are_drawn_as_wide_as_their_channels_and_as_high_as_their_resolution():
    drawn = [
        figures_of("encoder0", (8, 8), 32),
        figures_of("mid", (16,), 16),
        figures_of("decoder0", (8, 4), 32, "encoder0"),
    ]
    figure = architecture.figures.architecture(drawn, image=(32, 32, 1), read_from="mid", read_channels=16)
    boxes = [patch for patch in figure.axes[0].patches if hasattr(patch, "get_width") and patch.get_width() > 0][:5]
    widths, heights = (np.array([getattr(box, f"get_{side}")() for box in boxes]) for side in ("width", "height"))
    np.testing.assert_allclose(widths / widths[0], [1, 1, 2, 1, 0.5])
    np.testing.assert_allclose(heights / heights[0], [1, 1, 0.5, 1, 1])
    words = "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))
    assert all(word in words for word in ("↓ 2", "↑ 2", "32×32×1", "φ: 16 spatial means", "4 to 8 channels"))


def figures_of(name, channels, size, skip_from=""):
    return architecture.figures.DrawnBlock(name, channels, size, size, skip_from)


@pytest.mark.parametrize(
    "names", [("mid", "decoder0"), ("encoder0", "mid", "out"), ("stem", "encoder0", "body", "mid", "head")]
)
def test_a_denoiser_of_another_build_is_drawn_too(make_context, names):  # noqa: F811
    def activations(y):
        return {f"{name}.{k}": y[:, ::2] for name in names[:-1] for k in (0, 1)}

    other = denoiser.Denoiser(lambda y: y, activations, lambda y: y.mean((1, 2)), names)
    _, summary, section = run(make_context()._replace(denoiser=other), "architecture")
    assert list(summary["blocks"]) == list(names) and summary["blocks"][names[-1]]["last"] is None
    assert section.tables[0].rows[-1][1:4] == ("0", None, None)
    assert section.figures[0].path.exists()
