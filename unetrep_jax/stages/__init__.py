"""The stages of the analysis: each puts arrays and numbers into a folder of its own, and shows them in a section of the report."""

from unetrep_jax.stages.context import Context, spread
from unetrep_jax.stages.running import STAGES, analyse, run_stages, write_report

__all__ = ["STAGES", "Context", "analyse", "run_stages", "spread", "write_report"]
