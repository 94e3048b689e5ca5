"""The cache on disk: used again, made anew when something does not fit, and tidied."""

import errno
import os
import re
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from catdog.errors import UserError
from catdog.photos import cache, index
from catdog.photos.photo import PhotoError
from conftest import disk_full_at, draw_photos
from photo_files import cats_and_dogs, save


@pytest.fixture
def folder(tmp_path):
    return cats_and_dogs(tmp_path)


@pytest.fixture
def decoded(monkeypatch):
    """The paths that are decoded, one by one."""
    decoded, decode = [], cache._decode
    monkeypatch.setattr(
        cache, "_decode", lambda path, size: decoded.append(path) or decode(path, size)
    )
    return decoded


def load(folder, size=8, **more):
    return cache.images(index.find(folder), size, folder / "cache", **more)


def the_cache(folder):
    (path,) = (folder / "cache").iterdir()
    return path


# --- Use ------------------------------------------------------------------------------------------


def test_a_new_cache_is_not_read_once_more_to_be_checked(folder, monkeypatch):
    monkeypatch.setattr(cache, "ThreadPoolExecutor", None)  # it reads the blocks to be checked
    assert len(load(folder)[0]) > 100


def test_photos_that_cannot_be_decoded_are_told_with_a_reason(folder):
    (folder / "train/cat.7.png").write_bytes(b"")
    (folder / "train/dog.8.jpg").write_text("<html></html>")
    found = index.find(folder)
    images, digests, errors = load(folder)
    assert [found.paths[i] for i in errors] == ["cat.7.png", "dog.8.jpg"]
    assert all(errors.values())
    assert images.shape == (119, 8, 8, 3) and images.dtype == np.uint8
    assert len(digests) == 121 and [i for i in range(121) if not digests[i]] == list(errors)
    assert (folder / "train/dog.8.jpg").read_text() == "<html></html>"
    good = np.delete(np.arange(121), list(errors))
    for i in (0, 50, 118):  # images and paths belong together
        pixels = np.asarray(Image.open(folder / "train" / found.paths[good[i]]))
        np.testing.assert_array_equal(images[i], pixels)


def test_a_cache_is_used_again_and_rebuilt_when_a_file_changes(folder, decoded, caplog):
    first = load(folder)
    assert len(decoded) == 120
    again = load(folder)
    assert len(decoded) == 120
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert isinstance(again[0], np.memmap)

    save(folder / "train/cat.0.png", (255, 0, 0))
    os.utime(folder / "train/cat.0.png", ns=(1, 1))
    changed, _, _ = load(folder)
    assert len(decoded) == 240
    assert changed[index.find(folder).paths.index("cat.0.png")][0, 0].tolist() == [255, 0, 0]
    (folder / "train/cat.1.png").unlink()
    assert len(load(folder)[0]) == 119
    assert caplog.messages == []  # nothing of it is damage


def test_only_the_newest_cache_of_a_folder_and_size_is_kept(folder):
    load(folder), load(folder, 16)
    save(folder / "train/cat.0.png", (255, 0, 0), size=9)
    load(folder)
    sizes = [path.name.split("-")[1] for path in (folder / "cache").iterdir()]
    assert sorted(sizes) == ["16", "8"]


def test_progress_is_told_for_every_photo(folder):
    seen = []
    load(folder, on_progress=lambda *state: seen.append(state))
    assert seen == [(n, 120) for n in range(1, 121)]
    load(folder, on_progress=None)  # not called


def test_a_photo_that_can_be_read_by_now_is_no_longer_skipped(folder, monkeypatch):
    decode = cache._decode

    def refuse(path, size):
        if path.name == "cat.3.png":
            raise PhotoError("permission denied")
        return decode(path, size)

    monkeypatch.setattr(cache, "_decode", refuse)
    assert list(load(folder)[2].values()) == ["permission denied"]
    monkeypatch.setattr(cache, "_decode", decode)
    assert load(folder)[2] == {}


