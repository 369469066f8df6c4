from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mercato import files
from mercato.errors import MercatoError
from mercato.files import atomic_directory, ensure_replaceable, market_lock, replace_directory, write_atomic


def folder_of(path: Path, text: str) -> Path:
    path.mkdir(parents=True)
    (path / "content").write_text(text)
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_only_what_bears_all_the_markers_may_be_replaced(tmp_path: Path) -> None:
    target = tmp_path / "run"
    ensure_replaceable(target, ("recipe.toml", "features.json"))
    target.mkdir()
    ensure_replaceable(target, ("recipe.toml", "features.json"))
    (target / "recipe.toml").touch()
    with pytest.raises(MercatoError, match=r"holds no features\.json"):
        ensure_replaceable(target, ("recipe.toml", "features.json"))
    (target / "features.json").touch()
    ensure_replaceable(target, ("recipe.toml", "features.json"))


def test_a_file_and_a_broken_link_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "link"):
        with pytest.raises(MercatoError, match="not a folder"):
            ensure_replaceable(tmp_path / name, ())


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_replaced_and_nothing_is_left_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    target = folder_of(tmp_path / "target", "old")
    replace_directory(folder_of(tmp_path / "fresh", "new"), target)
    assert (target / "content").read_text() == "new"
    assert names(tmp_path) == {"target"}


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
def test_a_target_exists_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at whatever step after the new folder is written, `target` is there, old or new."""
    target = folder_of(tmp_path / "target", "old")
    monkeypatch.setattr(Path, "rename", lambda *_: pytest.fail("two renames: a moment without a target"))
    monkeypatch.setattr(files, "_remove", lambda path: os._exit(9))
    child = os.fork()
    if not child:
        try:
            replace_directory(folder_of(tmp_path / "fresh", "new"), target)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert (target / "content").read_text() == "new"


def test_a_link_is_replaced_and_what_it_led_to_stays(tmp_path: Path) -> None:
    elsewhere = folder_of(tmp_path / "elsewhere", "old")
    (tmp_path / "target").symlink_to(elsewhere)
    replace_directory(folder_of(tmp_path / "fresh", "new"), tmp_path / "target")
    assert (tmp_path / "target" / "content").read_text() == "new"
    assert (elsewhere / "content").read_text() == "old"
    assert names(tmp_path) == {"target", "elsewhere"}


def test_an_error_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    target = folder_of(tmp_path / "target", "old")
    with pytest.raises(RuntimeError), atomic_directory(target) as fresh:
        (fresh / "content").write_text("half")
        raise RuntimeError
    assert (target / "content").read_text() == "old"
    assert names(tmp_path) == {"target"}


def test_the_folder_one_stands_in_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with atomic_directory(Path()) as fresh:
        (fresh / "content").write_text("new")
    assert (tmp_path / "here" / "content").read_text() == "new"
    assert names(tmp_path) == {"here"}


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    write_atomic(tmp_path / "deep" / "file", "text")
    write_atomic(tmp_path / "deep" / "file", b"bytes")
    assert (tmp_path / "deep" / "file").read_bytes() == b"bytes"
    assert names(tmp_path / "deep") == {"file"}


def test_a_market_has_one_server_and_none_when_that_is_gone(tmp_path: Path) -> None:
    holder = (
        "import sys, pathlib; from mercato.files import market_lock\n"
        "with market_lock(pathlib.Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        server.stdout.readline()
        with pytest.raises(MercatoError, match="another `mercato serve`"), market_lock(tmp_path):
            pass
        server.kill()
    with (
        market_lock(tmp_path),
        pytest.raises(MercatoError, match="another `mercato serve`"),
        market_lock(tmp_path),
    ):
        pass
    with market_lock(tmp_path):
        pass
