"""The Gaussian renderer against a brute-force twin: float64, every splat at every pixel, sorted, no limits."""

import logging
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from ouroboros3d.cameras import Cameras
from ouroboros3d.gaussians import Gaussians
from ouroboros3d.renderers.gaussians import GaussianRenderer

HEIGHT, WIDTH = 20, 28  # neither square nor a multiple of the tile
BACKENDS = ("torch", "pytorch3d")  # triton: at the end
NAMES = [field.name for field in fields(Gaussians)]
# float32 against float64, relative to the largest value of each output and gradient. Worst seen over all scenes here:
# 2e-5 forward, 4e-5 backward, both from needles, whose exponents are differences of large numbers.
TOLERANCE = 1e-4


def twin(gaussians, cameras, height, width, background):
    """Colour, alpha, depth, coordinates [B, V, 8, H, W] and how clear [B, V, 1, H, W] each pixel is of thresholds."""
    gaussians, cameras = gaussians.to(dtype=torch.float64), cameras.to(dtype=torch.float64)
    pictures, clear = [], []
    for b in range(cameras.shape[0]):
        for v in range(cameras.shape[1]):
            picture, margin = _twin_view(gaussians[b], cameras[b, v], height, width, background[b].double())
            pictures.append(picture)
            clear.append(margin)
    shape = (*cameras.shape, -1, height, width)
    return torch.stack(pictures).view(shape), torch.stack(clear).view(shape)


def _twin_view(gaussians, camera, height, width, background):
    rotation = camera.c2w_opencv[:3, :3].T
    points = (gaussians.means - camera.centres) @ rotation.T
    kept = torch.nonzero(points[:, 2] > 0.01)[:, 0]
    kept = kept[points[kept, 2].argsort(stable=True)]
    x, y, z = points[kept].unbind(-1)
    size = torch.tensor([width, height])
    fx, fy = camera.intrinsics_norm.diagonal()[:2] * size
    cx, cy = camera.intrinsics_norm[:2, 2] * size
    covariance = rotation @ gaussians.covariances()[kept] @ rotation.T
    # 3DGS: the Jacobian at no more than 1.3 times the half field of view.
    slope_x = (x / z).clamp((-cx - 0.15 * width) / fx, (width - cx + 0.15 * width) / fx)
    slope_y = (y / z).clamp((-cy - 0.15 * height) / fy, (height - cy + 0.15 * height) / fy)
    zero = torch.zeros_like(z)
    jacobian = torch.stack(
        [torch.stack([fx / z, zero, -fx * slope_x / z], -1), torch.stack([zero, fy / z, -fy * slope_y / z], -1)], -2
    )
    flat = jacobian @ covariance @ jacobian.transpose(-1, -2) + 0.3 * torch.eye(2, dtype=z.dtype)
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    centre = torch.stack([fx * x / z + cx, fy * y / z + cy], -1)
    distance = torch.stack([columns, rows], -1).to(z.dtype)[:, :, None] - centre
    power = torch.einsum("hwni,nij,hwnj->hwn", distance, torch.linalg.inv(flat), distance)
    raw = gaussians.opacities[kept, 0] * torch.exp(-0.5 * power)
    alpha = torch.where(raw >= 1 / 255, raw.clamp_max(0.99), 0.0)
    in_front = torch.cat([torch.ones_like(alpha[..., :1]), (1 - alpha).cumprod(-1)], -1)[..., :-1]
    weight = alpha[..., : kept.shape[0]] * in_front[..., : kept.shape[0]]
    total = weight.sum(-1)
    colour = weight @ gaussians.colours[kept] + (1 - total)[..., None] * background
    solid = total >= 0.5
    means = weight @ torch.cat([z[:, None], gaussians.means[kept]], -1) / torch.where(solid, total, 1.0)[..., None]
    picture = torch.cat([colour, total[..., None], torch.where(solid[..., None], means, 0.0)], -1)
    # A pixel says nothing where rounding may switch a splat (1/255) or the depth (0.5) on or off.
    doubtful = (((raw * 255).clamp_min(1e-300).log().abs() < 1e-4) & (raw > 0)).any(-1) | ((total - 0.5).abs() < 1e-3)
    return picture.permute(2, 0, 1), ~doubtful[None]


