"""The three scripts on a folder of everything that is no good photo."""

import json
import os
import random
import resource
import struct
import sys
import zlib

import pytest

from catdog.photos.photo import PhotoError, load_photo
from conftest import draw_photos, run_script
from photo_files import ENCODINGS, EXTREMES, png_chunk

BROKEN = int(os.environ.get("BROKEN_PHOTOS", 1000))


def png(width, height, data=b""):
    """A PNG of any size with any pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(data))
        + png_chunk(b"IEND", b"")
    )


def broken(rng):
    """A real encoding of some accepted format with one to four wounds."""
    content = bytearray(ENCODINGS[rng.choice(sorted(ENCODINGS))][0])
    for _ in range(rng.randint(1, 4)):
        place = rng.choice([rng.randrange(len(content)), rng.randrange(min(64, len(content)))])
        match rng.randrange(4):
            case 0:
                content[place] ^= 1 << rng.randrange(8)
            case 1:
                new = rng.choice([*EXTREMES, rng.randbytes(4)])
                content[place : place + len(new)] = new
            case 2:
                content[place:place] = rng.randbytes(rng.randint(1, 40)) * rng.randint(1, 50)
            case 3:
                del content[max(1, place) :]
    return bytes(content)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """(folder, names of what cannot be a photo, with the reason) beside 120 good photos."""
    root = tmp_path_factory.mktemp("hostile")
    folder = draw_photos(root / "train", 60)
    reasons = {
        "cat.1000.png": (png(30_000, 30_000, bytes(2**24)), "limit of 89 megapixels"),
        "cat.1001.png": (png(2**31 - 1, 2**31 - 1), "limit of 89 megapixels"),
        "cat.1002.png": (png(9000, 9000, b"\0"), "truncated|damaged"),
        "cat.1003.jpg": (b"", "is empty"),
        "cat.1004.jpg": (b"<html>", "got a web page"),
        "dog.1005.png": (png(0, 10), "damaged|no pixels"),
    }
    for name, (content, _) in reasons.items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "dog.2000.jpg")
    (folder / "dog.2001.jpg").symlink_to("/dev/zero")
    (folder / "dog.2002.jpg").symlink_to("dog.2003.jpg")
    (folder / "dog.2003.jpg").symlink_to("dog.2002.jpg")
    (folder / "dog.2004.jpg").symlink_to("nowhere")
    (folder / "cat.2005.jpg").mkdir()
    with open(folder / "cat.2006.jpg", "wb") as file:
        file.truncate(2**33)
    reasons |= {
        name: (None, reason)
        for name, reason in {
            "dog.2000.jpg": "not a regular file",
            "dog.2001.jpg": "not a regular file",
            "dog.2002.jpg": "too many levels of symbolic links",
            "dog.2003.jpg": "too many levels of symbolic links",
            "dog.2004.jpg": "broken link",
            "cat.2005.jpg": "a folder",
            "cat.2006.jpg": "larger than the limit",
        }.items()
    }
    rng = random.Random(0)
    for number in range(BROKEN):
        name = f"{rng.choice(('cat', 'dog'))}.{10_000 + number}.{rng.choice(('jpg', 'png'))}"
        (folder / name).write_bytes(content := broken(rng))
        try:
            load_photo(content, 40)
        except PhotoError as error:
            reasons[name] = (None, str(error))
    return root, {name: reason for name, (_, reason) in reasons.items()}


def limit_memory():
    """12 GB of addresses: TensorFlow takes five; a bomb would need more."""
    resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30, 12 * 2**30))


@pytest.mark.slow
def test_no_bad_file_stops_a_script_and_each_is_named_with_its_reason(hostile, tmp_path):
    root, reasons = hostile
    options = ["--data-dir", root, "--cache-dir", tmp_path / "cache"]
    limits = {"preexec_fn": limit_memory}
    train = run_script(
        "train.py",
        *options,
        "--arch",
        "classic",
        "--image-size",
        32,
        "--epochs",
        1,
        "--output",
        tmp_path / "run",
        **limits,
    )
    assert train.returncode == 0, train.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    found = len(reasons) - 1  # the folder cat.2005.jpg is not taken for a photo
    assert config["skipped"] == found > BROKEN / 4
    evaluate = run_script("evaluate.py", *options, "--model", tmp_path / "run", "--json", **limits)
    assert evaluate.returncode == 0, evaluate.stderr
    assert json.loads(evaluate.stdout)["skipped"] == found

    # Folders are searched for photos, so that the broken links and the folder are not among them.
    names = os.listdir(os.fsencode(root / "train"))
    odd = os.path.join(os.fsencode(root), b"\xff\n\x1b[31m.jpg")
    with open(odd, "wb") as file:
        file.write(b"<html>")
    listed = b"\0".join(os.path.join(os.fsencode(root / "train"), name) for name in names)
    (tmp_path / "list").write_bytes(listed + b"\0" + odd + b"\0")
    with open(tmp_path / "list", "rb") as file:
        predict = run_script(
            "predict.py", "--model", tmp_path / "run", "-0", "-", "--json", stdin=file, **limits
        )
    assert predict.returncode == 1, predict.stderr
    failed = {
        os.path.basename(line["path"]): line["error"]
        for line in map(json.loads, predict.stdout.splitlines())
        if "error" in line
    }
    assert failed.pop("\\xff\\n\\x1b[31m.jpg").endswith("got a web page; download the photo itself")
    del reasons["cat.2005.jpg"], failed["cat.2005.jpg"]
    assert failed.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert any(part in failed[name] for part in [reason, *reason.split("|")]), name
    assert all(line.isprintable() for line in predict.stderr.splitlines())
    assert "Traceback" not in train.stderr + evaluate.stderr + predict.stderr
    print(f"{len(reasons)} of {BROKEN + 13} bad files refused", file=sys.stderr)
