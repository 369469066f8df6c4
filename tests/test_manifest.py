"""What a manifest tells of damage, and that whatever goes wrong in reading a file is one line."""

from __future__ import annotations

import json
import os

import pytest

from mercato.errors import DamagedError, MercatoError
from mercato.manifest import MANIFEST, check, damage, reading, write_manifest


@pytest.fixture(params=[False, True], ids=["plain", "sparse"])
def folder(request, tmp_path):
    (tmp_path / "small").write_bytes(b"abc")
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(300_000)
        file.write(b"something")
    write_manifest(tmp_path, ["small", "holes"], sparse=request.param)
    return tmp_path


def test_what_is_as_it_was_is_not_told_of(folder):
    assert damage(folder) == damage(folder, most=None) == []
    (folder / "other").write_bytes(b"not listed")
    (folder / "holes").write_bytes((folder / "holes").read_bytes())  # a copy without holes
    assert damage(folder) == []
    check(folder, "mend")


@pytest.mark.parametrize("change", ["moved", "flipped", "longer", "shorter", "gone"])
def test_damage_is_told_of(folder, change):
    file = folder / "holes"
    content = bytearray(file.read_bytes())
    if change == "gone":
        file.unlink()
    elif change == "moved":  # the same blocks at other places
        file.write_bytes(content[1 << 16 :] + bytes(1 << 16))
    elif change == "flipped":
        content[300_000] ^= 1
        file.write_bytes(content)
    else:
        os.truncate(file, len(content) + (1 if change == "longer" else -1))
    ((name, why),) = damage(folder)
    assert name == "holes"
    assert ("missing" if change == "gone" else "damaged") in why
    with pytest.raises(DamagedError, match=r"holes is (damaged|missing).*: mend"):
        check(folder, "mend")
    with pytest.raises(DamagedError, match=r"holes is (damaged|missing).*: mend"), reading(file, "mend"):
        pytest.fail("it is read")


def test_the_smallest_are_digested_first_and_the_others_measured(folder):
    for name in ("small", "holes"):
        content = bytearray((folder / name).read_bytes())
        content[0] ^= 1
        (folder / name).write_bytes(content)
    assert [name for name, _ in damage(folder, most=None)] == ["small", "holes"]
    assert [name for name, _ in damage(folder, most=3)] == ["small"]
    assert damage(folder, most=2) == []


def test_a_file_that_is_written_anew_is_noted_beside_the_others(folder):
    (folder / "small").write_bytes(b"another")
    write_manifest(folder, ["small"])
    assert damage(folder) == []
    assert json.loads((folder / MANIFEST).read_text())["files"].keys() == {"small", "holes"}
    (folder / "holes").unlink()
    write_manifest(folder, ["small"])
    assert damage(folder) == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": {"small": {}}}', '{"files": {"small": {"size": 3}}}'])
def test_a_broken_manifest_is_named(folder, content):
    (folder / MANIFEST).write_text(content)
    with pytest.raises(DamagedError, match=r"manifest\.json, .*cannot be read: .*: put it back"):
        damage(folder)


class PanicException(BaseException):
    """As Rust's libraries raise it."""


@pytest.mark.parametrize("error", [ValueError("two\nlines\0"), KeyError("x"), OSError(2, "none"), PanicException("p")])
def test_whatever_goes_wrong_is_one_line(tmp_path, error):
    with pytest.raises(DamagedError) as told, reading(tmp_path / "file", "do this"):
        raise error
    assert str(told.value).startswith(f"{tmp_path / 'file'} cannot be read: ")
    assert str(told.value).endswith(": do this")
    assert str(told.value).isprintable()


def test_what_is_told_already_is_not_told_twice_and_what_is_no_damage_passes(tmp_path):
    outer, inner = reading(tmp_path / "b", "and that"), reading(tmp_path / "a", "do this")
    with pytest.raises(DamagedError, match=r"^field x: do this$"), outer, inner:
        raise MercatoError("field x")
    for error in (KeyboardInterrupt, ModuleNotFoundError, PermissionError(13, "no"), OSError(28, "full")):
        with pytest.raises(error if isinstance(error, type) else type(error)), reading(tmp_path / "a", "do this"):
            raise error
