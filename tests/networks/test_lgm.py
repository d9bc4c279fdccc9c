"""The reconstructor: LGM's weights fit by name, time is neutral at the start, and the published quirks."""

from typing import Any

import pytest
import torch
from published_vectors import assert_matches, difference, published_state, read, shapes, wave
from torch import Tensor

from ouroboros3d.cameras import Cameras
from ouroboros3d.gaussians import Gaussians
from ouroboros3d.networks.gaussian_unet import sinusoids
from ouroboros3d.networks.lgm import CLEAN_C_NOISE, LGM
from ouroboros3d.networks.pretrained.sources import LGM_TIME_KEYS
from ouroboros3d.networks.pretrained.strict import load_strict

TINY = {
    "input_size": 16,
    "down_channels": (8, 16, 16),
    "down_attention": (False, False, True),
    "up_channels": (16, 8),
    "up_attention": (True, False),
    "layers_per_block": 1,
    "num_groups": 4,
    "num_heads": 2,
    "time_channels": 16,
}


def tiny(**changes: Any) -> LGM:
    torch.manual_seed(0)
    return LGM(**{**TINY, **changes}).double().eval()


def with_time(network: LGM) -> LGM:
    """A time input that matters: its projections start at zero."""
    torch.manual_seed(1)
    for name, parameter in network.named_parameters():
        if "emb_layers" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return network


def inputs(batch: int = 2, views: int = 4, size: int = 16) -> tuple[Tensor, Cameras]:
    torch.manual_seed(2)
    azimuths = torch.arange(views) * 360.0 / views + torch.arange(batch)[:, None] * 20
    cameras = Cameras.orbit(azimuths, 15.0, 1.5, 49.1).to(dtype=torch.float64)
    return torch.rand(batch, views, 3, size, size).double(), cameras


def columns(gaussians: Gaussians) -> Tensor:
    """[B, N, 14] in the order of LGM's heads."""
    g = gaussians
    return torch.cat([g.means, g.opacities, g.scales, g.quaternions, g.colours], dim=-1)


@pytest.mark.parametrize(
    ("name", "time", "tensors", "millions"),
    [("lgm_big_original", False, 376, 415.04), ("lgm_big_published", True, 438, 424.04)],
)
def test_big_has_the_names_and_shapes_of_the_weights(name, time, tensors, millions):
    count, expected = shapes(name)
    with torch.device("meta"):
        network = LGM(time_embedding=time)
    found = {key: list(value.shape) for key, value in network.state_dict().items()}
    assert found == expected
    assert len(found) == tensors
    assert sum(p.numel() for p in network.parameters()) == count
    assert round(count / 1e6, 2) == millions
    assert network.splat_size == 128  # 4 * 128^2 = 65,536 Gaussians


@pytest.mark.parametrize(
    ("sizes", "splats"),
    [
        ({"up_channels": (1024, 1024, 512, 256), "up_attention": (True, True, True, False)}, 64),
        (
            {
                "down_channels": (32, 64, 128, 256, 512),
                "down_attention": (False, False, False, False, True),
                "up_channels": (512, 256, 128),
                "up_attention": (True, False, False),
            },
            64,
        ),
    ],
    ids=["small", "tiny"],
)
def test_the_other_sizes_of_lgm(sizes, splats):
    with torch.device("meta"):
        network = LGM(**sizes)
    assert network.splat_size == splats
    assert network.raw(torch.zeros(1, 4, 9, 256, 256, device="meta")).shape == (1, 4 * splats**2, 14)


def test_gaussians_lie_in_their_ranges():
    network, (images, cameras) = with_time(tiny()), inputs()
    g = network(images, cameras, torch.tensor([0.1, -0.7]).double())
    assert g.shape == (2, 4 * 8 * 8)
    assert g.means.abs().max() <= 1
    assert g.scales.min() > 0
    assert g.opacities.min() > 0
    assert g.opacities.max() < 1
    assert g.colours.min() >= 0
    assert g.colours.max() <= 1
    assert torch.allclose(g.quaternions.norm(dim=-1), torch.ones(2, 256), atol=1e-5)


