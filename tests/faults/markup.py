"""Names that are markup or paths: of classes, of files, of runs. Pages show them; nothing more must come of them."""

import json
import random
import re
from html.parser import HTMLParser

import numpy as np

from faults import children, same
from faults.attack import require, require_ended_well
from faults.preparation import make_pictures
from faults.scene import Scene

MARKUP = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</script><b>", "&lt;\"'", "]]><svg onload=alert(1)>",
)  # fmt: skip
# In whatever way an attribute is quoted, or is not, the word would become an attribute of its own.
ATTRIBUTE, MARKER = "a hostile=1 \" hostile=2 ' hostile=3", "hostile"
NAMES = (
    "..", "...", "-rf", "a b", "$(touch executed)", "`touch executed`", "{0}", "%s", "\u202egnp", "é", "CON", "a\\b", "\u2028",
)  # fmt: skip
PATHS = ("../../../escaped", "/escaped", "a/../../escaped", "..", ".", "", "a/b")
# What each of MARKUP would be, had it become markup: in HTML and SVG, and in Markdown, where a backslash is enough.
ALIVE = re.compile(r"<script>alert|<img src=x|</script><b>|<svg onload|(?<!&amp;)(?<!\\&amp;)&lt;(\"|&quot;|&#34;)")
ALIVE_IN_MARKDOWN = re.compile(r"(?<!\\)<(script|img|/script|b>|svg)|(?<!\\)&lt;")
RUNS = (f"weird <img src=x onerror=alert(1)> {ATTRIBUTE}", "x</script><b>", "`code` __b__ x](y)")  # the second is two folders


def names(scene: Scene, chance: random.Random) -> None:
    """Folders of images, and the files in them, are named so; both stand in reports and pages."""
    scene.lay_trained()
    pictures = children.fresh(scene.folder / "named")
    make_pictures(pictures, 40, seed=chance.randrange(1000))
    possible = [text for text in MARKUP + NAMES[2:] if "/" not in text]
    for old, name in (("class0", chance.choice(possible)), ("class1", ATTRIBUTE)):
        (pictures / old).rename(pictures / name)
        for path in sorted((pictures / name).iterdir())[:8]:
            path.rename(path.with_name(f"{chance.choice(possible)}{path.name}"))
    before = outside(scene)
    command = scene.place.analysis(scene.run, "--only", "clusters", "explorer", "--images", pictures)
    require_ended_well(scene.do(command))
    require_escaped(scene)
    same.require_same(outside(scene), before, "what lies outside")


def class_names(scene: Scene, chance: random.Random) -> None:
    """As a data set of strangers may name its classes, with slashes too: no folder of images could."""
    scene.lay_trained()
    chosen = (chance.choice(MARKUP), chance.choice(PATHS), chance.choice(PATHS[:3]))
    before = outside(scene)

    def analyse() -> str:
        import jax
        import running

        import configs
        from unetrep_jax import checkpoints, data, denoiser, models, stages

        opened = checkpoints.open_checkpoint(scene.run, say=lambda _: None)
        config = configs.from_plain(opened.config)
        configs.override(config, running.as_flags(running.ANALYSIS))
        model = models.build(**config.model, image_channels=1)
        fresh = denoiser.bind(model, models.init_params(model, jax.random.key(0)))
        images = np.load(scene.place.folder / "validation.npy")
        labels = np.arange(len(images), dtype=np.int32) % (len(chosen) + 1)
        provenance = {"source": MARKUP[2], "from": f"{MARKUP[1]} {ATTRIBUTE}"}
        found = data.ImageSet(images, labels, (*chosen, ATTRIBUTE), provenance, "named")
        trained = denoiser.bind(model, opened.params)
        only = ["clusters", "explorer"]
        outdir, name = scene.run / "analysis", f"{MARKUP[0]} {ATTRIBUTE}"
        return str(stages.analyse(trained, fresh, found, outdir, settings=config.analysis, name=name, only=only))

    children.call(analyse, scene.arena)
    require_escaped(scene)
    same.require_same(outside(scene), before, "what lies outside")


def run_name(scene: Scene, path: str) -> None:
    """A run folder's name, and those of the folders that it lies in, stand in reports and on the explorer's page."""
    scene.lay(scene.analysed())
    weird = scene.arena / path
    weird.parent.mkdir(exist_ok=True)
    scene.run.rename(weird)
    before = outside(scene)
    require_ended_well(scene.do(scene.place.analysis(weird, "--only", "sparsity", "explorer")))
    require_escaped(scene)
    same.require_same(outside(scene), before, "what lies outside")


def outside(scene: Scene) -> dict[str, str]:
    """What lies in the scene beside analyses and the caches that commands may write."""
    found = same.folder_content(scene.folder)
    mine = ("programs/", "place/", "named/", "temporary/", "matplotlib/", "references/", "arena/run/analysis")
    mine += tuple(f"arena/{run}" for run in RUNS)
    return {name: checksum for name, checksum in found.items() if not name.startswith(mine)}


def require_escaped(scene: Scene) -> None:
    """No page holds the markup as it was named; the explorer's data are JSON, which could stand in a page."""
    pages = [path for path in scene.arena.rglob("*") if path.suffix in (".html", ".svg", ".md", ".js")]
    require({path.suffix for path in pages} >= {".html", ".md", ".js"}, f"no pages: {[path.name for path in pages]}")
    for path in pages:
        text = path.read_text()
        if path.suffix == ".js" and path.parent.name != "data":
            continue  # the program's own
        if path.suffix == ".js":
            require("</" not in text and "\u2028" not in text, f"{path.name} could end a script")
            json.loads(f"[{text.removeprefix('explorer.take(').removesuffix(chr(10)).removesuffix(');')}]")
            continue
        alive = (ALIVE_IN_MARKDOWN if path.suffix == ".md" else ALIVE).search(text)
        require(not alive, f"{path.name} holds {alive and text[alive.start() - 40 : alive.end() + 20]!r}")
        if path.suffix != ".md":
            parser = Parser()
            parser.feed(text)
            require(not parser.found, f"in {path.name} a name became {parser.found[:4]}")


class Parser(HTMLParser):
    """Collects what no page of the program's own has, as a browser would find it: marked names, handlers, addresses that run."""

    def __init__(self) -> None:
        """Of nothing yet."""
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """One tag."""
        self.found += [name for name in (tag, *(name for name, _ in attributes)) if MARKER in name]
        self.found += [f"{name}={value}" for name, value in attributes if name.startswith("on")]
        self.found += [f"{name}={value}" for name, value in attributes if re.match(r"\s*javascript:", value or "", re.IGNORECASE)]
