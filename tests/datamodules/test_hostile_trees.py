"""Trees of renders that are broken or made to do harm: a `SampleError` of one line, or views that can be used."""

import copy
import gzip
import io
import json
import os
import re
import shutil
import struct
import tarfile
import tempfile
import zipfile
from pathlib import Path
from random import Random

import numpy as np
import OpenEXR
import posed_writers
import pytest
from conftest import write_tree
from damage import SEEDS, bounded, damaged, few, fuzz, one_line
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from posed_writers import SIZE, Written, gobjaverse, instantmesh, official, ours, trellis, zero123

from ouroboros3d.datamodules.readers import exr, objaverse, stored
from ouroboros3d.datamodules.readers.detection import open_tree
from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.readers.objaverse import INDEX, ObjaverseReader
from ouroboros3d.datamodules.readers.posed import PosedReader
from ouroboros3d.datamodules.readers.shards import ShardReader, index_line
from ouroboros3d.datamodules.untrusted import MAX_DESCRIPTION_BYTES, UntrustedError


def shards(root: Path, uid: str) -> Written:
    """Our own orbits in one shard."""
    with tempfile.TemporaryDirectory() as folder, tarfile.open(root / "shard-000000.tar", "w:") as archive:
        written = ours(Path(folder), uid)
        for path in sorted(Path(folder).glob("*/*")):
            archive.add(path, f"{path.parent.name}.{path.name}")
    with tarfile.open(root / "shard-000000.tar", "r:") as archive:
        members = {member.name: (member.offset_data, member.size) for member in archive}
    (root / "shard-000000.jsonl").write_text(index_line(uid, members))
    return written


LAYOUTS = {**posed_writers.LAYOUTS, "shards": ("shards", "thing", shards)}


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tree of every layout, with one object each."""
    roots = {}
    for layout, (_, uid, write) in LAYOUTS.items():
        roots[layout] = tmp_path_factory.mktemp(layout)
        write(roots[layout], uid)
    return roots


def opened(root: Path, layout: str) -> PosedReader:
    tree = open_tree(root, reader=LAYOUTS[layout][0], assume_rig=True)
    assert isinstance(tree, PosedReader)
    return tree


def refused(root: Path, layout: str) -> str:
    """The one line that an object is refused with; empty where its first and last view and their maps can be used."""
    try:
        found = opened(root, layout).read(LAYOUTS[layout][1])
        assert found.cameras.c2w_opencv.isfinite().all()
        assert found.cameras.intrinsics_norm.isfinite().all()
        for view in {0, len(found) - 1}:
            assert found.rgba(view).shape == (*found.size, 4)
            if found.depth is not None:
                assert found.depth(view).isfinite().all()
            if found.normals is not None:
                assert found.normals(view).isfinite().all()
    except UntrustedError as error:
        return one_line(error)
    return ""


def victims(root: Path) -> list[Path]:
    """The first and the last file of every kind that an object has."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.name not in ("train.txt", "meta.pkl"))
    kinds: dict[str, list[Path]] = {}
    for path in files:
        kinds.setdefault(path.suffix, []).append(path)
    return sorted({path for paths in kinds.values() for path in (paths[0], paths[-1])})


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "gobjaverse_campos"])
def test_damaged_files(layout: str, trees: dict[str, Path]) -> None:
    files = {path: path.read_bytes() for path in victims(trees[layout])}
    assert not refused(trees[layout], layout)
    found = set()

    @few(12)
    @given(st.sampled_from(list(files)), SEEDS)
    def check(path: Path, seed: int) -> None:
        path.write_bytes(damaged(files[path], seed))
        found.add(bool(refused(trees[layout], layout)))
        path.write_bytes(files[path])

    check()
    assert True in found