def rig(objects, views, radius=1.5, dtype=torch.float32):
    """Cameras with focal lengths of their own, principal points off the centre, all at different elevations."""
    azimuth = torch.linspace(10, 300, objects * views).view(objects, views)
    cameras = Cameras.orbit(azimuth, 20 - azimuth / 10, radius, 45 + azimuth / 20, aspect=WIDTH / HEIGHT)
    matrix = cameras.intrinsics_norm.clone()
    matrix[..., 0, 2], matrix[..., 1, 2] = 0.44, 0.57
    return Cameras(cameras.c2w_opencv, matrix).to(dtype=dtype)


def cloud(count, objects=2, scale=0.04, opacity=(0.0, 1.0), spread=0.25, seed=0):
    """Splats of all shapes around a point off the centre, one side fuller than the other."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    means = normal(objects, count, 3) * spread * torch.tensor([1.0, 0.6, 0.8]) + torch.tensor([0.1, -0.05, 0.07])
    return Gaussians(
        means,
        scale * (0.2 + 2 * uniform(objects, count, 3)),
        torch.nn.functional.normalize(normal(objects, count, 4), dim=-1),
        opacity[0] + (opacity[1] - opacity[0]) * uniform(objects, count, 1),
        uniform(objects, count, 3),
    )


def altered(gaussians, **values):
    """The same Gaussians with some parameters replaced; numbers and short tensors are expanded."""
    return Gaussians(
        *(
            torch.as_tensor(values[name], dtype=torch.float32).expand_as(getattr(gaussians, name)).clone()
            if name in values
            else getattr(gaussians, name)
            for name in NAMES
        )
    )


def near_plane():
    """Splats behind, around and just before the near plane of the first camera, and inside the camera's centre."""
    gaussians = cloud(120)
    camera = rig(2, 2)[:, 0]
    depth = torch.linspace(-0.3, 0.5, 120)
    depth[:4] = torch.tensor([0.0, 0.01, 0.010001, 1e-7])
    means = camera.centres[:, None] + camera.c2w_opencv[:, None, :3, 2] * depth[:, None] + gaussians.means * 0.05
    means[:, 3] = camera.centres
    return altered(gaussians, means=means, scales=gaussians.scales * 0.1)


def stack_on_one_pixel():
    """2000 faint splats on a ray of the first camera: hundreds count before the pixel is full."""
    gaussians = cloud(2000, spread=0.002, opacity=(0.0, 0.02), seed=3)
    camera = rig(2, 2)[:, 0]
    # Further apart than float32 rounds depths: swapping two splats would be no error of the renderer.
    depth = torch.linspace(1.2, 1.8, 2000)
    means = camera.centres[:, None] + camera.c2w_opencv[:, None, :3, 2] * depth[:, None]
    right = camera.c2w_opencv[:, None, :3, 0] * (gaussians.means[..., :1] - 0.1)
    return altered(gaussians, means=means + right, scales=gaussians.scales * 0.1)


def ties():
    """Pairs of splats in the same place with different colours: the first one is in front."""
    gaussians = cloud(60, seed=4)
    return altered(gaussians, means=gaussians.means[:, :30].repeat(1, 2, 1))


SCENES = {
    "cloud": lambda: cloud(150),
    "faint": lambda: cloud(200, opacity=(0.0, 0.1), seed=1),
    "behind and at the near plane": near_plane,
    "image border": lambda: cloud(150, spread=0.9),
    "sub-pixel": lambda: cloud(150, scale=1e-3, seed=2),
    "points": lambda: altered(cloud(80, seed=5), scales=0.0),
    "needles": lambda: altered(cloud(100, seed=6), scales=[0.3, 2e-3, 1e-3]),
    "larger than the image": lambda: cloud(20, scale=0.8, seed=7),
    "opaque": lambda: altered(cloud(150, seed=8), opacities=1.0),
    "some without opacity": lambda: altered(
        cloud(90, seed=9), opacities=torch.tensor([0.0, 0.003, 0.9]).repeat(30)[:, None]
    ),
    "thousands on one pixel": stack_on_one_pixel,
    "ties": ties,
}


