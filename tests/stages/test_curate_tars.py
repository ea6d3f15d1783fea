"""Webdataset tars as people make them: members in any order, dots in names, strange members, one key twice."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from stages import walk
from stages.errors import InputError
from tests.stages.curating import Curated, curate, png
from tests.stages.test_curate_sources import captions, left_out, section

BOUNDS: dict[str, Any] = {"max_unsafe": None, "max_watermark": None}
Member = tuple[str, bytes]


def packed(tar: Path, members: Sequence[Member], mode: str = "w") -> Path:
    tar.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(tar, mode) as archive:  # pyright: ignore[reportCallIssue, reportArgumentType]
        for name, data in members:
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return tar


def read(folder: Path, path: Path, **bounds: object) -> Curated:
    return curate(folder, section(folder, images={"kind": "laion", "path": str(path), **BOUNDS, **bounds}))


def sample(key: str, seed: int, text: str = "") -> list[Member]:
    return [(f"{key}.png", png(seed)), (f"{key}.txt", (text or f"text of {key}").encode())]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".TAR"])
@pytest.mark.parametrize("apart", [False, True])
def test_members_of_a_sample_may_stand_apart(apart: bool, suffix: str, tmp_path: Path) -> None:
    members = [member for n in range(6) for member in sample(f"{n:03d}", n)]
    if apart:
        members = [*members[::2], *reversed(members[1::2])]
    mode = {"gz": "w:gz", "gz2": "w:gz", "bz2": "w:bz2", "xz": "w:xz"}.get(suffix.lower().split(".")[-1], "w")
    packed(tmp_path / "tars" / f"0{suffix}", members, "w:gz" if suffix == ".tgz" else mode)
    made = read(tmp_path, tmp_path / "tars")
    assert {row["image"]: row["caption"] for row in made.images} == {png(n): f"text of {n:03d}" for n in range(6)}
    assert not left_out(made, tmp_path)


def test_metadata_may_stand_apart_too(tmp_path: Path) -> None:
    about = json.dumps({"punsafe": 0.9, "caption": "from the metadata"}).encode()
    packed(tmp_path / "0.tar", [*sample("a", 0), ("b.png", png(1)), ("a.json", about), ("b.json", about)])
    made = read(tmp_path, tmp_path / "0.tar")
    assert captions(made) == ["from the metadata", "text of a"]
    with pytest.raises(InputError, match="removed by metadata 2"):
        read(tmp_path, tmp_path / "0.tar", max_unsafe=0.1)


SHAPES: dict[str, tuple[list[Member], list[str]]] = {
    "dots in base names": ([*sample("photo.v1", 0), *sample("photo.v2", 1)], ["text of photo.v1", "text of photo.v2"]),
    "dots in one base name": (sample("2024.01.05 beach", 0), ["text of 2024.01.05 beach"]),
    "a name and that name with a dot": ([*sample("a", 0), *sample("a.b", 1)], ["text of a", "text of a.b"]),
    "named parts": ([("1.image.jpg", png(0)), ("1.caption.txt", b"x"), ("1.meta.json", b"{}")], ["x"]),
    "a mask beside": ([*sample("1", 0), ("1.mask.png", png(1))], ["text of 1"]),
    "a mask and a named text": ([("1.png", png(0)), ("1.mask.png", png(1)), ("1.cap.txt", b"x")], ["x"]),
    "folders": ([*sample("x/1", 0), *sample("y/1", 1)], ["text of x/1", "text of y/1"]),
    "dots in folders": ([*sample("v1.0/a", 0), *sample("v1.1/a", 1)], ["text of v1.0/a", "text of v1.1/a"]),
    "leading ./": ([("./1.png", png(0)), ("1.txt", b"x")], ["x"]),
    "names above": ([("../1.png", png(0)), ("../1.txt", b"x")], ["x"]),
    "either normal form": ([("caf\u00e9.png", png(0)), ("cafe\u0301.txt", b"x")], ["x"]),
    "capital suffixes": ([("1.PNG", png(0)), ("1.TXT", b"x")], ["x"]),
    "other suffixes": ([("1.jfif", png(0)), ("1.caption", b"x"), ("2.gif", png(1)), ("2.txt", b"y")], ["x", "y"]),
    "one key twice": ([*sample("1", 0, "first"), *sample("2", 1), *sample("1", 2, "second")],
                      ["first", "second", "text of 2"]),
}  # fmt: skip


@pytest.mark.parametrize("case", SHAPES)
def test_samples_of_every_shape(case: str, tmp_path: Path) -> None:
    members, expected = SHAPES[case]
    made = read(tmp_path, packed(tmp_path / "0.tar", members))
    assert captions(made) == expected


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("1.left.png", png(0)), ("1.right.png", png(1)), ("1.txt", b"x")], "0.tar, 1: 2 images and 1 texts .* plain"),
        (
            [*sample("7", 0), ("7.png", png(1))],
            r"0\.tar: key '7' stands there more than once, with 2 \.png and 1 \.txt",
        ),
        ([("1.png", png(0)), ("1.a.txt", b"x"), ("1.b.txt", b"y")], "0.tar, 1: 1 images and 2 texts"),
    ],
)
def test_what_cannot_be_told_apart_is_refused_by_its_key(members: list[Member], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read(tmp_path, packed(tmp_path / "0.tar", members))
    assert "expected" in str(caught.value)


def test_what_stands_behind_the_end_is_not_passed_over(tmp_path: Path) -> None:
    """Two tars joined by cat, and a damaged header: tarfile takes either for the end."""
    first, second = (packed(tmp_path / f"{n}.tar", sample(f"{n}", n)).read_bytes() for n in range(2))
    damaged = bytearray(first)
    damaged[512 * (1 + -(-len(png(0)) // 512))] ^= 0xFF
    for name, data in {"joined": first + second, "damaged": bytes(damaged)}.items():
        (tmp_path / f"{name}.tar").write_bytes(data)
        with pytest.raises(InputError, match=r"tar: something stands behind the end of its archive, at byte \d+"):
            read(tmp_path, tmp_path / f"{name}.tar")
    (tmp_path / "padded.tar").write_bytes(first + bytes(20480))
    assert captions(read(tmp_path, tmp_path / "padded.tar")) == ["text of 0"]


def test_images_without_metadata(tmp_path: Path) -> None:
    """Where the first has none, the bounds are meant for another set; where some have none, those are removed."""
    about = json.dumps({"punsafe": 0.0, "pwatermark": 0.0}).encode()
    packed(tmp_path / "0.tar", [*sample("a", 0), ("a.json", about), *sample("b", 1)])
    bounds = {"max_unsafe": 0.1, "max_watermark": 0.5}
    made = read(tmp_path, tmp_path / "0.tar", **bounds)
    assert captions(made) == ["text of a"] and made.removed("images") == {"metadata": 1}
    packed(tmp_path / "1.tar", sample("b", 1))
    with pytest.raises(
        InputError, match=r"1\.tar, b: its metadata have no 'punsafe', on which `max_unsafe` is a bound"
    ):
        read(tmp_path, tmp_path / "1.tar", **bounds)


def test_texts_and_folders_that_are_none(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n"
    with pytest.raises(InputError, match=r"0\.tar, 1: its \.txt is a Git LFS pointer"):
        read(tmp_path, packed(tmp_path / "0.tar", [("1.png", png(0)), ("1.txt", pointer)]))
    with pytest.raises(InputError, match="hold no rows, expected at least one; left out: 2 a sample without an image"):
        read(tmp_path, packed(tmp_path / "1.tar", [("README", b""), ("x.json", b"{}")]))
    (tmp_path / "zst").mkdir()
    (tmp_path / "zst" / "0.tar.zst").write_bytes(b"")
    with pytest.raises(InputError, match=r"no tars here.*; 0\.tar\.zst is compressed in a way that is not read"):
        read(tmp_path, tmp_path / "zst")


def test_a_pattern_names_tars(tmp_path: Path) -> None:
    for n in range(3):
        packed(tmp_path / "t" / f"{n}.tar", sample(f"{n}", n))
    assert captions(read(tmp_path, tmp_path / "t" / "[01].tar")) == ["text of 0", "text of 1"]


def test_every_other_member_is_counted(tmp_path: Path) -> None:
    root = tmp_path / "tars"
    tar = packed(
        root / "0.tar",
        [*sample("1", 0), ("._1.png", b"\0"), ("__MACOSX/1.png", b"\0"), (".DS_Store", b"\0"), ("README", b"about"),
         ("2.json", b"{}"), ("1.cls", b"3"), ("1.webp", png(5)), ("3.png", png(3))],
    )  # fmt: skip
    (root / "notes.md").write_text("x")
    (root / "1.tar").symlink_to("gone.tar")
    made = read(tmp_path, root)
    assert captions(made) == ["text of 1"] and made.removed("images") == {"text": 1}
    assert left_out(made, root) == {
        walk.HIDDEN: ["0.tar, ._1.png", "0.tar, __MACOSX/1.png", "0.tar, .DS_Store"],
        "a sample without an image": ["0.tar, README", "0.tar, 2"],
        "not read (.cls)": ["0.tar, 1.cls"],
        "a second image of a sample": ["0.tar, 1.webp"],
        "not read (.md)": ["notes.md"],
        walk.DANGLING: ["1.tar"],
    }
    assert tar.is_file()


def test_links_inside_a_tar(tmp_path: Path) -> None:
    """What `tar` and `--hard-dereference`'s absence make of linked files."""
    with tarfile.open(packed(tmp_path / "0.tar", sample("1", 0)), "a") as archive:
        for name, target, kind in [
            ("2.png", "1.png", tarfile.LNKTYPE), ("3.png", "/etc/passwd", tarfile.SYMTYPE),
            ("4.png", "4.png", tarfile.SYMTYPE), ("5.png", "1.png", tarfile.SYMTYPE), ("pipe", "", tarfile.FIFOTYPE),
        ]:  # fmt: skip
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
    made = read(tmp_path, tmp_path / "0.tar")
    assert captions(made) == ["text of 1"] and made.removed("images") == {"text": 2}
    assert left_out(made, tmp_path) == {walk.DANGLING: ["0.tar, 3.png", "0.tar, 4.png"], walk.SPECIAL: ["0.tar, pipe"]}