@pytest.mark.parametrize("layout", ["official", "ours", "bpy_renderer", "objaverse_xl", "gobjaverse", "trellis"])
def test_changed_json(layout: str, trees: dict[str, Path]) -> None:
    (path, *_) = (path for path in victims(trees[layout]) if path.suffix == ".json")
    content = path.read_bytes()
    found = set()

    @few(30)
    @given(st.booleans(), SEEDS)
    def check(structure: bool, seed: int) -> None:
        tree = json.loads(content)
        (fuzz.change_structure if structure else fuzz.change_values)(tree, Random(seed))
        path.write_text(json.dumps(tree))
        found.add(bool(refused(trees[layout], layout)))
        path.write_bytes(content)

    check()
    assert True in found


def small(root: Path) -> Path:
    """The folder of an object with three views and poses."""
    zero123(root, "thing")
    for path in (root / "thing").iterdir():
        if int(path.stem) >= 3:
            path.unlink()
    return root / "thing"


def said(root: Path, layout: str = "zero123") -> str:
    """The one line with which reading all of an object is refused."""
    tree = open_tree(root, reader=LAYOUTS[layout][0], views_per_object=1)
    assert isinstance(tree, PosedReader)
    with pytest.raises(SampleError) as caught:
        read_all(tree, LAYOUTS[layout][1])
    return one_line(caught.value)


def read_all(tree: PosedReader, uid: str) -> None:
    found = tree.read(uid)
    for view in range(len(found)):
        found.rgba(view)
        for read in (found.depth, found.normals):
            if read is not None:
                read(view)


@pytest.mark.parametrize("name", ["000.npy", "000.png"])
def test_what_is_no_file_is_not_read(name: str, tmp_path: Path) -> None:
    path = small(tmp_path) / name
    for make in (
        lambda: os.mkfifo(path),
        lambda: path.symlink_to(path.name),
        lambda: path.symlink_to("/dev/zero"),
        lambda: (path.touch(), os.truncate(path, 2**40)),
        path.mkdir,
    ):
        path.unlink()
        make()
        with bounded(2):
            assert said(tmp_path)


def test_shards_that_are_no_files_are_not_read(tmp_path: Path) -> None:
    shards(tmp_path, "thing")
    index, archive = tmp_path / "shard-000000.jsonl", tmp_path / "shard-000000.tar"
    os.mkfifo(tmp_path / "pipe")
    for path in (archive, index):
        path.unlink()
        for target in (tmp_path / "pipe", Path("/dev/zero")):
            path.symlink_to(target)
            tree = ShardReader(tmp_path)
            with pytest.raises(UntrustedError, match=r"no regular file") as caught:
                tree.read("thing")
            assert path.name in one_line(caught.value)
            path.unlink()


@pytest.mark.parametrize("begin", [b"", b'{"uid": "'])
def test_lines_of_any_length_in_an_index_are_not_read(begin: bytes, tmp_path: Path) -> None:
    path = tmp_path / "shard-000000.jsonl"
    path.write_bytes(begin)
    os.truncate(path, 2**40)
    with (
        bounded(3 * MAX_DESCRIPTION_BYTES / 2**20),
        pytest.raises(UntrustedError, match="a line of more than") as caught,
    ):
        ShardReader(tmp_path).list_uids()
    one_line(caught.value)


@pytest.mark.parametrize(
    "line", ["[" * 10**6, '{"uid": ' + "[" * 10**6, '{"uid": 3}', '{"uid": "thing"', "\udcff", "\n"]
)
def test_lines_that_are_no_objects(line: str, tmp_path: Path) -> None:
    shards(tmp_path, "thing")
    (tmp_path / "shard-000000.jsonl").write_bytes(line.encode(errors="surrogateescape"))
    assert "shard-000000.jsonl" in refused(tmp_path, "shards")


