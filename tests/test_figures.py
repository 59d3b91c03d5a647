import hashlib
import os
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from unetrep_jax import figures
from unetrep_jax.figures import clusters as cluster_figures
from unetrep_jax.figures import emergence, style

BLOCKS = ("encoder1", "encoder2", "mid", "decoder2", "decoder1")
random = np.random.default_rng(0)


def ratios(nan: bool = False) -> dict:
    return {b: tuple(np.full(40, np.nan) if nan else random.uniform(0.1, 0.9, 40) for _ in range(2)) for b in BLOCKS}


def medians(by_block: dict) -> dict:
    """Of ratios without NaN, or of nothing but NaN."""
    return {block: tuple(float(np.median(end)) for end in ends) for block, ends in by_block.items()}


def histograms(trained: dict, untrained: dict, levels_text: str = "") -> Figure:
    of_both = medians(trained), medians(untrained)
    return figures.participation_ratio_histograms(trained, untrained, *of_both, levels_text=levels_text)


def bands(levels: int) -> dict:
    return {block: np.sort(random.uniform(0, 1, (levels, 3)), -1) for block in BLOCKS}


def words(figure: Figure) -> str:
    figure.draw_without_rendering()
    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def line(axes, label: str):
    return next(found for found in axes.lines if found.get_label() == label)


# Lines


def test_no_two_lines_of_one_panel_look_alike():
    axes = Figure().subplots()
    style.draw_series(axes, np.arange(3), {str(n): np.arange(3.0) for n in range(21)})
    looks = [(found.get_color(), found.get_marker(), str(found._dash_pattern)) for found in axes.lines]
    assert len(set(looks)) == 21 and {look.get_linestyle() for look in axes.lines[:7]} == {"-"}
    axes = Figure().subplots()
    style.draw_series(axes, np.arange(3), {str(n): np.arange(3.0) for n in range(7)}, ["#000000"])
    assert {found.get_linestyle() for found in axes.lines} == {"-"}  # markers tell them apart


# Axes


def labels(axis) -> list[str]:
    axis.get_figure().draw_without_rendering()
    return [text.get_text() for text in (*axis.get_majorticklabels(), *axis.get_minorticklabels()) if text.get_text()]


@pytest.mark.parametrize(
    ("low", "high", "least", "ticks"),
    [
        (0.03, 400, 3, [0.1, 1, 10, 100]),
        (1e-8, 2, 3, [1e-8, 1e-6, 1e-4, 1e-2, 1]),  # every second power
        (0.25, 4, 3, [0.3, 1, 3]),
        (0.15, 1.2, 3, [0.2, 0.5, 1]),
        (0.25, 0.9, 3, [0.5]),
        (10, 765, 3, [10, 30, 100, 300]),
        (10, 765, 2, [10, 100]),
        (7, 7, 3, [7]),
    ],
)
def test_ticks_of_a_logarithmic_axis_are_few_and_round(low, high, least, ticks):
    found = style.few_ticks(low, high, least)
    if len(ticks) == 1 and low < high:  # too narrow for 1, 2 and 5
        assert ticks[0] not in (low, high) and 2 <= len(found) <= 4 and low <= found.min() < found.max() <= high
    else:
        np.testing.assert_allclose(found, ticks)


@pytest.mark.parametrize(("low", "high"), [(0.15, 1.2), (0.25, 0.7), (0.30, 0.33), (2e-5, 9e-5), (1e-4, 30), (1, 4000)])
def test_labels_of_a_small_panels_logarithmic_axes_do_not_touch(low, high):
    spread = np.geomspace(low, high, 9)
    figure = figures.separation_scatter({str(i): {"fitted": (2 * spread, spread)} for i in range(5)})
    figure.draw_without_rendering()
    for axis in (figure.axes[1].xaxis, figure.axes[0].yaxis):
        assert 2 <= len(labels(axis)) <= 6
        boxes = [text.get_window_extent() for text in axis.get_majorticklabels() if text.get_text()]
        assert not [1 for i, box in enumerate(boxes) for other in boxes[:i] if box.overlaps(other)]


