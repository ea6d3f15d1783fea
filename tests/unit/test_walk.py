"""Searching a folder: links, cycles, and what is not read with its reason."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from stages import walk


def made(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def names(found: walk.Found, root: Path) -> list[str]:
    return [file.relative_to(root).as_posix() for file in found.files]


def reasons(found: walk.Found, root: Path) -> dict[str, str]:
    return {each.path.relative_to(root).as_posix(): each.reason for each in found.unread}


def test_files_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    root = made(tmp_path, "b/2", "b/1", "a.x", "a/3", "c")
    expected = sorted(path for path in root.rglob("*") if path.is_file())
    assert walk.files(root) == expected


def test_links_to_folders_and_files_are_followed(tmp_path: Path) -> None:
    made(tmp_path / "elsewhere", "deep/1", "2")
    root = made(tmp_path / "root", "plain")
    (root / "all").symlink_to(tmp_path / "elsewhere")
    (root / "one").symlink_to(tmp_path / "elsewhere" / "2")
    (root / "relative").symlink_to("../elsewhere/deep")
    found = walk.search(root)
    assert names(found, root) == ["all/2", "all/deep/1", "one", "plain", "relative/1"]
    assert not found.unread


def test_a_folder_that_is_a_link_itself(tmp_path: Path) -> None:
    made(tmp_path / "real", "a")
    (tmp_path / "link").symlink_to("real")
    assert walk.files(tmp_path / "link") == [tmp_path / "link" / "a"]


@pytest.mark.parametrize("target", [".", "..", "../..", "../c"])
def test_cycles_end(target: str, tmp_path: Path) -> None:
    root = made(tmp_path / "root", "a/b/x", "a/c/y")
    (root / "a" / "b" / "again").symlink_to(target)
    found = walk.search(root)
    assert {"a/b/x", "a/c/y"} <= set(names(found, root))
    cycle = target != "../c"
    assert reasons(found, root) == ({"a/b/again": walk.CYCLE} if cycle else {})


def test_a_link_to_itself_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "me").symlink_to("me")
    (tmp_path / "you").symlink_to("they")
    (tmp_path / "they").symlink_to("you")
    (tmp_path / "gone").symlink_to("/no/such/file")
    assert reasons(walk.search(tmp_path), tmp_path) == dict.fromkeys(["gone", "me", "they", "you"], walk.DANGLING)


def test_folders_that_all_link_to_each_other_take_no_time(tmp_path: Path) -> None:
    """Followed wherever they lead, sixteen such folders would be entered 16! times."""
    count = 16
    for n in range(count):
        folder = made(tmp_path, f"{n:02d}/own").joinpath(f"{n:02d}")
        for other in range(count):
            if other != n:
                (folder / f"to{other:02d}").symlink_to(f"../{other:02d}")
    start = time.process_time()
    found = walk.search(tmp_path)
    assert time.process_time() - start < 5
    assert count * count <= len(found.files) < 2 * count * count
    assert {each.reason for each in found.unread} == {walk.CYCLE, walk.AGAIN}


def test_hidden_and_special_files_are_named(tmp_path: Path) -> None:
    made(tmp_path, ".hidden", ".git/objects/1", "._cat.png", "seen")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as made_socket:
        made_socket.bind(str(tmp_path / "socket"))
    found = walk.search(tmp_path)
    assert names(found, tmp_path) == ["seen"]
    assert reasons(found, tmp_path) == {
        ".hidden": walk.HIDDEN, ".git": walk.HIDDEN, "._cat.png": walk.HIDDEN, "pipe": walk.SPECIAL,
        "socket": walk.SPECIAL,
    }  # fmt: skip


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = made(tmp_path, "a/1", "b/2")
    real = os.scandir

    def scandir(path: Path):  # as root, permissions keep nobody out
        if path.name == "a":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = walk.search(root)
    assert names(found, root) == ["b/2"]
    assert reasons(found, root) == {"a": "a folder that cannot be read: Permission denied"}