def test_a_tar_that_the_command_made(tmp_path: Path) -> None:
    """`tar -cf` of a folder: names begin with ./, folders are members, order is the disk's."""
    folder = tmp_path / "shard"
    folder.mkdir()
    for n in range(4):
        (folder / f"{n}.png").write_bytes(png(n))
        (folder / f"{n}.txt").write_text(f"number {n}")
    subprocess.run(["tar", "-C", str(folder), "-cf", str(tmp_path / "0.tar"), "."], check=True)
    assert captions(read(tmp_path, tmp_path / "0.tar")) == [f"number {n}" for n in range(4)]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer"),
        (b"<html>", "it is an HTML page"),
        (b"", "empty"),
        (b"\0" * 100, "not a readable tar"),
        (b"\x1f\x8bjunk", "not a readable tar"),
        (gzip.compress(b"a tar" * 400, mtime=0)[:-20], "not a readable tar"),
        (gzip.compress(bytes(range(256)) * 40, mtime=0)[:20] + bytes(90), "not a readable tar"),
        (lzma.compress(b"a tar" * 400)[:40] + b"junk" * 9, "not a readable tar"),
    ],
)
def test_what_is_no_tar(data: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(data)
    with pytest.raises(InputError, match=rf"0\.tar: not a readable tar: .*{said}|{said}"):
        read(tmp_path, tmp_path / "0.tar")


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("members", [1, 2, 3])
def test_a_tar_that_was_cut_off_between_two_members(members: int, suffix: str, tmp_path: Path) -> None:
    packed(tmp_path / "whole.tar", [*sample("a", 0), *sample("b", 1)])
    with tarfile.open(tmp_path / "whole.tar") as archive:
        end = archive.getmembers()[members].offset
    start = (tmp_path / "whole.tar").read_bytes()[:end]
    (tmp_path / f"0.tar{suffix}").write_bytes(gzip.compress(start) if suffix else start)
    with pytest.raises(InputError, match=f"cut off. The blocks of zeros that end an archive are missing at byte {end}"):
        read(tmp_path, tmp_path / f"0.tar{suffix}")


@pytest.mark.parametrize("text", [b'{"caption": "a bee"}', b'["a bee"]', b'[\n"a bee"\n]'])
def test_a_caption_that_is_json(text: bytes, tmp_path: Path) -> None:
    packed(tmp_path / "0.tar", [("a.png", png(0)), ("a.txt", text)])
    with pytest.raises(InputError, match=r"0\.tar, a: its \.txt is JSON; expected a caption"):
        read(tmp_path, tmp_path / "0.tar")