def outputs_and_gradients(render, gaussians, weights):
    leaves = Gaussians(*(getattr(gaussians, name).clone().requires_grad_() for name in NAMES))
    picture = render(leaves)
    (picture * weights.to(picture.dtype)).sum().backward()
    return picture.detach(), [getattr(leaves, name).grad for name in NAMES]


def stacked(rendering):
    return torch.cat([rendering.colour, rendering.alpha, rendering.depth, rendering.coordinates], dim=2)


def assert_same(renderer, gaussians, cameras, background, tolerance=TOLERANCE):
    """Forward and backward equal the twin's at all pixels that are clear of thresholds."""
    with torch.no_grad():
        _, clear = twin(gaussians, cameras, HEIGHT, WIDTH, background)
    assert clear.float().mean() > 0.9
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(*cameras.shape, 8, HEIGHT, WIDTH, generator=generator) * clear

    def ours(gaussians):
        rendering = renderer(gaussians, cameras, HEIGHT, WIDTH, background)
        assert rendering.truncated_fraction == 0
        return stacked(rendering)

    def reference(gaussians):
        return twin(gaussians, cameras, HEIGHT, WIDTH, background)[0]

    found, found_gradients = outputs_and_gradients(ours, gaussians, weights)
    expected, expected_gradients = outputs_and_gradients(reference, gaussians, weights)
    assert torch.isfinite(found).all()
    assert ((found - expected).abs() * clear).max() < tolerance
    for name, grad, wanted in zip(NAMES, found_gradients, expected_gradients, strict=True):
        assert torch.isfinite(grad).all(), name
        error = (grad - wanted).abs().max() / wanted.abs().max().clamp_min(1e-6)
        assert error < tolerance, f"{name}: {error:.2g} of the largest gradient"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scene", SCENES)
def test_equals_the_twin(scene, backend):
    # Seen from the side, the splats on one ray have equal depths up to rounding, and no order to agree on.
    views = 1 if scene == "thousands on one pixel" else 2
    assert_same(GaussianRenderer(backend=backend), SCENES[scene](), rig(2, 2)[:, :views], torch.rand(2, 3))


@pytest.mark.parametrize("wrong", ["low_pass", "order", "camera"])
def test_the_comparison_can_fail(wrong):
    gaussians, cameras = cloud(100), rig(2, 2)
    renderer = GaussianRenderer(low_pass=0.301 if wrong == "low_pass" else 0.3)

    def render(gaussians, cameras, height, width, background):
        if wrong == "order":
            gaussians = altered(gaussians, colours=gaussians.colours.flip(1))
        if wrong == "camera":
            cameras = Cameras(cameras.c2w_opencv, cameras.intrinsics_norm.clone())
            cameras.intrinsics_norm[..., 0, 2] += 1e-4
        return renderer(gaussians, cameras, height, width, background)

    with pytest.raises(AssertionError):
        assert_same(render, gaussians, cameras, torch.rand(2, 3))


@pytest.mark.parametrize("tile_size", [4, 16, 32])
@pytest.mark.parametrize("backend", BACKENDS)
def test_tile_size_changes_nothing(backend, tile_size):
    assert_same(GaussianRenderer(backend=backend, tile_size=tile_size), cloud(100), rig(2, 2), torch.rand(2, 3))


def test_gradcheck():
    # Seed and size keep every weight away from 1/255 by more than the finite difference.
    gaussians = cloud(6, objects=1, scale=0.08, opacity=(0.3, 0.9), seed=2).to(dtype=torch.float64)
    cameras = rig(1, 2, dtype=torch.float64)
    background = torch.rand(1, 3, dtype=torch.float64)
    weights = torch.randn(4, 1, 2, 8, 9, 11, dtype=torch.float64)

    def render(*parameters):
        picture = stacked(GaussianRenderer()(Gaussians(*parameters), cameras, 9, 11, background))
        return (picture * weights).flatten(1).sum(1)

    assert torch.autograd.gradcheck(render, [getattr(gaussians, name).requires_grad_() for name in NAMES])


