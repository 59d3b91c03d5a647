"""The report on all stages: sections are drawn once and kept, until their arrays or the drawing code change."""

import functools
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unetrep_jax import figures, markdown, report, storage
from unetrep_jax.stages.context import Context, Stage, picture

PACKAGE = Path(__file__).parents[1]
FILES = ("summary.json", "report.html", "report.md", "figures", ".figures.json")
# The order of the paper's figures, where there is one.
SECTIONS = (
    "architecture", "denoising", "sparsity", "robustness", "samples", "reconstructions", "selectivity", "top_images", "subspaces",
    "neighbours", "clusters", "probe", "embedding", "location", "emergence",
)  # fmt: skip


class Made(NamedTuple):
    """A stage whose files are up to date.

    Attributes:
      stage: itself.
      key: names all that its files depend on.
      settings: the settings among them, those of the stages that it needs included.
    """

    stage: Stage
    key: str
    settings: tuple[str, ...]


def write_report(context: Context, made: Mapping[str, Made], left_out: Mapping[str, str]) -> Path:
    """Figures, `summary.json`, `report.html` and the same as `report.md`, from saved arrays; returns the page's path.

    Args:
      context: settings, facts and the folder of the analysis.
      made: the stages that are up to date, by name.
      left_out: stage -> why it could not be made.
    """
    summary: dict[str, Any] = {"facts": context.facts, "settings": dict(context.taken), "left_out": dict(left_out), "claims": []}
    sections = [section_training(context)]
    for name in (name for name in SECTIONS if name in made):
        summary[name] = storage.read_json(context.outdir / name / "summary.json")
        section = drawn(context, name, made[name], summary[name])
        sections.append(section)
        summary["claims"] += [{"section": name, **claim._asdict()} for claim in section.claims]
    if left_out:
        reasons = [f"**{name}**: {why}" for name, why in left_out.items()]
        sections.append(report.Section("Left out", ["These stages could not be made.", *reasons]))
    shown = [section for section in sections if section]
    storage.write_json(context.outdir / "summary.json", summary)
    page = {"to look around in": "[explorer/index.html]"} if "explorer" in made else {}
    path = context.outdir / "report.html"
    content = {
        "title": "What the denoiser knows",
        "sections": shown,
        "facts": context.facts | page,
        "subtitle": f"A blind denoiser and its representation, on {context.facts['images']}",
    }
    report.write(path, **content)
    markdown.write(path.with_suffix(".md"), **content)
    forget_figures(context.outdir, {picture.path.stem for section in shown for picture in section.figures})
    return path


def drawn(context: Context, name: str, made: Made, summary: dict) -> report.Section:
    """A stage's section, with the settings that it depends on; drawn anew only where something that it shows has changed."""
    key = storage.fingerprint(made.key, drawing_code())
    kept = context.outdir / name / "section.json"
    try:
        saved = storage.read_json(kept)
        files = figure_files(context, saved["section"])
        if saved["key"] == key and saved["checksum"] == storage.fingerprint(saved["section"], files):
            return section_from(saved["section"], context.outdir)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    with np.load(context.outdir / name / "arrays.npz") as arrays:
        section = made.stage.section(context, dict(arrays), summary)
    if made.settings:
        values = ", ".join(f"{key} = {getattr(context.settings, key)}" for key in made.settings)
        section = section._replace(text=[*section.text, f"Settings: `{values}`."])
    figures_inside = [(str(p.path.relative_to(context.outdir)), p.caption, p.alt) for p in section.figures]
    content = storage.finite(section._asdict() | {"figures": figures_inside})
    checksum = storage.fingerprint(content, figure_files(context, content))
    storage.write_json(kept, {"key": key, "checksum": checksum, "section": content})
    return section


def figure_files(context: Context, section: Mapping[str, Any]) -> dict[str, str]:
    """Files of a section's figures and their checksums; raises OSError when one is missing."""
    names = [str(Path(file).with_suffix(f".{kind}")) for file, *_ in section["figures"] for kind in context.settings.figure_formats]
    return {name: storage.sha256(context.outdir / name) for name in names}


def section_from(saved: Mapping[str, Any], outdir: Path) -> report.Section:
    """What `drawn` kept, as a section."""
    return report.Section(
        saved["title"],
        saved["text"],
        [report.Table(*table) for table in saved["tables"]],
        [report.Picture(outdir / path, caption, alt) for path, caption, alt in saved["figures"]],
        [report.Claim(*claim) for claim in saved["claims"]],
    )


@functools.cache
def drawing_code() -> str:
    """Names the code that draws sections, and the library that it draws with."""
    files = [*PACKAGE.glob("figures/*.py"), *PACKAGE.glob("stages/*.py"), PACKAGE / "report.py"]
    content = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()
    return f"{content} {importlib.metadata.version('matplotlib')}"


def forget_figures(outdir: Path, shown: set[str]) -> None:
    """Removes the figures that an earlier report drew and this one does not show; no other files."""
    record = outdir / ".figures.json"
    try:
        before = set(storage.read_json(record))
    except (OSError, ValueError, TypeError):
        before = set()
    storage.write_json(record, sorted(shown))
    for path in [*(outdir / "figures").glob("*")]:
        if path.stem in before - shown and path.suffix.removeprefix(".") in figures.FORMATS:
            path.unlink(missing_ok=True)


def readable_lines(log: Path) -> list[dict[str, Any]]:
    """The lines of a training log that are whole; says how many are not."""
    lines, damaged = [], 0
    for text in log.read_bytes().splitlines():
        try:
            line = json.loads(text)
            whole = "images" in line and ("loss" in line or len(line["psnr"]) == len(line["sigma"]))
        except (ValueError, KeyError, TypeError):
            whole = False
        lines += [line] if whole else []
        damaged += not whole
    if damaged:
        print(f"{log}: {damaged} damaged lines are left out of the training curves", file=sys.stderr)
    return lines


def section_training(context: Context) -> report.Section | None:
    """The run's own curves, where the checkpoint lies in a run."""
    log = context.training_log
    if damage := context.log_damage():
        print(f"{damage}; the report leaves its curves out.", file=sys.stderr)
        return report.Section("Training", [f"The curves are left out: the run's `{log.name}` is damaged."])
    if not log.exists():
        return None
    lines = readable_lines(log)
    losses, evaluations = [x for x in lines if "loss" in x], [x for x in lines if "psnr" in x]
    if not losses or not evaluations:
        return None
    figure = figures.training_curves(
        np.array([x["images"] for x in losses]),
        np.array([x["loss"] for x in losses]),
        np.array([x["images"] for x in evaluations]),
        np.array([x["psnr"] for x in evaluations], float),  # null is NaN
        np.array(evaluations[0]["sigma"]),
    )
    shown = picture(context, figure, "training", "Training loss, and PSNR on fixed validation images.")
    return report.Section("Training", figures=[shown])