def header(description: str) -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(description)) + description.encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "EOF|magic|bytes"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 4)}"), "0 bytes for the shape"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 4)}"), "0 bytes for the shape"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (0, 10000000000000000000000)}"), "Error"),
        (
            header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}") + b"cos\nsystem\n(S'x'\ntR.",
            "elements of type",
        ),
        (header("{'descr': '<U9', 'fortran_order': False, 'shape': (0,)}"), "elements of type"),
        (header("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (0,)}"), "elements of type"),
        (header("__import__('os').abort()"), "Error"),
        (header("(" * 5000), "Error"),
        (header("{" + " " * 60_000 + "}"), "Error"),
        (b"\x93NUMPY\2\0\xff\xff\xff\xff", "Error"),
        (b"\x93NUMPY\3\0\1\0\0\0 ", "KeyError"),
        (b"\x80\4\x95" + b"." * 50, "Error"),
    ],
)
def test_arrays_that_claim_what_they_are_not(content: bytes, message: str, tmp_path: Path) -> None:
    (small(tmp_path) / "001.npy").write_bytes(content)
    with bounded(8):
        found = said(tmp_path)
    assert re.search(message, found), found
    assert "expected an array of numbers in" in found


def test_numbers_that_are_no_poses(tmp_path: Path) -> None:
    folder = small(tmp_path)
    for values in (
        np.full((3, 4), np.nan),
        np.full((3, 4), np.inf),
        np.full((3, 4), 1e300),
        np.zeros((3, 4)),
        np.ones((3, 4)),
        np.zeros((0, 4)),
        np.zeros((3, 4, 1)),
        np.array(3.0),
        np.full((3, 4), 2**63, np.uint64),
    ):
        np.save(folder / "002.npy", values)
        assert said(tmp_path)


def zip_of(folder: Path, method: int = zipfile.ZIP_DEFLATED) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"thing/{file.name}")
        archive.writestr("thing/metadata.json", "{}")
    shutil.rmtree(folder)
    return path