def test_two_files_that_change_places_are_decoded_anew(folder, decoded):
    a, b = (folder / f"train/{name}.bmp" for name in ("cat.100", "dog.100"))
    for path, colour in ((a, (255, 0, 0)), (b, (0, 255, 0))):
        save(path, colour)
        os.utime(path, ns=(1, 1))
    load(folder)
    a.rename(folder / "kept"), b.rename(a), (folder / "kept").rename(b)
    images, _, _ = load(folder)
    assert images[index.find(folder).paths.index("cat.100.bmp")][0, 0].tolist() == [0, 255, 0]


def test_a_folder_that_was_copied_or_touched_is_not_decoded_anew(folder, decoded, caplog):
    (folder / "train/dog.8.jpg").write_text("<html></html>")
    first = load(folder)
    shutil.copytree(folder / "train", folder / "copy")
    shutil.rmtree(folder / "train")
    (folder / "copy").rename(folder / "train")
    for path in (folder / "train").iterdir():
        os.utime(path, ns=(5, 5))
    decoded.clear()
    again = load(folder)
    assert {path.name for path in decoded} == {"dog.8.jpg"} and not caplog.messages
    np.testing.assert_array_equal(first[0], again[0])
    read, content_of = [], cache.content_of
    cache.content_of = lambda path: read.append(path) or content_of(path)
    try:
        load(folder)
    finally:
        cache.content_of = content_of
    assert len(read) == 1  # their new times are kept


def test_a_cache_that_is_cut_while_it_is_used_is_a_users_error(folder):
    images, _, _ = load(folder)
    os.truncate(the_cache(folder) / "images.npy", 500)
    for place in (5, slice(3), np.array([1, 119]), ([[1], [2]], [0, 3])):
        with pytest.raises(UserError, match=r"images.npy was cut while it was in use"):
            images[place]
    assert len(load(folder)[0]) == 120