@pytest.mark.parametrize("backend", BACKENDS)
def test_deterministic(backend):
    gaussians, cameras = cloud(400), rig(2, 3)
    weights = torch.randn(2, 3, 8, HEIGHT, WIDTH)
    renderer = GaussianRenderer(backend=backend)
    first, second = (
        outputs_and_gradients(lambda g: stacked(renderer(g, cameras, HEIGHT, WIDTH)), gaussians, weights)
        for _ in range(2)
    )
    assert torch.equal(first[0], second[0])
    assert all(map(torch.equal, first[1], second[1]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_of_two_is_two_batches_of_one(backend):
    gaussians, cameras, background = cloud(200), rig(2, 2), torch.rand(2, 3)
    weights = torch.randn(2, 2, 8, HEIGHT, WIDTH)
    renderer = GaussianRenderer(backend=backend)

    def run(rows):
        return outputs_and_gradients(
            lambda g: stacked(renderer(g, cameras[rows], HEIGHT, WIDTH, background[rows])),
            gaussians[rows],
            weights[rows],
        )

    together, apart = run(slice(0, 2)), [run(slice(i, i + 1)) for i in range(2)]
    # Other sizes of the matrix products round differently.
    torch.testing.assert_close(together[0], torch.cat([one[0] for one in apart]), rtol=1e-5, atol=1e-5)
    for whole, *parts in zip(together[1], *(one[1] for one in apart), strict=True):
        torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_objects_of_different_size_are_padded_without_opacity(backend):
    small, cameras = cloud(40, objects=1), rig(1, 2)
    padding = altered(cloud(25, objects=1, seed=1), opacities=0.0)
    renderer = GaussianRenderer(backend=backend)
    plain = stacked(renderer(small, cameras, HEIGHT, WIDTH))
    padded = stacked(renderer(Gaussians.cat([small, padding], dim=1), cameras, HEIGHT, WIDTH))
    torch.testing.assert_close(padded, plain, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scene", ["no splats", "all behind", "all transparent", "all outside"])
def test_empty_scene_is_the_background(scene, backend):
    gaussians = cloud(0 if scene == "no splats" else 30)
    if scene == "all behind":
        gaussians = altered(gaussians, means=rig(2, 2).centres[:, :1] * (1.5 + torch.rand(2, 30, 1)))
        cameras = rig(2, 2)[:, :1]
    else:
        cameras = rig(2, 2)
    if scene == "all transparent":
        gaussians = altered(gaussians, opacities=0.0)
    if scene == "all outside":
        gaussians = altered(gaussians, means=cameras.centres[:, :1] * 0.5 + torch.tensor([0.0, 90.0, 0.0]))
    leaves = Gaussians(*(getattr(gaussians, name).requires_grad_() for name in NAMES))
    background = torch.rand(2, 3)
    rendering = GaussianRenderer(backend=backend)(leaves, cameras, HEIGHT, WIDTH, background)
    stacked(rendering).sum().backward()
    assert torch.equal(rendering.colour, background[:, None, :, None, None].expand_as(rendering.colour))
    for image in (rendering.alpha, rendering.depth, rendering.coordinates, rendering.truncated_fraction):
        assert not image.any()
    assert all(grad is None or not grad.any() for grad in (getattr(leaves, name).grad for name in NAMES))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("broken", ["quaternions", "scales", "means"])
def test_degenerate_values_leave_finite_gradients(broken, backend):
    """A zero quaternion, an overflowing scale and a mean at infinity must not poison the other splats' gradients."""
    gaussians, cameras = cloud(50), rig(2, 2)
    getattr(gaussians, broken)[:, ::5] = {"quaternions": 0.0, "scales": 1e30, "means": 1e30}[broken]
    render = GaussianRenderer(backend=backend)
    picture, gradients = outputs_and_gradients(
        lambda g: stacked(render(g, cameras, HEIGHT, WIDTH)), gaussians, torch.randn(2, 2, 8, HEIGHT, WIDTH)
    )
    assert torch.isfinite(picture).all()
    assert all(torch.isfinite(grad).all() for grad in gradients)


def test_starting_k_changes_nothing_and_a_small_limit_is_counted():
    gaussians, cameras = cloud(300, opacity=(0.0, 0.2)), rig(2, 2)

    def render(start, limit):
        renderer = GaussianRenderer(backend="pytorch3d", points_per_pixel=start, max_points_per_pixel=limit)
        return renderer(gaussians, cameras, HEIGHT, WIDTH)

    exact = render(300, 300)
    adapted = render(1, 300)
    assert exact.truncated_fraction == adapted.truncated_fraction == 0
    torch.testing.assert_close(stacked(adapted), stacked(exact), rtol=1e-6, atol=1e-6)
    fractions = [render(1, limit).truncated_fraction.item() for limit in (1, 4, 16)]
    assert 1 >= fractions[0] > fractions[1] > fractions[2] > 0
    assert (render(1, 4).alpha - exact.alpha).abs().max() > 0.01


def test_a_full_pixel_is_not_truncated():
    gaussians = altered(cloud(300), opacities=1.0, scales=3.0)
    renderer = GaussianRenderer(backend="pytorch3d", points_per_pixel=8, max_points_per_pixel=8)
    assert renderer(gaussians, rig(2, 2), HEIGHT, WIDTH).truncated_fraction == 0


def test_autocast_and_half_precision_compute_in_float32():
    gaussians, cameras = cloud(60), rig(2, 2)
    plain = GaussianRenderer()(gaussians, cameras, HEIGHT, WIDTH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = GaussianRenderer()(gaussians, cameras, HEIGHT, WIDTH)
    assert torch.equal(stacked(cast), stacked(plain))
    half = GaussianRenderer()(gaussians.to(dtype=torch.bfloat16), cameras, HEIGHT, WIDTH)
    assert half.colour.dtype == torch.float32


def test_background_is_white_unless_given():
    gaussians, cameras = cloud(30), rig(2, 2)
    white = GaussianRenderer()(gaussians, cameras, HEIGHT, WIDTH)
    black = GaussianRenderer()(gaussians, cameras, HEIGHT, WIDTH, torch.zeros(2, 3))
    torch.testing.assert_close(white.colour - black.colour, (1 - white.alpha).expand_as(white.colour))


def test_a_splat_appears_where_the_camera_projects_it():
    cameras = rig(1, 3)
    one = altered(cloud(1, objects=1), means=[0.12, -0.08, 0.2], scales=0.01, opacities=0.9)
    rendering = GaussianRenderer()(one, cameras, 120, 168)
    uv, _ = cameras.project(one.means[:, None].expand(1, 3, 1, 3))
    alpha = rendering.alpha[0, :, 0]
    mass = alpha.sum((1, 2))
    u = (alpha.sum(1) * (torch.arange(168) + 0.5) / 168).sum(1) / mass
    v = (alpha.sum(2) * (torch.arange(120) + 0.5) / 120).sum(1) / mass
    # A tenth of a pixel: the 1/255 cut is not symmetric on the pixel grid.
    torch.testing.assert_close(torch.stack([u, v], -1), uv[0, :, 0], rtol=0, atol=1e-3)


def test_depth_and_coordinates_are_divided_by_alpha():
    """A half-transparent wall facing the camera has the wall's depth, not alpha times it."""
    line = torch.linspace(-0.4, 0.4, 33)
    x, y = torch.meshgrid(line, line, indexing="ij")
    wall = cloud(33 * 33, objects=1)
    means = torch.stack([x, y, torch.full_like(x, 0.2)], -1).view(1, -1, 3)
    wall = altered(wall, means=means, scales=[0.02, 0.02, 1e-4], quaternions=[1.0, 0.0, 0.0, 0.0], opacities=0.3)
    camera = Cameras.orbit([[0.0]], 0.0, 1.5, 30.0)
    rendering = GaussianRenderer()(wall, camera, 24, 24)
    inside = rendering.alpha[0, 0, 0, 8:16, 8:16]
    assert ((inside > 0.5) & (inside < 0.9)).all()
    assert (rendering.depth[0, 0, 0, 8:16, 8:16] - 1.3).abs().max() < 1e-5  # 1.5 - 0.2
    assert (rendering.coordinates[0, 0, 2, 8:16, 8:16] - 0.2).abs().max() < 1e-5
    faint = GaussianRenderer()(altered(wall, opacities=0.05), camera, 24, 24)
    assert faint.alpha.max() < 0.5
    assert not faint.depth.any()
    assert not faint.coordinates.any()
    for image in (rendering, faint):  # what the published map wants is not divided, and not cut off at half alpha
        torch.testing.assert_close(image.depth_sum, 1.3 * image.alpha, rtol=1e-5, atol=1e-6)


def test_bad_input_is_told():
    gaussians, cameras = cloud(5), rig(2, 2)
    with pytest.raises(ValueError, match="gaussians: expected B = 2"):
        GaussianRenderer()(gaussians[:1], cameras, HEIGHT, WIDTH)
    with pytest.raises(ValueError, match=r"background: expected \[B, 3\]"):
        GaussianRenderer()(gaussians, cameras, HEIGHT, WIDTH, torch.ones(3))
    with pytest.raises(ValueError, match="points_per_pixel"):
        GaussianRenderer(points_per_pixel=0)
    with pytest.raises(ValueError, match="near"):
        GaussianRenderer(near=0.0)


def test_triton_kernels_equal_the_torch_backend():
    # A process of its own: Triton decides on its interpreter when it is imported.
    pytest.importorskip("triton", reason="Triton has no wheel for this platform")
    script = Path(__file__).with_name("interpreted_triton.py")
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(script.parents[2])}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kernel", ["_forward", "_backward"])
def test_triton_kernels_compile_for_a_gpu_that_is_not_here(kernel):
    """The interpreter accepts more than the compiler does."""
    triton = pytest.importorskip("triton", reason="Triton has no wheel for this platform")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from ouroboros3d.renderers import gaussians_triton

    function = getattr(gaussians_triton, kernel)
    kinds = dict.fromkeys(("splats", "across", "down"), "i32") | dict.fromkeys(("SIZE", "BLOCK"), "constexpr")
    kinds |= dict.fromkeys(("pairs", "tiles", "starts", "lengths"), "*i64")
    signature = {name: kinds.get(name, "*fp32") for name in function.arg_names}
    constants = {"SIZE": 8, "BLOCK": gaussians_triton.block_size(8)}
    source = ASTSource(function, signature, constexprs=constants)
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]


def test_triton_falls_back_to_torch_with_a_log_line(caplog):
    gaussians, cameras = cloud(30), rig(2, 2)
    with caplog.at_level(logging.WARNING):
        fallen_back = GaussianRenderer(backend="triton")(gaussians, cameras, HEIGHT, WIDTH)
    assert "triton" in caplog.text
    assert torch.equal(stacked(fallen_back), stacked(GaussianRenderer()(gaussians, cameras, HEIGHT, WIDTH)))


@pytest.mark.gpu
@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("backend", ["torch", "pytorch3d", "triton"])
def test_cuda_equals_the_twin(scene, backend):
    views = 1 if scene == "thousands on one pixel" else 2

    def render(gaussians, cameras, height, width, background):
        # 150 splats a pixel are all that PyTorch3D has on CUDA.
        renderer = GaussianRenderer(backend=backend)
        rendering = renderer(gaussians.to("cuda"), cameras.to("cuda"), height, width, background.to("cuda"))
        return type(rendering)(*(image.cpu() if image is not None else None for image in rendering))

    if backend == "pytorch3d" and scene == "thousands on one pixel":
        pytest.skip("more splats a pixel than PyTorch3D's CUDA rasterizer keeps")
    assert_same(render, SCENES[scene](), rig(2, 2)[:, :views], torch.rand(2, 3))