def test_zip_files_that_claim_what_they_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member may say that it is 4 GiB long, or hold more than it says."""
    folder = small(tmp_path)
    np.save(folder / "002.npy", np.zeros(3_000_000))
    path = zip_of(folder)
    good = path.read_bytes()
    entry = good.index(b"thing/002.npy", good.index(b"PK\1\2")) - 46
    for claim, message in ((2**32 - 2, "4294967294 bytes, of which at most"), (160, "expected an array|BadZipFile")):
        changed = bytearray(good)
        struct.pack_into("<I", changed, entry + 24, claim)
        path.write_bytes(changed)
        with bounded(8):
            assert re.search(message, said(tmp_path, "objaverse_xl"))
    for claim, place in ((2**32 - 2, 42), (2**31, 20), (99, 10)):  # where the member is, how long packed, and how
        changed = bytearray(good)
        struct.pack_into("<I" if place != 10 else "<H", changed, entry + place, claim)
        path.write_bytes(changed)
        with bounded(8):
            assert said(tmp_path, "objaverse_xl")
    path.write_bytes(good)
    monkeypatch.setattr(stored, "MAX_DESCRIPTION_BYTES", 100)
    assert "more than 100 bytes to say what is in an archive" in said(tmp_path, "objaverse_xl")


def test_packing_that_cannot_be_unpacked_in_parts_is_refused(tmp_path: Path) -> None:
    zip_of(small(tmp_path), zipfile.ZIP_LZMA)
    assert "expected stored or deflated members" in said(tmp_path, "objaverse_xl")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A tar file of two views."""
    root = tmp_path_factory.mktemp("packed")
    gobjaverse(root, "0_10005")
    for folder in (root / "0/10005").iterdir():
        if int(folder.name) >= 2:
            shutil.rmtree(folder)
    with tarfile.open(root / "0/10005.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.add(root / "0/10005", "10005")
    return (root / "0/10005.tar").read_bytes()


def tar_with(packed: bytes, member: bytes, **fields: bytes) -> bytes:
    """The archive with some fields of a member's header replaced, and its checksum right."""
    changed, start = bytearray(packed), packed.index(member)
    for name, value in fields.items():
        place, length = {"size": (124, 12), "kind": (156, 1)}[name]
        changed[start + place : start + place + length] = value.ljust(length, b"\0")
    changed[start + 148 : start + 156] = b" " * 8
    changed[start + 148 : start + 156] = b"%06o\0 " % sum(changed[start : start + 512])
    return bytes(changed)


FIRST = b"10005/00000/00000.json"
TARS: dict[str, dict[str, bytes]] = {
    "a size beyond the file": {"size": b"00777777777"},
    "a size of 2^60": {"size": b"\x80\0\0\0\x10" + b"\0" * 7},
    "a negative size": {"size": b"\xff" * 11 + b"\xfe"},
    "a very negative size": {"size": b"\xff" * 9 + b"\xf0\0\0"},
    "a link": {"kind": b"2"},
    "a device": {"kind": b"3"},
    "a sparse file": {"kind": b"S"},
    "a description of all": {"kind": b"g", "size": b"00777777777"},
    "a description of the next": {"kind": b"x", "size": b"00777777777"},
    "a long name": {"kind": b"L", "size": b"00777777777"},
}


@pytest.mark.parametrize("case", TARS)
def test_tar_files_that_claim_what_they_are_not(case: str, packed: bytes, tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0/10005.tar").write_bytes(tar_with(packed, FIRST, **TARS[case]))
    with bounded(16):
        assert said(tmp_path, "gobjaverse")


def test_archives_of_too_many_members(packed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0/10005.tar").write_bytes(packed)
    monkeypatch.setattr(stored, "MAX_MEMBERS", 5)
    assert "more than 5 members" in said(tmp_path, "gobjaverse")


def test_descriptions_of_descriptions_end(tmp_path: Path) -> None:
    """Each pax header describes the next one: the library goes on by recursion."""
    one = tarfile.TarInfo("x")
    one.type, one.size = tarfile.XHDTYPE, 0
    (tmp_path / "0").mkdir()
    (tmp_path / "0/10005.tar").write_bytes(one.tobuf(tarfile.USTAR_FORMAT) * 5000)
    with bounded(64):
        assert said(tmp_path, "gobjaverse")


def png(width: int, height: int, colour: str = "RGBA") -> bytes:
    stream = io.BytesIO()
    Image.new(colour, (width, height)).save(stream, "PNG")
    return stream.getvalue()


def test_images_larger_than_any_view_are_not_unpacked(tmp_path: Path) -> None:
    folder = small(tmp_path)
    for width, height in ((4097, 1), (1, 4097)):
        (folder / "000.png").write_bytes(png(width, height))
        assert f"{width} x {height} pixels, expected at most 4096 a side" in said(tmp_path)
    (folder / "000.png").write_bytes(png(SIZE[1], SIZE[0]))
    (folder / "002.png").write_bytes(png(4097, 1))
    assert "view 2: expected a readable image" in said(tmp_path)


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "TIFF", "BMP", "ICO"])
def test_only_formats_of_views_are_decoded(kind: str, tmp_path: Path) -> None:
    folder = small(tmp_path)
    image = Image.new("L", (16, 16))
    image.save(folder / "000.png", kind)
    assert ("expected a transparent background" if kind == "JPEG" else "UnidentifiedImageError") in said(tmp_path)


def test_maps_are_not_read_from_jpeg(tmp_path: Path) -> None:
    """Decoding one can take hours, and its values are rounded."""
    instantmesh(tmp_path, "thing")
    (path,) = tmp_path.rglob("000_depth.png")
    Image.new("L", SIZE[::-1]).save(path, "JPEG")
    assert "000_depth.png, got UnidentifiedImageError" in said(tmp_path, "instantmesh")


def maps_of(values: np.ndarray) -> bytes:
    with tempfile.NamedTemporaryFile(suffix=".exr") as file:
        OpenEXR.File({}, {name: values for name in "RGBA"}).write(file.name)
        return Path(file.name).read_bytes()


def test_exr_files_that_claim_what_they_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    gobjaverse(tmp_path, "0_10005")
    for folder in (tmp_path / "0/10005").iterdir():
        if int(folder.name) >= 2:
            shutil.rmtree(folder)
    path = tmp_path / "0/10005/00001/00001_nd.exr"
    good = path.read_bytes()
    window = good.index(b"dataWindow\0box2i\0") + 21
    for corners in (
        (0, 0, 10**6, 10**6),
        (-(2**31), 0, 2**31 - 1, 47),
        (5, 5, 0, 0),
    ):
        changed = bytearray(good)
        struct.pack_into("<4i", changed, window, *corners)
        path.write_bytes(changed)
        with bounded(8):
            assert "expected a readable EXR image" in said(tmp_path, "gobjaverse")
    path.write_bytes(maps_of(np.zeros((1, 4097), np.float32)))
    assert "pixels [0, 0] to [4096, 0], expected at most 4096 a side" in said(tmp_path, "gobjaverse")
    path.write_bytes(good[:-200])
    assert "pixels that cannot be decoded" in said(tmp_path, "gobjaverse")
    path.write_bytes(maps_of(np.zeros((8, 8), np.float32)))
    assert f"of {SIZE[0]} x {SIZE[1]} pixels" in said(tmp_path, "gobjaverse")
    monkeypatch.setattr(exr, "MAX_VIEW_BYTES", 4 * SIZE[0] * SIZE[1] * 4 - 1)
    assert "4 channels of such a size" in said(tmp_path, "gobjaverse")
    capfd.readouterr()  # the library prints what it has found


NAMES = ["../secret.png", "/etc/hostname", "sub/../../secret.png", "a\0b", "x" * 5000, "\ud800", ".", ""]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_views_lead_nowhere_else(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(SIZE[1], SIZE[0]))
    trellis(tmp_path / "tree", "0f" * 32)
    path = tmp_path / "tree/renders" / ("0f" * 32) / "transforms.json"
    content = json.loads(path.read_text())
    for view in (0, 1):
        changed = copy.deepcopy(content)
        changed["frames"][view]["file_path"] = name
        path.write_text(json.dumps(changed))
        assert said(tmp_path / "tree", "trellis")
    ours(tmp_path / "orbits", "thing")
    path = tmp_path / "orbits/thing-00/meta.json"
    content = json.loads(path.read_text())
    content["locations"][1]["frames"][0]["name"] = name
    path.write_text(json.dumps(content))
    assert said(tmp_path / "orbits", "ours")


def test_true_geometry_that_is_none(tmp_path: Path) -> None:
    ours(tmp_path, "thing")
    orbit = tmp_path / "thing-00"
    points, normals = np.zeros((7, 3), np.float32), np.tile([0, 0, 1], (7, 1)).astype(np.float32)
    good = {"points": points, "normals": normals, "occupancy": np.zeros(8, np.uint8), "resolution": np.array(4)}
    tree = opened(tmp_path, "ours")
    for view in range(3):
        np.savez(orbit / f"coordinate_{view:04d}.npz", coordinate=np.zeros((*SIZE, 3), np.float16))
    np.savez(orbit / "surface_7.npz", **good)
    assert tree.true_geometry("thing", 7).coordinates.shape == (3, *SIZE, 3)
    for name, value in (
        ("points", points[:5]),
        ("points", points + np.nan),
        ("normals", normals[:, :2]),
        ("occupancy", np.zeros(3)),
        ("resolution", np.array(np.inf)),
        ("resolution", np.array(-4)),
        ("resolution", np.array([4, 4])),
        ("resolution", np.array(10**6)),
    ):
        np.savez(orbit / "surface_7.npz", **{**good, name: value})
        with bounded(16), pytest.raises(SampleError) as caught:
            tree.true_geometry("thing", 7)
        one_line(caught.value)
    np.savez(orbit / "surface_7.npz", **good)
    np.savez(orbit / "coordinate_0001.npz", coordinate=np.zeros((3, 3, 3), np.float16))
    with pytest.raises(SampleError):
        tree.true_geometry("thing", 7)


def test_links_in_a_circle_are_no_objects(tmp_path: Path) -> None:
    zero123(tmp_path, "thing")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "nothing").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    tree = open_tree(tmp_path)
    assert tree.uids == ["thing"]
    assert not refused(tmp_path, "zero123")