def test_labels_are_plain_numbers_unless_an_axis_reaches_very_small_or_large_ones():
    for low, high, expected in (
        (0.15, 1.2, ["0.2", "0.5", "1"]),
        (0.5, 2000, ["1", "10", "100", "1000"]),
        (2e-5, 2e-4, ["$2\\times10^{-5}$", "$5\\times10^{-5}$", "$10^{-4}$", "$2\\times10^{-4}$"]),
        (0.0005, 2, ["$10^{-3}$", "$10^{-2}$", "$10^{-1}$", "$10^{0}$"]),
    ):
        axes = Figure().subplots()
        axes.plot([1, 2], [low, high])
        style.log_axis(axes.yaxis)
        axes.set_ylim(low, high)
        assert labels(axes.yaxis) == expected
        assert axes.get_yscale() == "log"


def test_noise_levels_within_a_decade_are_named_by_a_few_round_ones():
    sigmas = np.arange(20.0, 95, 5) / 255
    figure = figures.participation_ratio_by_noise(sigmas, bands(15), {})
    assert labels(figure.axes[0].xaxis) == ["20", "50"]


# Participation ratio


def test_ratio_histograms_show_trained_above_untrained_in_the_order_of_the_blocks():
    figure = histograms(ratios(), ratios(), "σ = 100/255, 40 images")
    assert len(figure.axes) == 10
    assert [axes.get_title() for axes in figure.axes[:5]] == list(BLOCKS)
    assert [figure.axes[i].get_ylabel().split("\n")[0] for i in (0, 5)] == ["trained", "untrained"]
    assert {axes.get_xlim() for axes in figure.axes} == {(0, 1)}
    assert "σ = 100/255, 40 images" in words(figure)


def test_ratio_histograms_count_every_image_once_and_mark_the_medians():
    trained = ratios()
    figure = histograms(trained, ratios())
    axes = figure.axes[2]
    for end, values in zip(("input", "output"), trained["mid"], strict=True):
        outline = next(patch for patch in axes.patches if patch.get_label() == end).get_path().vertices
        shares, edges = np.histogram(values, 50, (0, 1))
        steps = [(edge, share / 40) for i, share in enumerate(shares) for edge in edges[i : i + 2]]
        assert {(round(x, 6), round(y, 6)) for x, y in steps} <= {(round(x, 6), round(y, 6)) for x, y in outline}
        assert line(axes, f"median {end}").get_xdata()[0] == np.median(values)
    assert f"{np.median(trained['mid'][0]):.2f} → {np.median(trained['mid'][1]):.2f}" in words(figure)


def test_a_nan_is_left_out_of_the_ratio_histograms():
    trained, untrained = ratios(), ratios()
    with_nan = {block: tuple(np.append(end, np.nan) for end in ends) for block, ends in trained.items()}
    same = histograms(trained, untrained)
    figure = figures.participation_ratio_histograms(
        with_nan, untrained, medians(trained), medians(untrained), levels_text=""
    )
    for axes, expected in zip(figure.axes, same.axes, strict=True):
        for patch, other in zip(axes.patches, expected.patches, strict=True):
            np.testing.assert_array_equal(patch.get_path().vertices, other.get_path().vertices)


def test_a_block_without_numbers_says_no_data():
    trained, untrained = ratios(), ratios()
    trained["mid"] = (np.full(3, np.nan), np.full(3, np.nan))
    del untrained["mid"]
    assert words(histograms(trained, untrained)).count("no data") == 2


@pytest.mark.parametrize("missing", [None, np.nan])
def test_medians_are_drawn_as_given_and_a_missing_one_is_a_dash(missing):
    given = dict.fromkeys(BLOCKS, (0.123, missing))
    figure = figures.participation_ratio_histograms(ratios(), ratios(), given, given, levels_text="")
    assert words(figure).count("0.12 → –") == 10
    assert [[found.get_xdata()[0] for found in axes.lines] for axes in figure.axes] == [[0.123]] * 10


def test_ratios_by_noise_are_drawn_as_given_with_sigma_zero_inside_the_frame():
    sigmas, trained, untrained = np.array([0, 10, 100, 765]) / 255, bands(4), bands(4)
    figure = figures.participation_ratio_by_noise(sigmas, trained, untrained)
    assert len(figure.axes) == 5
    figure.draw_without_rendering()
    for axes, block in zip(figure.axes, BLOCKS, strict=True):
        for name, given in {"trained": trained, "untrained": untrained}.items():
            np.testing.assert_allclose(line(axes, name).get_xdata(), [0, 10, 100, 765])
            np.testing.assert_array_equal(line(axes, name).get_ydata(), given[block][:, 1])
        assert axes.get_xscale() == "symlog"
        assert axes.get_xlim()[0] < 0 < 765 < axes.get_xlim()[1]
        assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "10", "100"]
    assert "1/255" in words(figure)


