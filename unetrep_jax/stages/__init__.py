"""The stages of the analysis: each puts arrays and numbers into a folder of its own, and shows them in a section of the report."""

from unetrep_jax.stages.checking import changed, usable_images, usable_settings
from unetrep_jax.stages.context import Context, Milestone
from unetrep_jax.stages.running import (
    STAGES,
    analyse,
    in_one_line,
    run_and_report,
    run_stages,
    up_to_date,
    write_report,
)

__all__ = [
    "STAGES",
    "Context",
    "Milestone",
    "analyse",
    "changed",
    "in_one_line",
    "run_and_report",
    "run_stages",
    "up_to_date",
    "usable_images",
    "usable_settings",
    "write_report",
]