LISTS = {
    "zero123": (zero123, "valid_paths.json", ['["thing", 3]', '{"a": 1}', "[" * 10**6, '["thing"', "\\"]),
    "instantmesh": (instantmesh, "filtered_obj_name.json", ['{"good_objs": 3}', "[]", "{}", "[" * 10**6, "nan"]),
    "trellis": (
        trellis,
        "metadata.csv",
        ["uid,rendered\nx,True\n", 'sha256\n"' + "x" * 200_000, "sha256\n\0\n", "rendered,sha256\nTrue\n"],
    ),
    "official": (official, "train.txt", ["..\n", ".hidden\n", "x" * 5000]),
}


@pytest.mark.parametrize("layout", LISTS)
def test_lists_that_are_none(layout: str, tmp_path: Path) -> None:
    write, name, contents = LISTS[layout]
    write(tmp_path, "thing")
    for content in [*(text.encode() for text in contents), b"\xff\xfe\xff"]:
        (tmp_path / name).write_bytes(content)
        with bounded(32), pytest.raises(ValueError) as caught:  # noqa: PT011 # what each says differs
            read_all(tree := opened(tmp_path, layout), tree.uids[0])
        one_line(caught.value)


@pytest.mark.parametrize("uid", ["a\nb", "a\x1b[2J", "\udcff", "x" * 210])
def test_folders_whose_names_cannot_be_written_are_named(uid: str, tmp_path: Path) -> None:
    zero123(tmp_path, "thing")
    (tmp_path / "thing").rename(tmp_path / uid)
    with pytest.raises(ValueError, match=r"uids in .* that can name a file") as caught:
        open_tree(tmp_path, reader="zero123").uids  # noqa: B018 # a property
    one_line(caught.value)