def test_without_sigma_zero_the_noise_axis_is_logarithmic():
    figure = figures.participation_ratio_by_noise(np.array([10.0, 50.0]) / 255, bands(2), {})
    assert figure.axes[0].get_xscale() == "log"


# Lines


def test_curves_draw_the_given_numbers_bands_and_reference():
    x, plain, band = np.arange(5.0), random.normal(size=5), np.sort(random.normal(size=(5, 3)), -1)
    figure = figures.curves(
        x, {"plain": plain, "band": band}, xlabel="time (s)", ylabel="height (m)", reference=("chance", 0.25)
    )
    (axes,) = figure.axes
    np.testing.assert_array_equal(line(axes, "plain").get_ydata(), plain)
    np.testing.assert_array_equal(line(axes, "band").get_ydata(), band[:, 1])
    corners = axes.collections[0].get_paths()[0].vertices
    assert {tuple(corner) for corner in corners} == {(i, band[i, j]) for i in range(5) for j in (0, 2)}
    assert set(line(axes, "chance").get_ydata()) == {0.25}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("time (s)", "height (m)")
    assert all(name in words(figure) for name in ("plain", "band", "chance"))


def test_a_logarithmic_axis_leaves_out_what_is_not_positive():
    figure = figures.curves(np.array([0, 1, 10]), {"a": np.arange(3.0)}, xlabel="", ylabel="", log_x=True)
    np.testing.assert_array_equal(line(figure.axes[0], "a").get_xdata(), [np.nan, 1, 10])
    assert figure.axes[0].get_xscale() == "log"


def test_the_denoising_curve_shows_output_against_input_and_their_difference():
    sigmas = np.array([10, 25, 50, 100]) / 255
    noisy = -20 * np.log10(sigmas)
    series = {"network": noisy + np.array([4, 7, 10, 13]), "Wiener": noisy[:, None] + [1.0, 2.0, 3.0]}
    figure = figures.denoising_curve(sigmas, noisy, series)
    left, right = figure.axes
    np.testing.assert_array_equal(line(left, "network").get_xdata(), noisy)
    np.testing.assert_array_equal(line(left, "network").get_ydata(), series["network"])
    np.testing.assert_allclose(line(right, "network").get_ydata(), [4, 7, 10, 13])
    np.testing.assert_allclose(line(right, "Wiener").get_ydata(), [2, 2, 2, 2])
    assert all(text in words(figure) for text in ("noisy input", "25", "100", "dB"))


def test_the_denoising_curve_leaves_out_the_noiseless_level():
    figure = figures.denoising_curve(np.array([0, 0.1]), np.array([np.inf, 20.0]), {"network": np.array([60.0, 27.0])})
    np.testing.assert_array_equal(line(figure.axes[0], "network").get_xdata(), [20])
    figure.draw_without_rendering()


def test_noise_levels_too_close_to_name_are_drawn_but_not_named():
    sigmas = np.array([10, 100, 101, 102, 200]) / 255
    noisy = -20 * np.log10(sigmas)
    figure = figures.denoising_curve(sigmas, noisy, {"network": noisy + 1})
    assert len(line(figure.axes[0], "network").get_xdata()) == 5
    above = figure.axes[0].child_axes[0]
    assert [label.get_text() for label in above.get_xticklabels()] == ["200", "102", "10"]


def test_training_curves_draw_the_given_numbers():
    seen, loss = np.arange(1, 9) * 512, np.geomspace(900, 100, 8)
    psnr = random.uniform(10, 40, (3, 2))
    figure = figures.training_curves(seen, loss, seen[:3], psnr, np.array([25, 50]) / 255)
    left, right = figure.axes
    np.testing.assert_array_equal(line(left, "loss").get_ydata(), loss)
    np.testing.assert_array_equal(line(left, "loss").get_xdata(), seen)
    assert left.get_yscale() == "log"
    np.testing.assert_array_equal(line(right, "25").get_ydata(), psnr[:, 0])
    np.testing.assert_array_equal(line(right, "50").get_ydata(), psnr[:, 1])


