"""The sparsity stage: what it claims, and networks whose representation is zero."""

import re

import numpy as np
import pytest
from test_stages import make_context  # noqa: F401 (a fixture)

from unetrep_jax import report, storage
from unetrep_jax.stages import sparsity

BLOCKS, CHANNELS = ("encoder0", "encoder1", "mid", "decoder1"), 6


def run(context, trained, untrained):
    """(summary, section) of channel averages of these participation ratios, block by block: so many equal channels are on."""
    for stage, active in (("representations", trained), ("untrained", untrained)):
        on = np.arange(CHANNELS) < np.array(active)[:, None]
        (context.outdir / stage).mkdir()
        np.save(context.outdir / stage / "mean.npy", np.tile(np.float32(on.ravel()), (20, 3, 1)))
    sparsity.run_sparsity(context, context.outdir / "sparsity", "key")
    with np.load(context.outdir / "sparsity" / "arrays.npz") as arrays:
        summary = storage.read_json(context.outdir / "sparsity" / "summary.json")
        return summary, sparsity.section_sparsity(context, dict(arrays), summary)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_representation_that_is_zero_for_all_images_has_a_dash_and_no_verdict(make_context):  # noqa: F811
    summary, section = run(make_context(), trained=(2, 3, 0, 1), untrained=(3, 3, 0, 3))
    assert summary["trained"]["mid"]["median"] is None
    printed = [*section.text, *(str(c) for c in section.tables[0].rows), *(str(claim) for claim in section.claims)]
    assert not [words for words in printed if re.search(r"\bnan\b", words.lower())]
    assert "an unknown number of effective channels" in section.text[0]
    falls = section.claims[1]
    assert (falls.here, falls.holds) == ("0.50 → –", "")


def test_effective_channels_are_said_of_both_networks(make_context):  # noqa: F811
    _, section = run(make_context(), trained=(2, 3, 1, 1), untrained=(3, 3, 5, 3))
    assert "phi has 1 effective channels here, that of the untrained network 5" in section.text[0]
    assert section.claims[1].holds == "yes"


def test_the_medians_that_are_drawn_are_those_of_the_ratios_that_are_drawn(make_context, monkeypatch):  # noqa: F811
    drawn, draw = [], sparsity.figures.participation_ratio_histograms

    def seen(*given, **settings):
        drawn.append(given)
        return draw(*given, **settings)

    monkeypatch.setattr(sparsity.figures, "participation_ratio_histograms", seen)
    run(make_context(), trained=(2, 3, 1, 1), untrained=(3, 4, 5, 3))
    ((trained, untrained, *medians),) = drawn
    for of_network, expected in zip(medians, (trained, untrained), strict=True):
        assert of_network.keys() == expected.keys()
        for block, ends in expected.items():
            assert of_network[block] == pytest.approx([np.median(end) for end in ends])


def of(**medians):
    return {block: {"median": median} for block, median in medians.items()}


@pytest.mark.parametrize(
    ("trained", "untrained", "word"),
    [
        (of(a=0.4, b=0.6), of(a=0.5, b=0.5), "yes"),
        (of(a=0.4, b=0.6), of(a=0.4, b=0.6), "in part"),
        (of(a=0.6, b=0.4), of(a=0.5, b=0.5), "no"),
        (of(a=0.4, b=0.6), of(a=0.4, b=None), ""),
        (of(a=None, b=0.6), of(a=0.4, b=0.3), ""),
    ],
)
def test_ratios_rise_where_the_untrained_networks_do_not(trained, untrained, word):
    answers = (sparsity.ordered(ratios, [["a", "b"]], np.less) for ratios in (trained, untrained))
    assert report.verdict(sparsity.part(*answers)) == word