def gzipped(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content))


def test_an_objaverse_index_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_tree(tmp_path / "tree", {"aa": b""}, {"chair": ["aa"]})
    index, lvis, metadata = (root / name for name in (INDEX, "lvis-annotations.json.gz", "metadata/000-007.json.gz"))
    good = index.read_bytes()

    def said() -> str:
        with bounded(32), pytest.raises(ValueError) as caught:  # noqa: PT011 # which one is asked below
            ObjaverseReader(root).select()
        return one_line(caught.value)

    for content in (
        b"{",
        b"[" * 10**6,
        b"nan",
        b'{"aa": 3}',
        b'{"aa": "a\\u0000b"}',
        b'{"a\\nb": "x"}',
        b'{"a": ".."}',
    ):
        gzipped(index, content)
        assert said()
    for broken in (b"", good[:-9], good[:20] + b"\xff" * 9 + good[20:], b"\x1f\x8b\x08" + b"\0" * 50):
        index.write_bytes(broken)
        assert "download it again" in said()
    gzipped(index, b" " * 2**22 + b"{}")
    monkeypatch.setattr(objaverse, "MAX_LIST_BYTES", 2**20)
    assert "more than 1048576 bytes" in said()
    index.write_bytes(good)
    for path, contents in (
        (lvis, (b'{"chair": 3}', b'{"chair": [["aa"]]}', b"[]", b"{")),
        (metadata, (b'{"aa": 3}', b'{"aa": {"user": [1]}}', b'{"aa": {"name": 1e999, "user": "x"}}')),
    ):
        kept = path.read_bytes()
        for content in contents:
            gzipped(path, content)
            assert "expected" in said()
        path.write_bytes(kept)
    assert [asset.uid for asset in ObjaverseReader(root).select()] == ["aa"]