# Images


def test_the_denoising_strip_shows_every_image_with_its_sigma_and_psnr():
    clean = random.uniform(size=(2, 8, 8, 3))
    noisy = clean + random.normal(size=(3, 2, 8, 8, 3))
    sigmas = np.array([10, 25, 100]) / 255
    psnr = np.arange(6.0).reshape(3, 2) + 20
    figure = figures.denoising_strip(clean, noisy, noisy / 2, sigmas, noisy_psnr=psnr, denoised_psnr=psnr + 10)
    (axes,) = figure.axes
    drawn = [image.get_array() for image in axes.images]
    expected = [*clean, *(image for n in noisy for image in (*n, *(n / 2)))]
    assert len(drawn) == 14
    for image, given in zip(drawn, expected, strict=True):
        np.testing.assert_array_equal(image, np.clip(given, 0, 1))
    text = words(figure)
    assert all(f"σ = {level}/255" in text for level in (10, 25, 100))
    assert all(f"{value:.1f} dB" in text for value in (*psnr.ravel(), *(psnr + 10).ravel()))


def test_every_image_pixel_is_a_square_of_equal_png_pixels(tmp_path):
    images = random.integers(0, 256, (2, 3, 13, 17, 3), dtype=np.uint8)
    png = np.asarray(Image.open(figures.save(figures.cluster_grid(images, [1, 2], ["", ""]), tmp_path, "grid")))[
        ..., :3
    ]
    zoom = round(150 / 17)
    for image in images.reshape(6, 13, 17, 3):
        tile = np.repeat(np.repeat(image, zoom, 0), zoom, 1)
        corner = np.argwhere((png == tile[0, 0]).all(-1))
        places = (png[y : y + tile.shape[0], x : x + tile.shape[1]] for y, x in corner)
        assert any(place.shape == tile.shape and (place == tile).all() for place in places)


def test_cluster_rows_carry_their_number_and_title():
    figure = figures.cluster_grid(random.uniform(size=(2, 4, 8, 8, 3)), [7, 93], ["412 images\n34 % beach", "9 images"])
    assert all(text in words(figure) for text in ("cluster 7", "cluster 93", "412 images\n34 % beach", "9 images"))


def test_grey_images_are_shown_grey_between_fixed_black_and_white():
    images = random.uniform(0.4, 0.6, (1, 2, 8, 8, 1)).astype(np.float32)
    (axes,) = figures.cluster_grid(images, np.array([0]), [""]).axes
    for drawn, given in zip(axes.images, images[0, ..., 0], strict=True):
        np.testing.assert_allclose(drawn.get_array(), given)
        assert (drawn.get_clim(), drawn.cmap.name) == ((0, 1), "gray")


def test_a_place_without_image_stays_empty():
    images = random.uniform(size=(1, 3, 8, 8, 3))
    images[0, 2] = np.nan
    assert len(figures.cluster_grid(images, [0], [""]).axes[0].images) == 2


# Separation


def test_the_separation_scatter_has_spread_across_distance_up_and_lines_of_slope_1_2_4():
    distance, spread = np.array([1.0, 2.0, np.nan]), np.array([0.5, 1.5, 1.0])
    held_out = np.array([1.0, -2.0]), np.array([0.25, 1.5])
    figure = figures.separation_scatter({"clusters": {"fitted": (distance, spread), "held out": held_out}})
    (axes,) = figure.axes
    np.testing.assert_array_equal(axes.collections[0].get_offsets(), [[0.5, 1.0], [1.5, 2.0]])
    np.testing.assert_array_equal(axes.collections[1].get_offsets(), [[0.25, 1.0]])
    slopes = [drawn.get_ydata() / drawn.get_xdata() for drawn in axes.lines]
    np.testing.assert_allclose(slopes, [[1, 1], [2, 2], [4, 4]])
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert axes.get_ylim()[0] < 1 < 2 < axes.get_ylim()[1]
    assert "1 of 4 at 0 or below" in words(figure)
    assert {"clusters", "fitted", "held out", "1", "2", "4"} <= set(words(figure).split("\n"))


