"""Out into the ecosystem: what `export` writes, diffusers loads, and it generates what `predict` generates."""

import copy
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commands import refusal
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from ouroboros3d.cli import main
from ouroboros3d.commands.export import to_pipeline
from ouroboros3d.commands.trainer import load
from ouroboros3d.datamodules.photo_framing import photo_batch
from ouroboros3d.export import OuroborosPipeline
from ouroboros3d.export.card import model_card
from ouroboros3d.files import atomic_folder, sha256_of
from ouroboros3d.gaussians import load_ply, save_ply
from ouroboros3d.lightning_modules.loaded import Loaded
from ouroboros3d.lightning_modules.recursive import Recursive
from ouroboros3d.networks.codecs import PixelCodec
from ouroboros3d.networks.image_encoder import ImageEncoder
from ouroboros3d.networks.lgm import LGM
from ouroboros3d.networks.multiview_unet import MultiviewUNet
from ouroboros3d.renderers.gaussians import GaussianRenderer
from ouroboros3d.viewer.scene import read_scenes

ROOT = Path(__file__).parents[1]
TINY = f"--config={ROOT / 'tests' / 'tiny.yaml'}"
SVD = [
    "--model.init_args.codec=ouroboros3d.networks.codecs.SVDCodec",
    "--model.init_args.codec.init_args.block_out_channels=[32,32,32]",
    "--model.init_args.codec.init_args.layers_per_block=1",
    "--model.init_args.codec.init_args.precision=bfloat16",
    "--model.init_args.unet.init_args.in_channels=8",
    "--model.init_args.unet.init_args.out_channels=4",
]
# What is trained, with both codecs, and with which further arguments it is then used: every variant.
RUNS = {"recursive": [], "staged": [*SVD, "--data.init_args.input_radius=1.5"]}
USES = {
    "recursive": ("recursive", []),
    "staged": ("staged", []),
    "inference_combined": ("staged", [f"--config={ROOT / 'ablations' / 'inference_combined.yaml'}", TINY, *SVD]),
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with a photo and trained runs, whose weights are far from where they start."""
    folder = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("OUROBOROS3D_DEBUG", raising=False)
        picture = Image.new("RGB", (90, 60), "white")
        ImageDraw.Draw(picture).rectangle((30, 15, 60, 50), fill=(200, 40, 30))
        picture.save("chair.png")
        short = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0"]
        for name, options in RUNS.items():
            config = f"--config={ROOT / 'ablations' / name}.yaml"
            main(["fit", config, TINY, *short, *options])
            path = checkpoint(name)
            content = torch.load(path, weights_only=True)
            generator = torch.Generator().manual_seed(0)
            for value in content["state_dict"].values():
                if value.is_floating_point():
                    value.add_(0.02 * torch.randn(value.shape, generator=generator).to(value.dtype))
            torch.save(content, path)
        yield folder


def checkpoint(run: str) -> Path:
    return Path("runs", run, "version_0", "checkpoints", "last.ckpt")


def export(use: str) -> Path:
    """The export of a use, made once."""
    run, arguments = USES[use]
    folder = Path("exported", use)
    if not folder.exists():
        main(["export", "--ckpt_path", str(checkpoint(run)), "--out", str(folder), *arguments])
    return folder


def quiet(pipeline: OuroborosPipeline) -> OuroborosPipeline:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def folder(here: Path) -> Path:
    """The recursive run's export."""
    return export("recursive")


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> OuroborosPipeline:
    return quiet(OuroborosPipeline.from_pretrained(folder))


@pytest.fixture(scope="module")
def staged(here: Path) -> Loaded:
    """The staged run, which has Stable Video Diffusion's kind of codec, in bfloat16."""
    return load("export", [f"--ckpt_path={checkpoint('staged')}"])


@pytest.mark.parametrize("use", ["recursive", "staged", pytest.param("inference_combined", marks=pytest.mark.slow)])
def test_the_pipeline_generates_what_predict_generates(use: str, here: Path) -> None:
    run, arguments = USES[use]
    main(["predict", "--image", "chair.png", f"--ckpt_path={checkpoint(run)}", *arguments])
    predicted = here / "runs" / use / "version_0" / "predictions" / "chair"
    pipeline = OuroborosPipeline.from_pretrained(export(use))
    output = pipeline("chair.png")
    assert pipeline.config["variant"] == {"inference_combined": "InferenceCombined"}.get(use, use.capitalize())
    for view, picture in enumerate(output.views[0]):
        with Image.open(predicted / f"view_{view:02d}.png") as expected:
            assert np.array_equal(np.asarray(expected), np.asarray(picture))
    if use == "staged":
        (saved,) = pipeline.save(output, "objects")
        for file in sorted(path.name for path in saved.iterdir() if path.suffix not in (".ply", ".html")):
            assert (saved / file).read_bytes() == (predicted / file).read_bytes(), file
        # A call of the pipeline keeps neither its steps nor its input.
        [own], [expected] = (read_scenes(place / "viewer.html") for place in (saved, predicted))
        assert own["frames"] == expected["frames"][-1:]
        assert own["cameras"] == expected["cameras"]
    renderer, size = GaussianRenderer(**pipeline.config["renderer"]), pipeline.config["photo"]["image_size"]
    save_ply(renderer.filtered(output.gaussians, output.cameras, size, size), here / "own.ply")
    own, expected = load_ply(here / "own.ply"), load_ply(predicted / "gaussians.ply")
    assert all(
        torch.equal(getattr(own, name), getattr(expected, name)) for name in [field.name for field in fields(own)]
    )


def test_feedback_reaches_the_exported_result(pipeline: OuroborosPipeline) -> None:
    """What makes the equality above worth something: without feedback the result is another one."""
    fed = pipeline("chair.png", output_type="pt").views
    config = {name: pipeline.config[name] for name in ("renderer", "photo")}
    other = OuroborosPipeline(
        **pipeline.components, **config, variant="Staged", settings={"sampler": pipeline.config["settings"]["sampler"]}
    )
    other.set_progress_bar_config(disable=True)
    assert not torch.equal(fed, other("chair.png", output_type="pt").views)


def test_lora_is_merged(here: Path, staged: Loaded) -> None:
    """Merging adds the same numbers in another order, so results agree to rounding."""
    variant = copy.deepcopy(staged.variant).eval()
    variant.unet.trainable, variant.unet.lora_rank = "lora", 2
    variant.unet.prepare_training()
    for key, value in variant.unet.state_dict().items():
        if "lora_B" in key:
            torch.nn.init.normal_(value, std=0.1)
    to_pipeline(staged._replace(variant=variant), torch.float32).save_pretrained("lora")
    merged = quiet(OuroborosPipeline.from_pretrained("lora"))
    assert not [key for key in merged.unet.state_dict() if "lora" in key or "base_layer" in key]
    batch = photo_batch(Path("chair.png"), **merged.config["photo"])
    expected = variant.generate(batch.input_images_01, batch.cameras, batch.background, batch.uids).views_01
    without = staged.variant.generate(batch.input_images_01, batch.cameras, batch.background, batch.uids).views_01
    views = merged("chair.png", output_type="pt").views
    assert (views - expected).abs().mean() < 0.1 * (without - expected).abs().mean()


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_halves_the_files_and_the_autoencoder_keeps_its_own(
    name: str, here: Path, staged: Loaded
) -> None:
    dtype = getattr(torch, name)
    to_pipeline(staged, dtype).save_pretrained(name)
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert Path(name, weights).stat().st_size < 0.55 * (export("staged") / weights).stat().st_size
    whole = quiet(OuroborosPipeline.from_pretrained(export("staged")))("chair.png", output_type="pt").views
    half = quiet(OuroborosPipeline.from_pretrained(name, dtype=dtype))
    views = half("chair.png", output_type="pt").views
    assert 0 < (views - whole).abs().mean() < 0.02
    half.to(torch.float16)
    assert (half.unet.dtype, half.codec.dtype) == (torch.float16, torch.bfloat16)
    assert OuroborosPipeline.from_pretrained(name).unet.dtype == torch.float32  # as diffusers does unless it is told


def test_each_component_has_its_own_keys_and_starts_a_training(folder: Path) -> None:
    content = torch.load(checkpoint("recursive"), weights_only=True)["state_dict"]
    for name in ("unet", "reconstructor", "image_encoder"):
        weights = load_file(folder / name / "diffusion_pytorch_model.safetensors")
        own = {key.removeprefix(f"{name}."): value for key, value in content.items() if key.startswith(f"{name}.")}
        assert weights.keys() == own.keys()
        assert all(torch.equal(weights[key], own[key]) for key in own)
    assert [path.name for path in (folder / "codec").iterdir()] == ["config.json"]  # pixels need no weights
    networks = {"unet": MultiviewUNet, "reconstructor": LGM, "codec": PixelCodec, "image_encoder": ImageEncoder}
    parts = {}
    for name, network in networks.items():
        config = json.loads((folder / name / "config.json").read_text())
        parts[name] = network(**{key: value for key, value in config.items() if not key.startswith("_")})
    started = Recursive(**parts, renderer=GaussianRenderer(), base_weights=str(folder))
    assert all(torch.equal(value, content[key]) for key, value in started.state_dict().items())


def test_a_call_takes_what_diffusers_pipelines_take(
    pipeline: OuroborosPipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    first = pipeline("chair.png", num_inference_steps=2, output_type="np")
    assert first.views.shape == (1, 4, 16, 16, 3)
    assert first.views.dtype == np.float32
    assert first.names == ["chair"]
    views, gaussians = pipeline("chair.png", num_inference_steps=2, output_type="pt", return_dict=False)
    assert np.array_equal(views.movedim(2, -1).numpy(), first.views)
    assert gaussians.shape == (1, 256)
    guided = pipeline("chair.png", num_inference_steps=2, guidance_scale=1.0, output_type="np")
    assert not np.array_equal(guided.views, first.views)

    def drawn(generator: object, image: object = "chair.png") -> np.ndarray:
        return pipeline(image, num_inference_steps=2, generator=generator, output_type="np").views

    one, two = drawn(torch.Generator().manual_seed(1)), drawn(torch.Generator().manual_seed(2))
    assert not np.array_equal(one, first.views)
    assert not np.array_equal(one, two)
    both = drawn([torch.Generator().manual_seed(seed) for seed in (1, 2)], ["chair.png", "chair.png"])
    assert np.array_equal(both, np.concatenate([one, two]))
    capsys.readouterr()
    pipeline.set_progress_bar_config()
    pipeline("chair.png", num_inference_steps=2)
    pipeline.set_progress_bar_config(disable=True)
    assert "2/2" in capsys.readouterr().err


def test_an_image_may_come_in_any_form(pipeline: OuroborosPipeline) -> None:
    pixels = np.asarray(Image.open("chair.png"))
    forms = [
        Path("chair.png"),
        Image.open("chair.png"),
        pixels,
        pixels / np.float32(255),
        torch.from_numpy(pixels / np.float32(255)).movedim(-1, 0),
    ]
    output = pipeline(forms, num_inference_steps=1, output_type="np")
    assert output.names[:2] == ["chair", "chair"]
    assert len(set(output.names[2:])) == 1  # named after the same pixels, so with the same noise
    assert np.array_equal(output.views[0], output.views[1])
    assert np.array_equal(output.views[2], output.views[3])
    assert np.array_equal(output.views[2], output.views[4])


def test_a_wrong_call_is_refused(pipeline: OuroborosPipeline) -> None:
    Path("text.png").write_text("no image")
    for message, call in {
        "output_type: expected one of pil, np, pt, got 'latent'": {"image": "chair.png", "output_type": "latent"},
        "nothing there": {"image": "nowhere.png"},
        "text.png: expected an image file": {"image": "text.png"},
        r"expected an array \[H, W, 3 or 4\]": {"image": np.zeros((4, 4))},
        "one generator for each image": {"image": ["chair.png"] * 2, "generator": [torch.Generator()]},
        "num_steps": {"image": "chair.png", "num_inference_steps": 0},
    }.items():
        with pytest.raises(ValueError, match=message):
            pipeline(**call)


def test_a_saved_pipeline_and_one_of_the_hub_load_as_they_were(
    pipeline: OuroborosPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = pipeline("chair.png", num_inference_steps=2, output_type="pt").views
    snapshot = Path("hub/models--someone--chairs/snapshots/0123")
    pipeline.save_pretrained(snapshot)
    (snapshot / "unet" / "diffusion_pytorch_model.bin").write_text("never read")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0123")
    for source in (snapshot, "someone/chairs"):
        loaded = OuroborosPipeline.from_pretrained(source, cache_dir="hub")
        loaded.set_progress_bar_config(disable=True)
        assert torch.equal(loaded("chair.png", num_inference_steps=2, output_type="pt").views, expected)


def test_the_card_says_what_the_run_says_and_its_code_runs(
    folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = (folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == "diffusers"
    assert front["pipeline_tag"] == "image-to-3d"
    assert "license" not in front  # random weights have the licence that their owner gives them
    for said in ("1 steps, seed 0", "Experiment `recursive`", "CC-0", "random weights", "was not tested", "Recursive"):
        assert said in card
    assert str(here) not in card
    monkeypatch.chdir(folder)
    Path("photo.png").write_bytes((here / "chair.png").read_bytes())
    try:
        exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1])
        assert Path("first_view.png").is_file()
        assert sorted(path.name for path in Path("objects/photo").glob("*.*"))[0] == "gaussians.ply"
    finally:
        for path in ("photo.png", "first_view.png"):
            Path(path).unlink()
        shutil.rmtree("objects")


def test_the_card_takes_results_of_this_checkpoint_only_and_licences_of_its_origin(
    folder: Path, here: Path, staged: Loaded
) -> None:
    run = here / "runs" / "origins" / "version_0"
    shutil.copytree(checkpoint("staged").parent, run / "checkpoints")
    config = yaml.safe_load((checkpoint("staged").parents[1] / "config.yaml").read_text())
    loaded = staged._replace(checkpoint=run / "checkpoints" / "last.ckpt")
    pipeline = to_pipeline(loaded, torch.float32)
    tested = sha256_of(loaded.checkpoint)
    results = {
        **{"method": "Staged", "steps": 5, "seed": 0, "objects": 2, "split": "test"},
        **{"guidance_min": 1.0, "guidance_max": 2.0, "guidance_shape": "triangle"},
        **{"projection_steps": [], "feedback_steps": [], "blend": None},
        **{"dataset": str(here / "tree"), "mean": {"novel_psnr_foreground": 12.345}},
    }
    svd = {"svd": "stabilityai/stable-video-diffusion-img2vid", "lgm": str(here / "lgm.safetensors"), "published": None}
    for base, sha256, said, front in (
        ("bundled", tested, "2 test objects of `tree`", {"license": "apache-2.0"}),
        ("bundled:staged", tested, "from the weights `bundled:staged` that come with", {"license": "apache-2.0"}),
        (svd, "another", "was not tested", {"license": "other", "base_model": [svd["svd"]]}),
        (str(checkpoint("recursive")), "another", "`last.ckpt` of another run", {}),
        ("exported/recursive", tested, "| novel PSNR fg (dB) ↑ | 12.3", {}),
    ):
        config["model"]["init_args"]["base_weights"] = base
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        (run / "results.json").write_text(json.dumps({**results, "checkpoint_sha256": sha256}))
        card = model_card(loaded, pipeline, "float32")
        assert said in card
        assert str(here) not in card
        found = yaml.safe_load(card.split("---\n")[1])
        assert {key: found[key] for key in ("license", "base_model") if key in found} == front


def test_a_wrong_export_gets_one_line_and_leaves_nothing(
    folder: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.rglob("*"))
    staged, ckpt = [f"--config={ROOT / 'ablations' / 'staged.yaml'}", TINY], str(checkpoint("recursive"))
    assert "no file nowhere.ckpt" in refusal(capsys, "export", "--ckpt_path=nowhere.ckpt")
    joint_only = f"--config={ROOT / 'ablations' / 'joint_only.yaml'}"
    assert "no checkpoint in none" in refusal(capsys, "export", "--runs=none", joint_only)
    assert "got exported/recursive, which is taken" in refusal(capsys, "export", "--ckpt_path", ckpt, f"--out={folder}")
    assert "got chair.png, which is taken" in refusal(capsys, "export", "--ckpt_path", ckpt, "--out=chair.png")
    assert "dtype: expected float32, float16" in refusal(capsys, "export", "--ckpt_path", ckpt, "--dtype=int8")
    assert "expected the weights of Staged" in refusal(capsys, "export", "--ckpt_path", ckpt, "--out=new", *staged)
    assert "nonsense" in refusal(capsys, "export", "--ckpt_path", ckpt, "--out=new", "--nonsense=1")
    assert sorted(here.rglob("*")) == before


def test_weights_that_half_precision_does_not_hold_are_refused(staged: Loaded) -> None:
    bias = staged.variant.unet.unet.conv_in.bias
    kept = bias.detach().clone()
    bias.data[0] = 1e6
    with pytest.raises(ValueError, match=r"unet.unet.conv_in.bias: expected finite values in torch.float16"):
        to_pipeline(staged, torch.float16)
    bias.data.copy_(kept)


def test_a_full_disk_gets_one_line_and_leaves_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(here.rglob("*"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))  # the kernel then refuses to let a file grow
    try:
        line = refusal(capsys, "export", f"--ckpt_path={checkpoint('staged')}", "--out=full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "full: " in line
    assert "File too large" in line
    assert sorted(here.rglob("*")) == before


def kill_inside(folder: Path) -> None:
    """End like `kill -9` when a part of a folder is written."""
    with atomic_folder(folder) as part:
        (part / "unet").mkdir()
        (part / "unet" / "weights").write_text("some")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_export_leaves_no_folder_under_its_name(tmp_path: Path) -> None:
    killed = multiprocessing.get_context("fork").Process(target=kill_inside, args=(tmp_path / "export",))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [f".export.{killed.pid}.part"]
    with atomic_folder(tmp_path / "export") as part:  # what was left is in nobody's way
        (part / "weights").write_text("all")
    assert (tmp_path / "export" / "weights").read_text() == "all"


def test_a_damaged_or_foreign_folder_is_refused(folder: Path, here: Path) -> None:
    def refused(change: Callable[[Path], object]) -> str:
        copy = here / "damaged"
        shutil.copytree(folder, copy)
        change(copy)
        with pytest.raises((ValueError, OSError)) as refused:
            OuroborosPipeline.from_pretrained(copy)
        shutil.rmtree(copy)
        return str(refused.value)

    def index(**values: object) -> Callable[[Path], object]:
        def write(copy: Path) -> None:
            path = copy / "model_index.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

        return write

    def cut(copy: Path) -> None:
        path = copy / "unet" / "diffusion_pytorch_model.safetensors"
        path.write_bytes(path.read_bytes()[:-1000])

    def without_a_key(copy: Path) -> None:
        path = copy / "reconstructor" / "diffusion_pytorch_model.safetensors"
        state = load_file(path)
        del state["conv.bias"]
        save_file(state, path, metadata={"format": "pt"})

    assert "got a StableVideoDiffusionPipeline" in refused(index(_class_name="StableVideoDiffusionPipeline"))
    assert "expected unet to be one of" in refused(index(unet=["os", "system"]))
    assert "expected codec to be one of" in refused(index(codec=["my_module", "Codec"]))
    assert "Staged, InferenceCombined, Recursive" in refused(index(variant="Other"))
    assert "unexpected keyword argument 'nonsense'" in refused(index(settings={"nonsense": 1}))
    assert "unet" in refused(cut)
    assert "conv.bias" in refused(without_a_key)
    assert "diffusion_pytorch_model" in refused(
        lambda copy: (copy / "unet/diffusion_pytorch_model.safetensors").unlink()
    )
    assert "model_index.json" in refused(lambda copy: (copy / "model_index.json").unlink())
