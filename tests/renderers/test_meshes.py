"""The mesh renderer against a float64 ray caster and against scenes whose pixels are known in closed form."""

import math

import pytest
import torch
from torch import Tensor

from ouroboros3d.cameras import Cameras, intrinsics
from ouroboros3d.renderers.meshes import Material, MeshRenderer, TexturedMesh
from ouroboros3d.renderers.rendering import Rendering
from ouroboros3d.renderers.textures import linear_to_srgb

RED, BLUE, GREEN, WHITE = (255, 0, 0, 255), (0, 0, 255, 255), (0, 255, 0, 255), (255, 255, 255, 255)


def mesh_of(vertices: Tensor, faces: Tensor, *materials: Material, uv: Tensor | None = None) -> TexturedMesh:
    """All faces wear the first material."""
    uv = torch.zeros(len(faces), 3, 2) if uv is None else uv
    return TexturedMesh(vertices, faces, uv, torch.zeros(len(faces), dtype=torch.int64), materials or (Material(),))


def merge(*meshes: TexturedMesh) -> TexturedMesh:
    """One mesh of several, each with its own materials; missing vertex colours are white."""
    vertices = [0, *torch.tensor([len(m.vertices) for m in meshes]).cumsum(0).tolist()]
    materials = [0, *torch.tensor([len(m.materials) for m in meshes]).cumsum(0).tolist()]
    colours = [
        torch.ones(len(m.vertices), 4) if m.vertex_colours_linear is None else m.vertex_colours_linear for m in meshes
    ]
    return TexturedMesh(
        torch.cat([m.vertices for m in meshes]),
        torch.cat([m.faces + start for m, start in zip(meshes, vertices[:-1], strict=True)]),
        torch.cat([m.uv for m in meshes]),
        torch.cat([m.material_index + start for m, start in zip(meshes, materials[:-1], strict=True)]),
        tuple(material for m in meshes for material in m.materials),
        torch.cat(colours),
    )