def test_panels_of_the_separation_scatter_share_their_axes():
    pair, far = (np.array([1.0]), np.array([0.5])), (np.array([9.0]), np.array([3.0]))
    figure = figures.separation_scatter({str(i): {"fitted": far if i == 4 else pair} for i in range(5)})
    shown = figure.axes[:5]
    assert {axes.get_xlim() for axes in shown} == {shown[0].get_xlim()}
    assert {axes.get_ylim() for axes in shown} == {shown[0].get_ylim()}
    assert [axes.axison for axes in figure.axes] == [True] * 5 + [False] * 3


def test_separation_distributions_show_the_quantiles_of_every_group():
    gone = np.full(4, np.nan)
    fitted, held = {"clusters": np.arange(101.0), "null": gone}, {"clusters": np.arange(11.0), "null": gone}
    quantiles = {
        title: {"clusters": [factor * end for end in (5, 25, 50, 75, 95)], "null": [None] * 5}
        for title, factor in (("fitted", 1), ("held out", 0.1))
    }
    figure = figures.separation_histograms({"fitted": fitted, "held out": held}, quantiles)
    for axes, factor in zip(figure.axes, (1, 0.1), strict=True):
        segments = [collection.get_segments()[0][:, 0] for collection in axes.collections]
        np.testing.assert_allclose(segments, factor * np.array([[5, 95], [25, 75]]))
        assert line(axes, "median").get_xdata() == [50 * factor]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["clusters", "null"]
    assert [axes.get_title() for axes in figure.axes] == ["fitted", "held out"]
    assert all(text in words(figure) for text in ("no data", "n = 101", "n = 11"))


# Clusters


def test_agreement_over_noise_is_drawn_by_rising_level():
    sigmas, ami = np.array([100.0, 0, 10]) / 255, np.array([0.9, 0.1, 0.5])
    (axes,) = cluster_figures.agreement_by_noise(sigmas, {"phi": ami}).axes
    np.testing.assert_allclose(line(axes, "phi").get_xydata(), [[0, 0.1], [10, 0.5], [100, 0.9]])


def test_courses_show_agreement_staying_and_the_quartiles_of_what_moved():
    course = np.column_stack([[0, 1, 5], [0.9, 0.5, 0.2], [0.8, 0.4, 0.1], [0, 1, 2], [0, 2, 3], [0, 3, 4]])
    figure = cluster_figures.courses({"class means": course, "random": course / 2})
    for axes, column in zip(figure.axes, (1, 2, 4), strict=True):
        np.testing.assert_allclose(line(axes, "class means").get_xydata(), course[:, [0, column]])
        np.testing.assert_allclose(line(axes, "random").get_ydata(), course[:, column] / 2)
    corners = figure.axes[2].collections[0].get_paths()[0].vertices
    assert {tuple(corner) for corner in corners} == {(row[0], end) for row in course for end in row[[3, 5]]}


def test_every_group_of_an_embedding_has_a_look_of_its_own_and_its_name():
    points, groups = random.normal(size=(40, 2)), np.arange(40) % 10
    figure = cluster_figures.embeddings({"clusters": (points, groups, [f"cluster {i}" for i in range(10)])})
    (axes,) = figure.axes
    assert len(axes.collections) == 10
    looks = {(tuple(drawn.get_facecolor()[0]), drawn.get_paths()[0].vertices.tobytes()) for drawn in axes.collections}
    assert len(looks) == 10
    np.testing.assert_array_equal(axes.collections[3].get_offsets(), points[groups == 3])
    assert all(text in words(figure) for text in ("clusters", "cluster 0", "cluster 9"))


# All of them