def test_a_cache_that_does_not_fit_and_may_only_be_read_is_named(folder, monkeypatch):
    load(folder)
    save(folder / "train/cat.200.png")

    def refuse(self, *args, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(cache.Path, "mkdir", refuse)
    with pytest.raises(UserError, match=r"^cannot write .*-8: Read-only file system$"):
        load(folder)


# --- Damage ---------------------------------------------------------------------------------------


def assert_rebuilt(folder, decoded, caplog, words):
    before = len(decoded)
    images, _, errors = load(folder)
    assert len(decoded) == before + 120 and len(images) == 120 and errors == {}
    (message,) = caplog.messages
    assert re.search(words, message) and "is damaged and is made anew" in message
    assert "\n" not in message
    caplog.clear()
    for image, path in zip(images, index.find(folder).paths, strict=True):
        np.testing.assert_array_equal(image, np.asarray(Image.open(folder / "train" / path)))
    load(folder)
    assert len(decoded) == before + 120 and not caplog.messages


@pytest.mark.parametrize("name", ["images.npy", "index.npz"])
def test_a_file_of_the_cache_that_was_cut_or_is_missing(folder, decoded, caplog, name):
    load(folder)
    path = the_cache(folder) / name
    content = path.read_bytes()
    for torn in (content[:-1], content[: len(content) // 2], content[:50], b""):
        path.write_bytes(torn)
        assert_rebuilt(folder, decoded, caplog, name)
    path.unlink()
    assert_rebuilt(folder, decoded, caplog, name)


def test_a_changed_byte_among_the_pixels(folder, decoded, caplog):
    load(folder)
    path = the_cache(folder) / "images.npy"
    for place in (200, 10_000, path.stat().st_size - 1):
        with open(path, "r+b") as file:
            file.seek(place)
            byte = file.read(1)
            file.seek(place)
            file.write(bytes([byte[0] ^ 1]))
        os.utime(path, ns=(1, 1))  # a time that was set tells nothing
        assert_rebuilt(folder, decoded, caplog, "the pixels of 1 of 2 blocks have changed")


def test_an_untouched_cache_is_not_compared_again_and_a_copy_is(folder, monkeypatch):
    load(folder)
    compared, crc32 = [], cache.zlib.crc32
    monkeypatch.setattr(cache.zlib, "crc32", lambda data: compared.append(1) or crc32(data))
    load(folder)
    assert not compared
    copy = folder / "copy"
    shutil.copytree(the_cache(folder), copy)
    shutil.rmtree(the_cache(folder))
    copy.rename(folder / "cache" / cache._path(index.find(folder), 8, folder).name)
    load(folder)
    assert len(compared) == 2
    load(folder)
    assert len(compared) == 2


def test_changed_bytes_in_the_index_never_change_the_outcome(folder, caplog, monkeypatch):
    (folder / "train/dog.8.jpg").write_text("<html></html>")
    images, digests, errors = load(folder)
    path = the_cache(folder) / "index.npz"
    content = path.read_bytes()
    monkeypatch.setattr(cache, "_build", lambda *args: path.write_bytes(content))
    rng = np.random.default_rng(0)
    places = [*range(0, 200, 3), *range(len(content) - 500, len(content), 3)]
    places += rng.integers(0, len(content), 100).tolist()
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        again = load(folder)
        np.testing.assert_array_equal(again[0], images)
        np.testing.assert_array_equal(again[1], digests)
        assert again[2] == errors
    assert len(caplog.messages) > 200 and all("damaged" in line for line in caplog.messages)


def test_other_files_in_the_place_of_a_cache_are_not_touched(folder):
    load(folder)
    path = the_cache(folder)
    (path / "mine.txt").write_text("mine")
    (path / "index.npz").write_text("")
    with pytest.raises(UserError, match=r"^expected a cache or nothing at .*, got other files"):
        load(folder)
    assert (path / "mine.txt").read_text() == "mine"


# --- Writing --------------------------------------------------------------------------------------


def test_an_interrupted_decoding_leaves_no_cache_and_does_not_wait(folder, monkeypatch):
    decoded = []

    def slowly(path, size):
        decoded.append(path)
        time.sleep(0.05)
        if path.name == "cat.10.png":  # the third
            raise KeyboardInterrupt
        raise PhotoError("slow")

    monkeypatch.setattr(cache, "_decode", slowly)
    with pytest.raises(KeyboardInterrupt):
        load(folder)
    assert len(decoded) < 30
    time.sleep(0.2)
    assert len(decoded) < 30
    assert list((folder / "cache").iterdir()) == []


def test_a_cache_folder_that_goes_away_or_is_full_ends_in_one_line(folder, monkeypatch):
    decode = cache._decode

    def remove(path, size):
        shutil.rmtree(folder / "cache", ignore_errors=True)
        return decode(path, size)

    monkeypatch.setattr(cache, "_decode", remove)
    with pytest.raises(UserError, match=r"^cannot write .*: No such file"):
        load(folder)
    monkeypatch.undo()
    time.sleep(0.5)  # threads may still be at it
    with disk_full_at(10_000), pytest.raises(UserError, match=r"^cannot write .* large"):
        load(folder)
    assert list((folder / "cache").iterdir()) == []
    assert len(load(folder)[0]) == 120


def test_too_little_disk_space_is_told_before_anything_is_decoded(folder, decoded, monkeypatch):
    found = index.find(folder)
    assert 120 * 8 * 8 * 3 < cache.size_in_bytes(found, 8) < 60_000
    assert cache.size_in_bytes(found, 200) == pytest.approx(120 * 120_000, rel=0.01)
    usage = type("", (), {"free": 1_500_000})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"^expected 14.4 MB of free disk space in .*, got 1.5 MB$"):
        load(folder, 200)
    assert decoded == []
    load(folder, 8)


def test_two_at_once_decode_once(folder, decoded, caplog, monkeypatch):
    monkeypatch.setattr(cache, "WAIT", 0.01)
    found, entered, write = index.find(folder), threading.Event(), cache._write

    def slowly(*args):
        entered.set()
        time.sleep(0.3)
        write(*args)

    monkeypatch.setattr(cache, "_write", slowly)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(cache.images, found, 8, folder / "cache")
        entered.wait(5)
        second = cache.images(found, 8, folder / "cache")
        np.testing.assert_array_equal(first.result()[0], second[0])
    assert len(decoded) == 120
    (line,) = caplog.messages
    assert line.startswith("waiting: ") and f"process {os.getpid()} on" in line
    assert the_cache(folder).is_dir()  # and no lock beside it


def test_a_disk_error_of_another_kind_is_not_taken_for_a_lost_race(folder, monkeypatch):
    def fail(self, target):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(cache.Path, "rename", fail)
    with pytest.raises(UserError, match=r"^cannot write .*: Input/output error"):
        load(folder)


def test_a_million_names_load_in_seconds(tmp_path, monkeypatch):
    count = 1_000_000
    paths = [f"cat.{n}.jpg" for n in range(count)]
    found = index.Found(tmp_path, ["cat", "dog"], paths, np.zeros(count, np.int32), paths)
    monkeypatch.setattr(cache, "_decode", None)
    source = {
        "names": np.frombuffer(os.fsencode("\0".join(paths)), np.uint8),
        "stats": np.zeros((count, 3), np.int64),
    }
    path = cache._path(found, 1, tmp_path / "cache")
    path.mkdir(parents=True)
    np.save(path / "images.npy", np.zeros((count, 1, 1, 3), np.uint8))
    np.savez(
        path / "index.npz",
        version=cache.VERSION,
        **source,
        digests=np.zeros(count, "S16"),
        errors=np.frombuffer(b"{}", np.uint8),
        checksums=np.full(count // 64, cache.zlib.crc32(bytes(3 * 64)), np.uint32),
    )
    monkeypatch.setattr(cache, "_source", lambda found: source)
    started = time.process_time()
    images, digests, errors = cache.images(found, 1, tmp_path / "cache")
    assert len(images) == len(digests) == count and not errors
    assert time.process_time() - started < 5


# --- Tidying --------------------------------------------------------------------------------------


def age(path, days):
    then = time.time() - days * 24 * 3600
    for file in (*path.glob("*"), path):
        os.utime(file, (then, then), follow_symlinks=False)


def test_caches_that_were_not_used_for_a_month_are_removed_in_one_line(folder, caplog):
    for size in (8, 9, 10):
        load(folder, size)
    caches = {int(path.name.split("-")[1]): path for path in (folder / "cache").iterdir()}
    age(caches[8], 31), age(caches[9], 29), age(caches[10], 40)
    load(folder, 10)  # uses it
    assert caches[9].exists() and caches[10].exists() and not caches[8].exists()
    (line,) = caplog.messages
    assert line == f"removed the cache {caches[8]}, which was not used for 31 days"


def test_only_folders_that_are_certainly_caches_are_removed(folder, caplog):
    load(folder)
    places = folder / "cache"
    name = "0123456789ab-8"
    mine = [places / other for other in ("photos", "0123456789ab", "0123456789ab-8x", "cat-8")]
    for path in (*mine, places / name):
        path.mkdir()
        (path / "images.npy").touch()
    (places / name / "mine.txt").touch()
    outside = folder / "outside"
    outside.mkdir()
    (outside / "images.npy").touch()
    (places / "0123456789ac-8").symlink_to(outside)
    (places / "0123456789ad-8").touch()
    for path in (
        *mine,
        places / name,
        outside,
        places / "0123456789ac-8",
        places / "0123456789ad-8",
    ):
        age(path, 100)
    before = sorted(folder.rglob("*"))
    load(folder)
    assert sorted(folder.rglob("*")) == before and not caplog.messages


def test_what_a_killed_process_left_is_removed_a_day_later(folder):
    places = folder / "cache"
    old, new = (places / f".{digits}.0123456789ab-8" for digits in ("0123abcd", "4567cdef"))
    for path in (old, new, places / ".mine"):
        path.mkdir(parents=True)
        (path / "images.npy").touch()
    age(old, 2), age(places / ".mine", 2)
    load(folder)
    assert {path.name for path in places.iterdir()} >= {new.name, ".mine"}
    assert not old.exists()


def test_the_disk_space_of_a_large_cache_is_announced(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(cache, "WORTH_A_LINE", 1000)
    found = index.find(draw_photos(tmp_path / "photos" / "train", 3).parent)
    cache.images(found, 8, tmp_path / "cache")
    cache.images(found, 8, tmp_path / "cache")
    assert [record.message.split()[0] for record in caplog.records] == ["Decoding"]
    assert caplog.records[0].message.endswith("of disk")
