"""Parts of claims, for `report.verdict`: what a number found here and the same number of its nulls say together."""


def part(here: bool | None, *nulls: bool | None) -> tuple[bool | None, bool]:
    """Whether the number here supports the claim, and whether a null does; None where either cannot be said.

    A claim that the number here does not support needs no null, and one null that supports it as well is enough.
    """
    if here and None in nulls and True not in nulls:
        return None, False
    return here, any(nulls)