def test_gaussians_come_view_by_view_and_row_by_row():
    network, (images, cameras) = tiny(), inputs()
    kept: list[Tensor] = []
    network.conv.register_forward_hook(lambda _, __, output: kept.append(output))
    raw = network.raw(network.prepare(images, cameras))
    assert torch.equal(raw[1, 2 * 64 + 5 * 8 + 3], kept[0][1 * 4 + 2, :, 5, 3])


def test_inputs_are_normalised_images_and_rays():
    network, (images, cameras) = tiny(), inputs()
    prepared = network.prepare(images, cameras)
    assert torch.equal(prepared[:, :, 3:], cameras.plucker(16, 16))
    assert torch.allclose(prepared[0, 1, 2], (images[0, 1, 2] - 0.406) / 0.225)


def test_a_time_input_changes_nothing_at_the_start():
    """LGM's weights have none: loaded into a network with one, they give the same output, bit for bit."""
    plain, timed = tiny(time_embedding=False), tiny()
    images, cameras = inputs()
    report = load_strict(timed, plain.state_dict(), allow_missing=LGM_TIME_KEYS)
    assert len(report.missing) == len(timed.state_dict()) - len(plain.state_dict())
    expected = columns(plain(images, cameras))
    assert torch.equal(columns(timed(images, cameras, torch.tensor([0.5, -1.0]).double())), expected)
    assert torch.equal(columns(timed(images, cameras)), expected)


def test_time_is_the_noise_level_of_each_object():
    network, (images, cameras) = with_time(tiny()), inputs()
    c_noise = torch.tensor([0.5, -1.0]).double()
    batched = columns(network(images, cameras, c_noise))
    for i in range(2):
        single = columns(network(images[i : i + 1], cameras[i : i + 1], c_noise[i : i + 1]))
        torch.testing.assert_close(batched[i : i + 1], single, rtol=0, atol=1e-6)  # activations are float32
    swapped = columns(network(images, cameras, c_noise.flip(0)))
    assert difference(swapped, batched) > 1e-3
    clean = torch.full((2,), CLEAN_C_NOISE).double()
    assert torch.allclose(columns(network(images, cameras)), columns(network(images, cameras, clean)), atol=1e-6)


def test_views_talk_to_each_other_within_an_object():
    network, (images, cameras) = tiny(), inputs()
    changed = images.clone()
    changed[0, 3] = 1 - changed[0, 3]
    before, after = columns(network(images, cameras)), columns(network(changed, cameras))
    assert difference(after[0, :64], before[0, :64]) > 1e-6  # view 0 sees view 3
    assert torch.equal(after[1], before[1])  # object 1 does not


def test_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        network = with_time(tiny(gradient_checkpointing=checkpointing)).train()
        columns(network(*inputs(), torch.tensor([0.5, -1.0]).double())).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-9)  # float64, same operations


@pytest.mark.parametrize(
    ("views", "used"), [(4, [0, 1, 2, 3]), (6, [0, 1, 3, 4]), (8, [0, 2, 4, 6]), (16, [0, 4, 8, 12])]
)
def test_used_views_are_spread_evenly(views, used):
    network = tiny()
    assert network.view_indices(views) == used
    images, cameras = inputs(batch=1, views=views)
    chosen = columns(network(images[:, used], cameras[:, used]))
    assert torch.equal(columns(network(images, cameras)), chosen)


def test_images_are_resized_without_aliasing():
    network, (images, cameras) = tiny(), inputs(size=16)
    large = images.repeat_interleave(4, -1).repeat_interleave(4, -2)
    stripes = torch.zeros(1, 1, 3, 64, 64).double()
    stripes[..., ::4] = 1  # every fourth column: bilinear samples at 16 px miss or hit it everywhere
    assert network.prepare(large, cameras).shape == (2, 4, 9, 16, 16)
    seen = network.prepare(stripes, cameras[:1, :1])[0, 0, 0] * 0.229 + 0.485
    assert (seen[4:-4, 4:-4] - 0.25).abs().max() < 0.02
    network.resize = "published"
    aliased = network.prepare(stripes, cameras[:1, :1])[0, 0, 0] * 0.229 + 0.485
    assert (aliased[4:-4, 4:-4] - 0.25).abs().max() > 0.2


