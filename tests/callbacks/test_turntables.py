"""Turntables as files: their frames read back by the libraries that others read them with."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ouroboros3d.callbacks.pictures import save_gif, save_mp4

# A red square that goes from left to right over white, 12 frames.
FRAMES = torch.ones(12, 3, 64, 64)
for _frame in range(12):
    FRAMES[_frame, 1:, 20:40, 4 * _frame : 4 * _frame + 20] = 0


def test_gif(tmp_path: Path):
    save_gif(FRAMES, tmp_path / "turn.gif", seconds=1.2)
    with Image.open(tmp_path / "turn.gif") as picture:
        assert (picture.n_frames, picture.size, picture.info["duration"]) == (12, (64, 64), 100)
        picture.seek(5)
        shown = np.asarray(picture.convert("RGB"))
    assert np.array_equal(shown, (FRAMES[5].permute(1, 2, 0) * 255).byte().numpy())


def test_mp4(tmp_path: Path):
    av = pytest.importorskip("av", reason="an extra: pip install 'ouroboros3d[video]'")
    save_mp4(FRAMES, tmp_path / "turn.mp4", seconds=1.2)
    with av.open(str(tmp_path / "turn.mp4")) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 10
        shown = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
    assert len(shown) == 12
    for frame, expected in zip(shown, FRAMES, strict=True):  # lossy, its colours at half the size
        assert np.abs(frame / 255 - expected.permute(1, 2, 0).numpy()).mean() < 0.03
    assert [path.name for path in tmp_path.iterdir()] == ["turn.mp4"]
