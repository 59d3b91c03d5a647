"""How numbers are printed."""

import numpy as np
import pytest

from unetrep_jax.stages import wording


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0.0"), (-0.0, "0.0"), (0.1, "0.10"), (0.0274, "0.027"), (0.000999, "0.0010"), (0.00099, "9.9e-04"), (2.94, "2.9"),
        (99.9, "100"), (-141.2, "-140"), (18_400, "18,000"), (99_900, "1.0e+05"), (2.8e-9, "2.8e-09"), (np.nan, None), (None, None),
    ],
)
def test_numbers_of_two_digits_have_a_power_of_ten_only_where_they_are_small_or_large(value, shown):
    assert wording.number(value, None) == shown


def test_an_interval_says_to_where_a_dash_could_be_a_sign():
    estimate = {"value": 0.027, "low": 0.0004, "high": 0.03}
    assert wording.estimate_text(estimate, None) == "0.027 (4.0e-04 to 0.030)"
    assert wording.estimate_text({"value": 0.1, "low": -0.1, "high": 0.3}) == "0.10 (-0.10 to 0.30)"


def test_shares_are_printed_with_their_intervals():
    estimate = {"value": 0.12314, "low": 0.1192, "high": 0.12704}
    assert wording.share_text(estimate) == "12.31 % (11.92–12.70)"
    assert wording.share_text(estimate | {"low": -0.01}, 1) == "12.3 % (-1.0 to 12.7)"
    assert wording.share_text(estimate | {"low": None}) is None and wording.share_text(None) is None