def test_pixel_aligned_gaussians_start_on_their_rays_where_these_pass_the_origin():
    network, (images, cameras) = tiny(position="pixel_aligned"), inputs()
    side = network.splat_size
    means = network(images, cameras).means.double().unflatten(1, (4, side * side))
    uv, depth = cameras.project(means)
    grid = (torch.arange(side).double() + 0.5) / side
    pixels = uv.unflatten(2, (side, side))  # means are in single precision
    torch.testing.assert_close(pixels[..., 0], grid.expand(2, 4, side, side), rtol=0, atol=1e-6)  # columns
    torch.testing.assert_close(pixels[..., 1], grid[:, None].expand(2, 4, side, side), rtol=0, atol=1e-6)  # rows
    rays = means - cameras.centres[:, :, None]
    assert (rays * means).sum(-1).abs().max() < 1e-6  # nearest to the origin: at a right angle
    assert (depth > 0).all()


def test_pixel_aligned_offsets_follow_the_axes_of_the_camera():
    network, (images, cameras) = tiny(position="pixel_aligned"), inputs()
    offset = torch.tensor([0.02, -0.05, 0.11])  # right, up, away
    start = network(images, cameras).means.unflatten(1, (4, -1))
    with torch.no_grad():
        network.conv.bias[:3] = offset
    moved = network(images, cameras).means.unflatten(1, (4, -1))
    in_camera = (moved - start) @ cameras.c2w_opencv[..., :3, :3].float()
    torch.testing.assert_close(in_camera, offset.expand_as(in_camera), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"down_attention": (True,)}, "down_attention: expected one flag for each of 3"),
        ({"up_channels": (16, 16, 8, 8), "up_attention": (False,) * 4}, "up_channels: expected 1 to 3 levels"),
        ({"input_size": 18}, "input_size: expected a multiple of 4"),
        ({"num_groups": 3}, "channels: expected multiples of num_groups = 3"),
    ],
)
def test_sizes_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_inputs_that_do_not_fit():
    network, (images, cameras) = tiny(), inputs()
    with pytest.raises(ValueError, match="at least reconstruct_views = 4, got 3"):
        network(images[:, :3], cameras[:, :3])
    with pytest.raises(ValueError, match=r"cameras: expected \[B, V\] = \[2, 4\]"):
        network(images, cameras[:, :3])
    with pytest.raises(ValueError, match=r"c_noise: expected \[B\] = \[2\]"):
        network(images, cameras, torch.zeros(8))


# The published code.


def published_lgm(config: dict[str, Any], **changes: Any) -> LGM:
    sizes = {key: config[key] for key in TINY if key in config}
    network = LGM(**{"input_size": 32, **sizes, **changes}).eval()
    network.load_state_dict(published_state(network))
    return network


@torch.no_grad()
def test_published_unet_with_time():
    arrays, config = read("lgm_unet_timed_mixed")
    unet = published_lgm(config).unet
    unet.load_state_dict(published_state(unet))  # these vectors' names have no prefix
    x, time = wave(arrays["x_shape"], arrays["x_k"]), arrays["timesteps_per_view"]
    assert_matches(unet.time_embed(sinusoids(time, 128)), arrays["time_embedding"])
    assert_matches(unet(x, 4, time), arrays["out_per_view"])
    assert_matches(unet(x, 4, torch.zeros(1)), arrays["out_int0"])
    assert difference(arrays["out_int0"], arrays["out_per_view"]) > 0.01


@torch.no_grad()
def test_lgm_unet():
    arrays, config = read("lgm_unet_original_mixed")
    unet = published_lgm(config, time_embedding=False).unet
    unet.load_state_dict(published_state(unet))
    assert_matches(unet(wave(arrays["x_shape"], arrays["x_k"]), 4, None), arrays["out"])


