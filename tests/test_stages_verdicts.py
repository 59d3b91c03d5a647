"""Parts of claims: a null that could not be measured is no null that failed."""

import pytest

from unetrep_jax import report
from unetrep_jax.stages.verdicts import part


@pytest.mark.parametrize(
    ("here", "nulls", "word"),
    [
        (True, [False], "yes"),
        (True, [False, False], "yes"),
        (True, [True], "in part"),
        (True, [None, True], "in part"),
        (True, [False, None], ""),
        (False, [None], "no"),
        (False, [True], "no"),
        (None, [False], ""),
    ],
)
def test_a_claim_holds_where_the_number_here_supports_it_and_its_measured_nulls_do_not(here, nulls, word):
    assert report.verdict(part(here, *nulls)) == word