def box(low: tuple[float, float, float], high: tuple[float, float, float]) -> TexturedMesh:
    """A box whose eight corners have different colours."""
    corners = torch.tensor([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=torch.float32)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = torch.tensor([tri for a, b, c, d in quads for tri in ((a, b, c), (a, c, d))])
    colours = torch.cat([corners * 0.8 + 0.1, torch.ones(8, 1)], dim=1)
    vertices = torch.tensor(low) + corners * (torch.tensor(high) - torch.tensor(low))
    mesh = mesh_of(vertices, faces)
    return TexturedMesh(mesh.vertices, faces, mesh.uv, mesh.material_index, mesh.materials, colours)


def wall(
    z: float = 0.0, material: Material | None = None, half: float = 0.5, u: tuple[float, float] = (0.0, 1.0)
) -> TexturedMesh:
    """A square facing +Z at depth z; its texture's first row is at the top, u runs from left to right."""
    left, right = u
    vertices = torch.tensor([[-half, half, z], [-half, -half, z], [half, -half, z], [half, half, z]])
    uv = torch.tensor([[left, 0.0], [left, 1.0], [right, 1.0], [right, 0.0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    return mesh_of(vertices, faces, material or Material(), uv=uv[faces])


def front(radius: float = 2.0, fov: float = 40.0) -> Cameras:
    return Cameras.orbit([0.0], 0.0, radius, fov)


def lopsided(views: int = 3) -> Cameras:
    """Cameras with fx != fy and the principal point off the middle."""
    orbit = Cameras.orbit([20.0 + 110 * i for i in range(views)], [25.0 - 30 * i for i in range(views)], 2.0, 40.0)
    matrix = intrinsics(torch.full((views,), 1.1), torch.full((views,), 1.6), 0.42, 0.57)
    return Cameras(orbit.c2w_opencv, matrix)


def image(*rows: tuple[tuple[int, int, int, int], ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.uint8)


def cast(mesh: TexturedMesh, cameras: Cameras, height: int, width: int) -> tuple[Rendering, Tensor]:
    """The slow obvious twin: every ray against every triangle in float64 (Moeller-Trumbore), nearest hit wins.

    Returns:
        the rendering without textures, on white, and where the answer does not hang on the 2e-4 px around edges that
        the renderer counts as inside [V, H, W]: no edge passes within 0.01 of the ray, in barycentrics.
    """
    cameras = cameras.to(dtype=torch.float64)
    origins, directions = (x.permute(0, 2, 3, 1)[..., None, :] for x in cameras.rays(height, width))
    a, b, c = mesh.corners.double().unbind(dim=1)
    p = torch.linalg.cross(
        directions.expand(*directions.shape[:-2], len(c), 3), (c - a).expand(*directions.shape[:-2], len(c), 3)
    )
    determinant = (p * (b - a)).sum(-1)
    s = origins - a
    u = (s * p).sum(-1) / determinant
    q = torch.linalg.cross(s, (b - a).expand_as(s))
    v = (directions * q).sum(-1) / determinant
    t = ((c - a) * q).sum(-1) / determinant
    weights = torch.stack([1 - u - v, u, v], dim=-1)
    smallest = weights.amin(dim=-1)
    t = torch.where((smallest >= 0) & (t > 0), t, torch.inf)
    distance, face = t.min(dim=-1)
    hit = torch.isfinite(distance)
    sure = (smallest.abs() > 0.01).all(dim=-1)
    weights = weights.gather(-2, face[..., None, None].expand(*face.shape, 1, 3))[..., 0, :]
    point = torch.where(hit[..., None], origins[..., 0, :] + distance[..., None] * directions[..., 0, :], 0.0)
    depth = torch.where(hit, ((point - origins[..., 0, :]) * cameras.c2w_opencv[:, None, None, :3, 2]).sum(-1), 0.0)
    normal = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1)[face]
    normal = -normal * (normal * directions[..., 0, :]).sum(-1, keepdim=True).sign() * hit[..., None]
    assert mesh.vertex_colours_linear is not None
    linear = (mesh.vertex_colours_linear.double()[mesh.faces][face] * weights[..., None]).sum(dim=-2)[..., :3]
    colour = torch.where(hit[..., None], linear_to_srgb(linear.clamp(0, 1)), 1.0)
    move = {"colour": colour, "coordinates": point, "normals": normal}
    maps = {name: value.permute(0, 3, 1, 2)[None].float() for name, value in move.items()}
    rendering = Rendering(
        alpha=hit[None, :, None].float(), depth=depth[None, :, None].float(), truncated_fraction=torch.zeros(()), **maps
    )
    return rendering, sure


def two_boxes() -> TexturedMesh:
    return merge(box((-0.45, -0.2, -0.3), (0.1, 0.15, 0.4)), box((0.05, -0.35, -0.1), (0.4, 0.42, 0.2)))


def crumbs(count: int, size: float) -> TexturedMesh:
    """Triangles of one size all over the unit ball, in random colours."""
    centre = torch.nn.functional.normalize(torch.randn(count, 1, 3), dim=-1) * 0.5 * torch.rand(count, 1, 1) ** 0.33
    vertices = (centre + size * torch.randn(count, 3, 3)).reshape(-1, 3)
    mesh = mesh_of(vertices, torch.arange(3 * count).reshape(-1, 3))
    colours = torch.cat([torch.rand(3 * count, 3), torch.ones(3 * count, 1)], dim=1)
    return TexturedMesh(mesh.vertices, mesh.faces, mesh.uv, mesh.material_index, mesh.materials, colours)


@pytest.mark.parametrize("scene", ["boxes", "dust", "shards"])
def test_equals_the_ray_caster(scene):
    mesh = {"boxes": two_boxes, "dust": lambda: crumbs(150, 0.03), "shards": lambda: crumbs(30, 0.3)}[scene]()
    cameras = lopsided()
    found = MeshRenderer(supersampling=1)(mesh, cameras, 37, 53)
    expected, sure = cast(mesh, cameras, 37, 53)
    assert sure.float().mean() > 0.75
    assert 0.03 < expected.alpha.mean() < 0.8
    # float32 against float64: worst seen 2e-5, in the colours of slivers.
    for name in ("alpha", "depth", "coordinates", "normals", "colour"):
        error = (getattr(found, name) - getattr(expected, name)).abs()[0].amax(dim=1)
        assert error[sure].max() < 2e-4, name


def test_the_comparison_can_fail():
    expected, sure = cast(two_boxes(), lopsided(), 37, 53)
    mirrored = lopsided()
    mirrored.intrinsics_norm[:, 0, 0] *= -1
    found = MeshRenderer(supersampling=1)(two_boxes(), mirrored, 37, 53)
    assert ((found.depth - expected.depth).abs()[0, :, 0] > 2e-4)[sure].float().mean() > 0.05


def test_depth_of_a_wall_is_constant_and_not_the_ray_length():
    rendering = MeshRenderer()(wall(0.25, half=5.0), front(), 20, 30)
    torch.testing.assert_close(rendering.depth, torch.full_like(rendering.depth, 1.75), rtol=0, atol=1e-5)
    assert rendering.alpha.min() == 1


def test_coordinates_are_where_the_camera_sees_them():
    cameras = lopsided(1)
    cameras.c2w_opencv[:] = Cameras.orbit([30.0], 20.0, 2.0, 40.0).c2w_opencv
    rendering = MeshRenderer()(wall(half=1.0), cameras, 24, 36)
    v, u = torch.meshgrid((torch.arange(24) + 0.5) / 24, (torch.arange(36) + 0.5) / 36, indexing="ij")
    points = cameras.unproject(torch.stack([u, v], dim=-1).reshape(1, -1, 2), rendering.depth.reshape(1, -1))
    full = rendering.alpha.flatten() == 1
    assert full.float().mean() > 0.3
    found = rendering.coordinates[0, 0].reshape(3, -1).T[full]
    # The mean of the samples against the pixel's centre on a tilted plane: of second order in the pixel's size.
    torch.testing.assert_close(found, points[0][full], rtol=0, atol=2e-3)
    assert found[:, 2].abs().max() < 1e-5


def test_no_pinholes_along_diagonals():
    """Frontal squares have their diagonal through pixel centres, where PyTorch3D alone draws neither triangle."""
    grid = torch.arange(9) / 8 - 0.5
    for count in (2, 9):  # one square in PyTorch3D's tiles, 64 small ones tested directly
        x, y = torch.meshgrid(grid[:: 8 // (count - 1)], grid[:: 8 // (count - 1)], indexing="ij")
        vertices = torch.stack([x, y, torch.zeros_like(x)], dim=-1).reshape(-1, 3)
        corner = (torch.arange(count - 1)[:, None] * count + torch.arange(count - 1)).flatten()
        faces = torch.stack([corner, corner + 1, corner + count + 1], dim=1)
        faces = torch.cat([faces, torch.stack([corner, corner + count + 1, corner + count], dim=1)])
        camera = Cameras(front().c2w_opencv, intrinsics(torch.tensor([2.0]), torch.tensor([2.0])))  # fills the image
        rendering = MeshRenderer(supersampling=1)(mesh_of(vertices, faces), camera, 96, 96)
        assert rendering.alpha.min() == 1, f"{count - 1} squares a side"


def test_normals_face_the_camera_whatever_the_winding():
    mesh = two_boxes()
    turned = TexturedMesh(mesh.vertices, mesh.faces.flip(1), mesh.uv, mesh.material_index, mesh.materials)
    cameras = lopsided()
    rendering = MeshRenderer()(turned, cameras, 32, 32)
    _, directions = cameras.rays(32, 32)
    assert rendering.normals is not None
    cosine = (rendering.normals[0] * directions).sum(dim=1)
    solid = rendering.alpha[0, :, 0] >= 0.5
    assert (cosine[solid] < 0).float().mean() > 0.99  # the mean of two faces may lean away at an edge
    torch.testing.assert_close(rendering.normals[0].norm(dim=1)[solid], torch.ones(int(solid.sum())))
    assert rendering.normals[0].norm(dim=1)[~solid].max() == 0


@pytest.mark.parametrize(("factor", "byte"), [(0.5, 188), (0.0, 0), (1.0, 255), (0.002, 7)])
def test_base_colour_factor_is_linear(factor, byte):
    rendering = MeshRenderer()(wall(material=Material((factor, factor, factor, 1.0))), front(), 8, 8)
    assert round(rendering.colour[0, 0, 0, 4, 4].item() * 255) == byte


def test_factor_texture_and_vertex_colour_multiply_in_linear_light():
    grey = wall(material=Material((0.5, 1.0, 0.25, 1.0), image(((188, 188, 188, 255),))))
    colours = torch.tensor([[0.5, 0.25, 1.0, 1.0]]).expand(4, 4)
    mesh = TexturedMesh(grey.vertices, grey.faces, grey.uv, grey.material_index, grey.materials, colours)
    found = MeshRenderer()(mesh, front(), 8, 8).colour[0, 0, :, 4, 4]
    texel = ((188 / 255 + 0.055) / 1.055) ** 2.4
    expected = linear_to_srgb(torch.tensor([0.5 * 0.5, 1 * 0.25, 0.25 * 1]) * texel)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)  # texels are kept in half precision


def test_texture_corners_are_where_gltf_says():
    """(0, 0) is the first texel of the first row, v grows downwards."""
    material = Material(texture=image((RED, GREEN), (BLUE, WHITE)))
    pixels = (MeshRenderer()(wall(material=material), front(), 64, 64).colour[0, 0] * 255).round()
    assert pixels[:, 20, 20].tolist() == [255, 0, 0]
    assert pixels[:, 20, 43].tolist() == [0, 255, 0]
    assert pixels[:, 43, 20].tolist() == [0, 0, 255]
    assert pixels[:, 43, 43].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("mode", "reds"), [("repeat", [1, 0, 1, 0, 1, 0]), ("mirror", [0, 1, 1, 0, 0, 1]), ("clamp", [1, 1, 1, 0, 0, 0])]
)
def test_wrap_modes(mode, reds):
    material = Material(texture=image((RED, BLUE)), wrap=(mode, "repeat"))
    pixels = MeshRenderer()(wall(material=material, u=(-1.0, 2.0)), front(), 96, 96).colour[0, 0]
    # The wall spans 48 * 0.5 / (2 tan 20 deg) = 33 px on either side of the middle: six texels of 11 px.
    assert pixels[0, 48, [20, 31, 42, 53, 64, 75]].round().tolist() == reds


@pytest.mark.parametrize("size", [2, 64])
@pytest.mark.parametrize("height", [7, 16, 64])
def test_texture_islands_do_not_bleed(size, height):
    """The wall wears the red half of a red and blue texture: nothing blue at any scale, not even at the border."""
    texture = torch.tensor(RED, dtype=torch.uint8).repeat(size, size, 1)
    texture[:, size // 2 :] = torch.tensor(BLUE, dtype=torch.uint8)
    rendering = MeshRenderer()(wall(material=Material(texture=texture), u=(0.0, 0.5)), front(), height, height)
    solid = rendering.alpha[0, 0, 0] >= 0.5
    assert rendering.colour[0, 0, 2][rendering.alpha[0, 0, 0] == 1].max() == 0
    assert rendering.colour[0, 0, 0][solid].min() > 1 - 1e-6


def test_fine_textures_are_averaged_in_linear_light():
    checker = ((torch.arange(256)[:, None] + torch.arange(256)) % 2 * 255).to(torch.uint8)
    texture = torch.stack([checker, checker, checker, torch.full_like(checker, 255)], dim=-1)
    for height, half, tolerance in ((8, 0.5, 0.01), (8, 3.0, 0.15), (32, 0.8, 0.15)):
        found = MeshRenderer()(wall(material=Material(texture=texture), half=half), front(), height, height)
        grey = found.colour[0, 0, 0][found.alpha[0, 0, 0] == 1]
        assert len(grey) > 9
        # Halved copies of this texture are even; a footprint of 1 to 4 texels beats with its 16 or fewer samples.
        torch.testing.assert_close(grey, torch.full_like(grey, 188 / 255), rtol=0, atol=tolerance)
        assert abs(grey.mean().item() - 188 / 255) < 0.02


@pytest.mark.parametrize("mode", ["repeat", "mirror", "clamp"])
@pytest.mark.parametrize("far", [1e5, 3e38, float("nan")])
def test_absurd_texture_coordinates_are_harmless(mode, far):
    material = Material(texture=image((RED, RED, RED), (RED, RED, RED)), wrap=(mode, mode))
    rendering = MeshRenderer()(wall(material=material, half=3.0, u=(-far, far)), front(), 8, 8)
    torch.testing.assert_close(rendering.colour[0, 0, :, 4, 4], torch.tensor([1.0, 0.0, 0.0]))


def test_opaque_ignores_texture_alpha():
    material = Material((1.0, 1.0, 1.0, 0.3), image(((255, 0, 0, 0), (255, 0, 0, 80))))
    rendering = MeshRenderer()(wall(material=material, half=3.0), front(), 8, 8)
    assert rendering.alpha.min() == 1
    torch.testing.assert_close(rendering.colour[0, 0, :, 4, 4], torch.tensor([1.0, 0.0, 0.0]), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("cutoff", "left"), [(0.5, 1.0), (0.9, 0.0)])
def test_mask_cuts_at_its_threshold(cutoff, left):
    material = Material(texture=image(((0, 255, 0, 200), (0, 255, 0, 100))), alpha_mode="MASK", alpha_cutoff=cutoff)
    rendering = MeshRenderer()(merge(wall(-0.5, half=5.0), wall(material=material)), front(), 64, 64)
    assert rendering.alpha.min() == 1  # the wall behind
    green = rendering.colour[0, 0, 1] - rendering.colour[0, 0, 0]
    assert green[32, 15].item() == pytest.approx(left, abs=1e-5)
    assert green[32, 48].item() == pytest.approx(0, abs=1e-5)


def test_blended_walls_composite_front_to_back():
    front_wall = wall(0.5, Material((1.0, 0.0, 0.0, 0.6), alpha_mode="BLEND"), half=5.0)
    back_wall = wall(-0.5, Material((0.0, 0.0, 1.0, 0.5), alpha_mode="BLEND"), half=5.0)
    for mesh in (merge(front_wall, back_wall), merge(back_wall, front_wall)):
        rendering = MeshRenderer()(mesh, front(), 8, 8, background=(0.0, 1.0, 0.0))
        pixel = rendering.colour[0, 0, :, 4, 4]
        torch.testing.assert_close(pixel, torch.tensor([0.6, 0.2, 0.2]), rtol=0, atol=1e-5)
        assert rendering.alpha[0, 0, 0, 4, 4].item() == pytest.approx(0.8)
        expected = (0.6 * 1.5 + 0.2 * 2.5) / 0.8
        assert rendering.depth[0, 0, 0, 4, 4].item() == pytest.approx(expected, abs=1e-5)


def test_depth_of_a_half_transparent_wall_is_divided_by_alpha():
    rendering = MeshRenderer()(wall(material=Material((1, 1, 1, 0.6), alpha_mode="BLEND"), half=5.0), front(), 8, 8)
    torch.testing.assert_close(rendering.depth, torch.full_like(rendering.depth, 2.0), rtol=0, atol=1e-5)
    torch.testing.assert_close(rendering.alpha, torch.full_like(rendering.alpha, 0.6))


@pytest.mark.parametrize(("layers", "truncated"), [(3, 0.0), (10, 0.0), (60, 0.0), (70, 1.0)])
def test_many_layers_are_all_composited_or_counted(layers, truncated):
    glass = Material((1, 1, 1, 0.02), alpha_mode="BLEND")
    mesh = merge(*(wall(0.5 - 0.01 * i, glass, half=5.0) for i in range(layers)))
    # Off the middle, so that no centre lies on the diagonals: there, each wall would take two layers.
    camera = Cameras(front().c2w_opencv, intrinsics(torch.tensor([1.4]), torch.tensor([1.4]), 0.43, 0.5))
    rendering = MeshRenderer(supersampling=1)(mesh, camera, 4, 4)
    assert rendering.truncated_fraction.item() == truncated
    assert rendering.alpha[0, 0, 0, 2, 2].item() == pytest.approx(1 - 0.98 ** min(layers, 64), abs=1e-5)


def test_both_ways_to_find_faces_agree():
    """See-through meshes go through PyTorch3D alone, opaque ones mostly not: with alpha 1 they look the same."""
    mesh = merge(two_boxes(), crumbs(100, 0.04))
    glass = tuple(Material(alpha_mode="BLEND") for _ in mesh.materials)
    see_through = TexturedMesh(
        mesh.vertices, mesh.faces, mesh.uv, mesh.material_index, glass, mesh.vertex_colours_linear
    )
    expected = MeshRenderer()(mesh, lopsided(), 40, 40)
    found = MeshRenderer()(see_through, lopsided(), 40, 40)
    for name in ("alpha", "depth", "colour", "coordinates"):
        error = (getattr(found, name) - getattr(expected, name)).abs().amax(dim=2)
        assert (error > 1e-4).float().mean() < 1e-3, name  # samples on the border of 0.001 px round an edge


def test_silhouettes_are_antialiased_and_composite_cleanly():
    turns = torch.arange(64) * (2 * math.pi / 64)
    rim = torch.stack([0.4 * turns.cos(), 0.4 * turns.sin(), torch.zeros(64)], dim=1)
    faces = torch.stack([torch.full((64,), 64), torch.arange(64), (torch.arange(64) + 1) % 64], dim=1)
    disc = mesh_of(torch.cat([rim, torch.zeros(1, 3)]), faces, Material((0.0, 1.0, 0.0, 1.0)))
    renderer = MeshRenderer(supersampling=4)
    white = renderer(disc, front(), 64, 64)
    black = renderer(disc, front(), 64, 64, background=(0.0, 0.0, 0.0))
    scale = 64 * 0.5 / math.tan(math.radians(20)) / 2
    # Area of the 64-gon in pixels; 16 samples a pixel leave an error of well under 1 %.
    assert white.alpha.sum().item() == pytest.approx(32 * math.sin(2 * math.pi / 64) * (0.4 * scale) ** 2, rel=0.01)
    assert len(white.alpha.unique()) > 10
    torch.testing.assert_close(white.colour - black.colour, (1 - white.alpha).expand(-1, -1, 3, -1, -1))
    straight = renderer.straight(disc, front(), 64, 64)
    composited = straight.colour * straight.alpha + 1 - straight.alpha
    torch.testing.assert_close(composited, white.colour, rtol=0, atol=1e-6)


def test_straight_colour_has_no_dark_rim():
    """Resizing RGB and alpha apart, as careless tools do, must not mix in a colour that the object does not have."""
    straight = MeshRenderer().straight(wall(material=Material((1.0, 0.5, 0.0, 1.0))), front(), 33, 21)
    expected = torch.tensor([1.0, 188 / 255, 0.0])[:, None, None].expand(3, 33, 21)
    torch.testing.assert_close(straight.colour[0, 0], expected, rtol=0, atol=2e-3)
    assert straight.alpha.min() == 0


def test_headlight_darkens_with_the_angle():
    cameras = Cameras.orbit([60.0], 0.0, 2.0, 10.0)
    pixel = MeshRenderer(light=1.0)(wall(), cameras, 9, 9).colour[0, 0, 0, 4, 4].item()
    assert pixel == pytest.approx(linear_to_srgb(torch.tensor(0.5)).item(), abs=0.02)
    half = MeshRenderer(light=0.5)(wall(), cameras, 9, 9).colour[0, 0, 0, 4, 4].item()
    assert half == pytest.approx(linear_to_srgb(torch.tensor(0.75)).item(), abs=0.02)


def test_views_do_not_depend_on_each_other():
    mesh, cameras = two_boxes(), lopsided(3)
    together = MeshRenderer()(mesh, cameras, 30, 20)
    for view in range(3):
        alone = MeshRenderer()(mesh, cameras[view : view + 1], 30, 20)
        torch.testing.assert_close(alone.colour[:, 0], together.colour[:, view], rtol=0, atol=1e-6)
        torch.testing.assert_close(alone.depth[:, 0], together.depth[:, view], rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["OPAQUE", "BLEND"])
@pytest.mark.parametrize(
    ("limit", "value"),
    [("SUBPIXELS", 2 * 30 * 20 * 4), ("FACES_ON_SCREEN", 100), ("BOX_PIXELS", 500), ("TILE_LAYERS", 64)],
)
def test_work_in_passes_that_fit_into_memory_changes_nothing(mode, limit, value, monkeypatch):
    mesh = merge(two_boxes(), crumbs(30, 0.2))
    materials = tuple(Material((1, 1, 1, 0.7), alpha_mode=mode) for _ in mesh.materials)
    mesh = TexturedMesh(mesh.vertices, mesh.faces, mesh.uv, mesh.material_index, materials, mesh.vertex_colours_linear)
    expected = MeshRenderer()(mesh, lopsided(3), 30, 20)
    monkeypatch.setattr(f"ouroboros3d.renderers.meshes._MAX_{limit}", value)
    found = MeshRenderer()(mesh, lopsided(3), 30, 20)
    for name in ("colour", "alpha", "depth", "coordinates", "normals", "truncated_fraction"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", ["OPAQUE", "BLEND"])
def test_nothing_in_sight_is_an_empty_image(mode):
    away = front()
    away.c2w_opencv[:, :3, 3] *= -1  # behind the wall, looking away from it
    rendering = MeshRenderer()(wall(material=Material(alpha_mode=mode)), away, 12, 10, background=(0.2, 0.4, 0.6))
    assert rendering.alpha.max() == rendering.depth.max() == rendering.coordinates.abs().max() == 0
    torch.testing.assert_close(rendering.colour[0, 0, :, 3, 3], torch.tensor([0.2, 0.4, 0.6]))


@pytest.mark.parametrize("mode", ["OPAQUE", "BLEND"])
def test_cameras_inside_and_on_the_surface_give_no_nan(mode):
    mesh = merge(two_boxes(), crumbs(50, 0.2))
    mesh = TexturedMesh(mesh.vertices, mesh.faces, mesh.uv, mesh.material_index, (Material(alpha_mode=mode),) * 3)
    cameras = Cameras.orbit([0.0, 40.0, 90.0], [0.0, 30.0, 89.0], [0.4, 0.1, 0.01], 90.0)
    rendering = MeshRenderer(light=0.5)(mesh, cameras, 16, 16)
    for name in ("colour", "alpha", "depth", "coordinates", "normals"):
        assert torch.isfinite(getattr(rendering, name)).all(), name


def test_degenerate_faces_are_harmless():
    good = wall()
    points = torch.tensor([[0.1, 0.1, 0.3], [0.1, 0.1, 0.3], [0.2, 0.1, 0.3], [0.3, 0.1, 0.3]])
    flat = mesh_of(points, torch.tensor([[0, 1, 2], [0, 2, 3], [0, 0, 0]]), Material(texture=image((RED,))))
    found = MeshRenderer()(merge(good, flat), front(), 32, 32)
    torch.testing.assert_close(found.colour, MeshRenderer()(good, front(), 32, 32).colour)


def test_normalised_fits_the_cube_and_the_sphere():
    long = box((100.0, 7.0, -3.0), (300.0, 9.0, -1.0))
    mesh, scale, offset = long.normalised()
    torch.testing.assert_close(mesh.vertices.amax(dim=0) + mesh.vertices.amin(dim=0), torch.zeros(3), atol=1e-6, rtol=0)
    assert (mesh.vertices.amax(dim=0) - mesh.vertices.amin(dim=0)).max().item() == pytest.approx(1)
    torch.testing.assert_close(mesh.vertices, (scale * long.vertices.double() + offset).float())
    cube, scale, _ = box((1.0, 1.0, 1.0), (3.0, 3.0, 3.0)).normalised()
    assert cube.vertices.norm(dim=1).max().item() == pytest.approx(0.58)
    assert scale == pytest.approx(0.58 / math.sqrt(3))


def test_normalised_ignores_vertices_without_a_face():
    mesh = box((0.0, 0.0, 0.0), (1.0, 2.0, 1.0))
    stray = TexturedMesh(
        torch.cat([mesh.vertices, torch.tensor([[90.0, 0.0, 0.0]])]),
        mesh.faces,
        mesh.uv,
        mesh.material_index,
        mesh.materials,
    )
    assert stray.normalised()[1] == mesh.normalised()[1]


@pytest.mark.parametrize(
    ("arguments", "message"), [({"supersampling": 0}, "supersampling: expected"), ({"light": 1.5}, "light: expected")]
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        MeshRenderer(**arguments)


def test_cameras_need_one_leading_axis():
    with pytest.raises(ValueError, match=r"cameras: expected leading shape \[V\], got \[1, 1\]"):
        MeshRenderer()(wall(), front().reshape(1, 1), 8, 8)
