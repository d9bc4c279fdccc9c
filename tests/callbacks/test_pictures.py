"""Sheets say what they show: object, rows and columns."""

import torch
from torch import Tensor

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.callbacks.pictures import comparison_sheet
from ouroboros3d.cameras import Cameras
from ouroboros3d.gaussians import Gaussians
from ouroboros3d.lightning_modules.generation import Generation

SIZE, VIEWS, TARGETS = 12, 2, 1
LEFT, TOP = 64, 36  # the margin with the rows' names, and the two lines above a band


def drawn(titles: dict[str, str]) -> Tensor:
    """A sheet of two objects: generated views red, renders green, true views blue."""
    cameras = Cameras.orbit([[0.0, 180.0]] * 2, 0.0, 2.0, 40.0)

    def plain(colour: int, count: int) -> Tensor:
        images = torch.zeros(2, count, 3, SIZE, SIZE)
        images[:, :, colour] = 1
        return images

    batch = MultiviewBatch(
        uids=("first", "second"),
        images_01=plain(2, VIEWS),
        alpha=torch.ones(2, VIEWS, 1, SIZE, SIZE),
        cameras=cameras,
        target_images_01=plain(2, TARGETS),
        target_alpha=torch.ones(2, TARGETS, 1, SIZE, SIZE),
        target_cameras=cameras[:, :1],
        background=torch.ones(2, 3),
        object_from_batch=torch.eye(4).repeat(2, 1, 1),
    )
    none = Gaussians(*(torch.zeros(2, 0, size) for size in (3, 3, 4, 1, 3)))
    return comparison_sheet(Generation(plain(0, VIEWS), none, {}), plain(1, VIEWS + TARGETS), batch, titles=titles)


def test_every_view_is_where_its_labels_say() -> None:
    sheet = drawn({})
    cell = 8 * SIZE + 2  # enlarged to 96 pixels, with a frame of one
    band = TOP + 3 * cell
    assert sheet.shape == (3, 2 * band, LEFT + (VIEWS + TARGETS) * cell)
    for index in range(2):
        for row, colour in enumerate(([1, 0, 0], [0, 1, 0], [0, 0, 1])):
            for column in range(VIEWS + TARGETS):
                middle = sheet[:, index * band + TOP + row * cell + cell // 2, LEFT + column * cell + cell // 2]
                novel = column >= VIEWS and row == 0  # no view is generated there
                assert middle.tolist() == ([1, 1, 1] if novel else colour)


def test_names_are_written_and_differ() -> None:
    plain, named = drawn({}), drawn({"second": "dresser"})
    assert (plain[:, :TOP] < 0.5).any(), "nothing is written above the first object"
    assert (plain[:, TOP:, :LEFT] < 0.7).any(), "no row is named"
    changed = (plain != named).any(0).nonzero()
    band = plain.shape[1] // 2
    assert changed[:, 0].min() >= band, "the first object's label changed with the second one's"
    assert changed[:, 0].max() < band + TOP
