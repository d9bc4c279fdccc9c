"""The model card of an export: what the checkpoint, its run and its results say, and nothing else."""

import json
import re
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ouroboros3d.configurations import parse_yaml, read_configuration
from ouroboros3d.export.pipeline import OuroborosPipeline
from ouroboros3d.files import git_commit, sha256_of
from ouroboros3d.lightning_modules.loaded import Loaded
from ouroboros3d.metrics.columns import column, headline
from ouroboros3d.weight_names import checkpoint_name

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_SVD_LICENSE = "https://huggingface.co/stabilityai/stable-video-diffusion-img2vid/blob/main/LICENSE.md"
_IDEAS = {
    "Staged": "the multi-view diffusion model generates all views, then the reconstructor turns them into 3D, once",
    "InferenceCombined": (
        "trained as staged; while sampling, some estimates are replaced by renders of their own reconstruction"
    ),
    "Recursive": (
        "at each step of sampling the reconstructor turns the estimate into 3D, whose renders condition the next step; "
        "both networks are trained jointly (Ouroboros3D)"
    ),
}


class Origin(NamedTuple):
    """Where weights come from.

    license: fields of the hub's front matter; none where the licence is not known.
    base_model: hub ids.
    text: a sentence.
    """

    license: dict[str, str]
    base_model: list[str]
    text: str


def model_card(loaded: Loaded, pipeline: OuroborosPipeline, dtype: str) -> str:
    """The card's Markdown, with the hub's front matter.

    Args:
        loaded: the variant, its configuration and its checkpoint.
        pipeline: made of it.
        dtype: precision of the weights.
    """
    run, sha256 = loaded.checkpoint.parent.parent, sha256_of(loaded.checkpoint)
    sources = loaded.content.get("ouroboros3d_sources")
    origin = _described_origin(loaded.checkpoint) if sources else _origin(run / "config.yaml")
    training = _described_training(loaded.content) if sources else _training(run / "config.yaml", loaded.content)
    maps = pipeline.unet.feedback_maps
    front = {
        **origin.license,
        "library_name": "diffusers",
        "pipeline_tag": "image-to-3d",
        "tags": ["ouroboros3d", "image-to-3d", "gaussian-splatting", "multi-view", "diffusion"],
        **({"base_model": origin.base_model} if origin.base_model else {}),
    }
    photo, sampler, variant = pipeline.config["photo"], loaded.variant.sampler, pipeline.config["variant"]
    feedback = f" Feedback: {' and '.join(maps)} maps." if maps else ""
    sections = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n# {variant}: one image to 3D Gaussians",
        f"One image of an object to {photo['num_views']} views of {photo['image_size']} px and 3D Gaussians. Variant "
        f"`{variant}`: {_IDEAS[variant]}.{feedback}",
        f"Sampling: {sampler.num_steps} Euler steps, guidance {sampler.guidance_min:g} to {sampler.guidance_max:g} "
        f"over the views. Weights in {dtype}.",
        _USE,
        f"## Training\n\n{training}\n\n{origin.text}",
        f"## Results\n\n{_results(run, loaded, sha256)}",
        _LIMITS.format(**photo),
        f"Exported by ouroboros3d {metadata.version('ouroboros3d')}, commit {git_commit() or 'unknown'}, from the "
        f"checkpoint with SHA-256 `{sha256}`.",
    ]
    return "\n\n".join(sections) + "\n"


_USE = """## How to use

With the package `ouroboros3d` installed:

```python
from ouroboros3d.export import OuroborosPipeline
from ouroboros3d.metrics.columns import column, headline

pipeline = OuroborosPipeline.from_pretrained(".")  # this folder, or its hub id
output = pipeline("photo.png", elevation_deg=10)
output.views[0][0].save("first_view.png")  # PIL images; output_type="np" or "pt" for arrays or tensors
pipeline.save(output, "objects")  # views, gaussians.ply and a turntable
```

Without a `generator` the noise follows from the file's name, and a call gives what `python -m ouroboros3d predict`
gives."""

_LIMITS = """## Limits

One object on a plain or transparent background; it is cut out and centred. Views lie on a circle of radius {radius:g}
around it, seen with a field of view of {fov_deg:g} degrees. The elevation of the photo is an assumption of the caller.
What the input does not show is a guess."""


def _described_training(content: dict[str, Any]) -> str:
    """Of weights that say themselves what they were trained on."""
    sources = "\n".join(f"- {name}: {licences}" for name, licences in content["ouroboros3d_sources"].items())
    facts = f"{content['global_step']} steps, seed {content['ouroboros3d_seed']}."
    return f"{facts}\n\nData, and the licences of its objects:\n\n{sources}"


def _described_origin(checkpoint: Path) -> Origin:
    name = checkpoint_name(checkpoint)
    if name == str(checkpoint):
        return Origin({}, [], f"The weights are those of `{checkpoint.name}`, of unknown licence.")
    text = f"The weights are `{name}`, which come with ouroboros3d (Apache-2.0, as far as it is its authors' to give)."
    return Origin({"license": "apache-2.0"}, [], text)