GONE, GONE_BANDS, LEVELS = np.full(4, np.nan), {"mid": np.full((4, 3), np.nan)}, np.array([0.0, 0.1, 0.2, 0.3])
NOTHING_AT_ALL = {
    "ratios": lambda: histograms(ratios(nan=True), ratios(nan=True)),
    "ratios by noise": lambda: figures.participation_ratio_by_noise(LEVELS, GONE_BANDS, GONE_BANDS),
    "curves": lambda: figures.curves(LEVELS, {"a": GONE}, xlabel="", ylabel=""),
    "denoising": lambda: figures.denoising_curve(LEVELS, GONE, {"a": GONE}),
    "scatter": lambda: figures.separation_scatter({"a": {"b": (GONE, GONE)}}),
    "separation": lambda: figures.separation_histograms({"b": {"a": GONE}}, {"b": {"a": [None] * 5}}),
    "agreement": lambda: cluster_figures.agreement_by_noise(LEVELS, {"a": GONE}),
    "courses": lambda: cluster_figures.courses({"a": np.full((4, 6), np.nan)}),
    "embeddings": lambda: cluster_figures.embeddings({"a": (np.full((4, 2), np.nan), np.arange(4), list("abcd"))}),
    "training": lambda: figures.training_curves(GONE, GONE, np.empty(0), np.empty((0, 4)), LEVELS),
    "emergence": lambda: emergence.emergence([emergence.Panel("a", {"b": (LEVELS, GONE)})]),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", NOTHING_AT_ALL)
def test_figures_of_nothing_but_nan_say_no_data(name, tmp_path):
    figure = NOTHING_AT_ALL[name]()
    figures.save(figure, tmp_path, "empty")
    assert "no data" in words(figure)


def test_along_training_runs_have_their_own_milestones_and_one_legend_names_all_that_is_drawn():
    runs = {"long": (np.array([0, 288, 30_000]), np.arange(3.0)), "short": (np.array([0, 500]), np.ones((2, 3)))}
    panels = [emergence.Panel("PSNR", runs), emergence.Panel("agreement", runs, {"pixels": 0.5, "chance": 0.1}, percent=True)]
    figure = emergence.emergence([*panels, panels[0]], one_legend=True)
    first, second, _, empty = figure.axes
    for axes in (first, second):
        lines = {line.get_label(): line.get_xdata() for line in axes.lines[:2]}
        np.testing.assert_array_equal(lines["long"], runs["long"][0])
        np.testing.assert_array_equal(lines["short"], runs["short"][0])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["long", "short", "pixels", "chance"]
    assert list(first.get_xticks()) == [0, 1000, 10_000]
    assert not empty.axison


def test_save_writes_png_at_200_dpi_and_pdf_with_searchable_text_and_no_date(tmp_path):
    figure = figures.curves(np.arange(3.0), {"a": np.arange(3.0)}, xlabel="x", ylabel="y")
    path = figures.save(figure, tmp_path / "new", "curve")
    assert path == tmp_path / "new" / "curve.png"
    assert sorted(file.name for file in path.parent.iterdir()) == ["curve.pdf", "curve.png"]
    width, height = figure.get_size_inches()
    assert Image.open(path).size == (round(200 * width), round(200 * height))
    pdf = path.with_suffix(".pdf").read_bytes()
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf and b"Date" not in pdf


def test_save_leaves_no_file_of_an_earlier_drawing(tmp_path):
    for formats in (("png", "pdf", "svg"), ("png",), ("png", "svg")):
        figures.save(
            figures.curves(np.arange(3.0), {"a": np.arange(3.0)}, xlabel="x", ylabel="y"), tmp_path, "a", formats
        )
        assert {file.suffix[1:] for file in tmp_path.iterdir()} == set(formats)


def test_a_users_matplotlib_settings_neither_change_figures_nor_are_changed(tmp_path):
    x, y = np.arange(3.0), np.arange(3.0)
    plain = figures.save(figures.curves(x, {"a": y}, xlabel="x", ylabel="y"), tmp_path, "plain").read_bytes()
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        path = figures.save(figures.curves(x, {"a": y}, xlabel="x", ylabel="y"), tmp_path, "loud")
        assert dict(matplotlib.rcParams) == before
    assert path.read_bytes() == plain


def test_two_processes_write_the_same_bytes_and_need_no_pyplot(tmp_path):
    script = """
import sys, numpy as np
from unetrep_jax import figures
from unetrep_jax.figures import clusters as cluster_figures
ratios = {"mid": (np.linspace(.2, .4, 9), np.linspace(.5, .9, 9))}
medians = {"mid": (0.3, 0.7)}
histograms = figures.participation_ratio_histograms(ratios, ratios, medians, medians, levels_text="σ = 100/255")
figures.save(histograms, sys.argv[1], "a")
figures.save(figures.cluster_grid(np.ones((1, 2, 8, 8, 3)), [1], ["n = 2"]), sys.argv[1], "b", tuple(figures.FORMATS))
assert "matplotlib.pyplot" not in sys.modules
"""
    digests = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", script, tmp_path / seed], check=True, env=environment)
        files = sorted((tmp_path / seed).iterdir())
        digests.append({file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files})
    assert len(digests[0]) == 5
    assert digests[0] == digests[1]