@torch.no_grad()
def test_published_reconstruction():
    arrays, config = read("lgm_forward_gaussians_mixed")
    switches = {"resize": "published", "rotation_norm": "published", "time_shape": "published"}
    network = published_lgm(config, **switches)
    cameras = Cameras(arrays["c2w"], arrays["intrinsics"])
    images_01 = wave(arrays["images_shape"], arrays["images_k"]) / 2 + 0.5
    gaussians = columns(network(images_01, cameras, arrays["timestep"]))
    assert_matches(gaussians, arrays["o3d_gaussians"])
    network.time_shape = "per_object"  # at batch 1 the same
    assert_matches(columns(network(images_01, cameras, arrays["timestep"][None])), gaussians, 1e-5)  # order of sums
    network.resize = "antialiased"
    antialiased = network(images_01, cameras, arrays["timestep"][None])
    assert difference(columns(antialiased), arrays["o3d_gaussians"]) > 0.1


@torch.no_grad()
def test_lgm_reconstruction():
    arrays, config = read("lgm_forward_gaussians_mixed")
    network = published_lgm(config, time_embedding=False)
    raw = network.raw(wave(arrays["lgm_input_shape"], arrays["lgm_input_k"]))
    assert_matches(columns(network.activate(raw)), arrays["lgm_gaussians"])


def test_published_activations():
    arrays, _ = read("lgm_head")
    raw = arrays["raw"]
    assert_matches(columns(tiny().activate(raw)), arrays["gaussians_lgm_fixed"], 1e-6)
    legacy = {"rotation_norm": "published", "scale_activation": "published"}
    four, eight = tiny(**legacy), tiny(reconstruct_views=8, **legacy)
    assert_matches(four.activate(raw).quaternions, arrays["rotation_legacy"], 1e-6)
    assert_matches(tiny().activate(raw).quaternions, arrays["rotation_fixed"], 1e-6)
    # All columns but the quaternions, whose two forms are compared above.
    for network, name in ((four, "gaussians_o3d_4frames"), (eight, "gaussians_o3d_8frames")):
        ours, reference = columns(network.activate(raw)), arrays[name]
        assert_matches(ours[..., :7], reference[..., :7], 1e-6)
        assert_matches(ours[..., 11:], reference[..., 11:], 1e-6)
    assert difference(arrays["rotation_legacy"], arrays["rotation_fixed"]) > 0.1
    assert torch.allclose(eight.activate(raw).scales / four.activate(raw).scales, torch.tensor(0.7))


def test_published_rays():
    arrays, _ = read("lgm_rays")
    cameras = Cameras.orbit([0, 90, 180, 270], 0.0, 1.5, 49.1)
    assert_matches(cameras.plucker(16, 16), arrays["default_rays"], 1e-6)
    half_width = torch.tan(torch.deg2rad(arrays["fov"]) / 2)
    intrinsics = torch.eye(3).repeat(1, 8, 1, 1)
    intrinsics[..., 0, 0] = intrinsics[..., 1, 1] = 0.5 / half_width
    intrinsics[..., :2, 2] = 0.5
    shipped = Cameras(arrays["c2w"], intrinsics).plucker(16, 16)[0]
    assert_matches(shipped, arrays["o3d_rays"], 1e-6)


def test_published_time_shapes():
    """One value per object fails there at batch 2: the published training works at batch 1 alone."""
    network, (images, cameras) = with_time(tiny(time_shape="published")), inputs()
    with pytest.raises(ValueError, match=r"expected no axes, \[1\] or \[8\]"):
        network(images, cameras, torch.zeros(2).double())
    per_view = torch.tensor([0.5] * 4 + [-1.0] * 4).double()
    output = columns(network(images, cameras, per_view))
    network.time_shape = "per_object"
    assert torch.equal(columns(network(images, cameras, per_view[::4])), output)


def test_published_time_of_clean_images_is_zero():
    network, (images, cameras) = with_time(tiny(time_shape="published")), inputs()
    clean = columns(network(images, cameras))
    assert torch.equal(clean, columns(network(images, cameras, torch.zeros(1).double())))
    network.time_shape = "per_object"
    assert difference(columns(network(images, cameras)), clean) > 1e-3