def _training(config: Path, content: dict[str, Any]) -> str:
    facts = [f"{content['global_step']} steps", f"seed {content.get('ouroboros3d_seed', 'unknown')}"]
    if not config.is_file():
        return ", ".join(facts) + ". The run's configuration was not at hand."
    settings = read_configuration(config)
    facts += [
        f"batches of {_value(settings, 'data', 'init_args', 'batch_size')} objects a process",
        f"precision {_value(settings, 'trainer', 'precision') or '32-true'}",
    ]
    root = _value(settings, "data", "init_args", "root") or "bundled"
    objects = "; ".join(_described_tree(str(one)) for one in (root if isinstance(root, list) else [root]))
    return f"{', '.join(facts)}. Experiment `{_value(settings, 'experiment')}`.\n\nData: {objects}."


def _value(config: Any, *keys: str) -> Any:  # noqa: ANN401 - what a YAML file holds
    """A value of a configuration; None where it is not there."""
    for key in keys:
        config = config.get(key) if isinstance(config, dict) else None
    return config


def _described_tree(root: str) -> str:
    if root == "bundled":
        return "the 44 objects that come with ouroboros3d, CC-0 (Blend Swap, by the authors named in its README)"
    return f"`{Path(root).name}`; its objects have licences of their own, see their metadata"


def _origin(config: Path, later: tuple[Path, ...] = ()) -> Origin:
    """Of the weights that a run started from, through the runs before it; `later` are those that started from it."""
    if not config.is_file() or config.resolve() in later:
        return Origin({}, [], "Where training started from is not known; so is the licence of these weights.")
    base = _value(read_configuration(config), "model", "init_args", "base_weights")
    if isinstance(base, dict) and isinstance(base.get("svd"), str):
        return _paper_origin(base)
    if base is None:
        return Origin({}, [], "Training started from random weights.")
    base = str(base)
    if base == "bundled" or base.startswith("bundled:"):
        name = "base weights" if base == "bundled" else f"weights `{base}`"
        text = f"Training started from the {name} that come with ouroboros3d (Apache-2.0)."
        return Origin({"license": "apache-2.0"}, [], text)
    path = Path(base)
    if path.suffix == ".ckpt":
        before = _origin(path.parent.parent / "config.yaml", (*later, config.resolve()))
        return before._replace(text=f"Training started from the checkpoint `{path.name}` of another run. {before.text}")
    front = _front_matter(path / "README.md")
    named = {key: str(value) for key, value in front.items() if key.startswith("license")}
    text = f"Training started from `{path.name}`" + (f" ({named['license']})." if named else ", of unknown licence.")
    return Origin(named, list(front.get("base_model", [])), text)


def _paper_origin(base: dict[str, Any]) -> Origin:
    """Of Stable Video Diffusion and LGM, or the published Ouroboros3D."""
    license = {"license": "other", "license_name": "stable-video-diffusion-community", "license_link": _SVD_LICENSE}
    parts = {"Stable Video Diffusion (its own community licence)": base["svd"]}
    if base.get("published"):
        parts["the published Ouroboros3D weights (under the licence they came with)"] = base["published"]
    elif base.get("lgm"):
        parts["LGM (MIT)"] = base["lgm"]
    known = [source for source in parts.values() if _HUB_ID.fullmatch(source) and not Path(source).exists()]
    return Origin(license, known, f"Training started from {' and '.join(parts)}.")


def _front_matter(readme: Path) -> dict[str, Any]:
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    content = parse_yaml(found[1], str(readme)) if found else {}
    return content if isinstance(content, dict) else {}


def _results(run: Path, loaded: Loaded, sha256: str) -> str:
    """The means of the run's test, if it tested this checkpoint as it is exported."""
    file = run / "results.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    sampler = loaded.variant.sampler
    tested: dict[str, Any] = {"checkpoint_sha256": sha256, "method": type(loaded.variant).__name__}
    tested |= {name: getattr(sampler, name) for name in ("guidance_min", "guidance_max", "guidance_shape", "seed")}
    tested |= {"steps": sampler.num_steps, **loaded.variant.sampling_protocol()}
    if any(results.get(name) != value for name, value in tested.items()):
        return "This checkpoint was not tested, or not with these settings."
    metrics = [name for name in headline(results["mean"]) if name in results["mean"]]
    rows = "\n".join(f"| {column(name).title} | {results['mean'][name]:.4g} |" for name in metrics)
    dataset = results["dataset"]
    trees = dataset if isinstance(dataset, list) else [dataset]
    names = " and ".join("the bundled objects" if tree == "bundled" else f"`{Path(tree).name}`" for tree in trees)
    return f"Mean over {results['objects']} {results['split']} objects of {names}.\n\n| | |\n|---|---|\n{rows}"
