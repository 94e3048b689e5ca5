"""Downloading and unpacking, against a server on this machine that misbehaves on demand."""

import hashlib
import io
import os
import random
import re
import stat
import struct
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from catdog.photos import download
from catdog.photos.download import DownloadError, download_photos, fetch, unpack

CONTENT = random.Random(0).randbytes(300_000)
SUM = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


class Server(ThreadingHTTPServer):
    """Serves `content`; `behaviours` are used up one a request, then it behaves."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.behaviours, self.requests = CONTENT, [], []
        self.released = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/photos.zip"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        content, asked = self.server.content, self.headers["Range"]
        behaviour = self.server.behaviours.pop(0) if self.server.behaviours else "normal"
        self.server.requests.append((self.path, asked))
        if behaviour in (404, 416, 503):
            return self.send_error(behaviour)
        if behaviour == "garbage":
            return self.wfile.write(b"\x1b[31mno HTTP\r\n\r\n")
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
        if behaviour == "ignore range":
            start = 0
        self.send_response(206 if start else 200)
        if start:
            shown = start - 1 if behaviour == "wrong range" else start
            self.send_header("Content-Range", f"bytes {shown}-{len(content) - 1}/{len(content)}")
        if behaviour != "no length":
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = HALF if behaviour in ("break", "stall") else len(content)
        self.wfile.write(content[start:end])
        if behaviour == "stall":
            self.wfile.flush()
            self.server.released.wait(3)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0)
    monkeypatch.setattr("urllib.request._opener", None)  # it remembers the proxies
    monkeypatch.setenv("no_proxy", "*")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


def fetch_content(server, folder, **changes):
    arguments = {"size": len(CONTENT), "sha256": SUM, "timeout": 5} | changes
    return fetch(server.url, folder / "photos.zip", **arguments)


def test_fetch(server, tmp_path):
    seen = []
    path = fetch_content(server, tmp_path, progress=lambda *state: seen.append(state))
    assert path == tmp_path / "photos.zip"
    assert path.read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["photos.zip"]
    assert seen == sorted(seen) and seen[-1] == (len(CONTENT), len(CONTENT))
    fetch_content(server, tmp_path)
    assert len(server.requests) == 1  # the second call used what was there


def test_fetch_goes_on_where_the_connection_broke_off(server, tmp_path):
    server.behaviours = ["break"]
    assert fetch_content(server, tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [None, f"bytes={HALF}-"]


def test_fetch_gives_up_and_the_next_call_goes_on(server, tmp_path):
    server.behaviours = ["break"] + [503] * (download.ATTEMPTS - 1)
    with pytest.raises(DownloadError, match="503"):
        fetch_content(server, tmp_path)
    assert os.listdir(tmp_path) == ["photos.zip.part"]
    assert (tmp_path / "photos.zip.part").read_bytes() == CONTENT[:HALF]
    assert fetch_content(server, tmp_path).read_bytes() == CONTENT
    assert server.requests[-1][1] == f"bytes={HALF}-"
    assert len(server.requests) == download.ATTEMPTS + 1


def test_fetch_interrupted_goes_on_later(server, tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_content(server, tmp_path, progress=interrupt)
    assert os.listdir(tmp_path) == ["photos.zip.part"]
    had = (tmp_path / "photos.zip.part").stat().st_size
    assert had > 0
    assert fetch_content(server, tmp_path).read_bytes() == CONTENT
    assert had == len(CONTENT) or server.requests[-1][1] == f"bytes={had}-"


@pytest.mark.parametrize("behaviour", ["ignore range", "wrong range", 416, "no length"])
@pytest.mark.parametrize("old", [CONTENT[:1000], b"another file", CONTENT + b"x"])
def test_fetch_when_the_server_cannot_resume(server, tmp_path, behaviour, old):
    (tmp_path / "photos.zip.part").write_bytes(old)
    server.behaviours = [behaviour]
    if old != CONTENT[:1000] and (behaviour == "no length" or len(old) > len(CONTENT)):
        with pytest.raises(DownloadError, match="expected"):
            fetch_content(server, tmp_path)
        assert os.listdir(tmp_path) == []
        server.behaviours.clear()
    assert fetch_content(server, tmp_path).read_bytes() == CONTENT


def test_fetch_keeps_nothing_of_a_part_that_cannot_be_resumed(server, tmp_path):
    (tmp_path / "photos.zip.part").write_bytes(bytes(HALF + 1000))
    server.behaviours = ["wrong range", "break"] + [503] * (download.ATTEMPTS - 1)
    with pytest.raises(DownloadError, match="503"):
        fetch_content(server, tmp_path)
    assert (tmp_path / "photos.zip.part").read_bytes() == CONTENT[:HALF]


def test_fetch_wrong_sum(server, tmp_path):
    with pytest.raises(DownloadError, match=f"expected sha256 {'0' * 64}, got {SUM}"):
        fetch_content(server, tmp_path, sha256="0" * 64)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("behaviour", ["normal", "no length"])
def test_fetch_more_than_expected(server, tmp_path, behaviour):
    server.behaviours = [behaviour]
    server.content = CONTENT + bytes(8 * download.CHUNK)
    written = []
    with pytest.raises(DownloadError, match="expected 300,000 bytes"):
        fetch_content(server, tmp_path, progress=lambda done, total: written.append(done))
    assert not (tmp_path / "photos.zip").exists()
    assert written.count(len(CONTENT)) < 3  # it stopped at the first byte too many
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) == 0


def test_fetch_fewer_than_expected(server, tmp_path):
    with pytest.raises(DownloadError, match=r"expected 300,001 bytes.* 300,000"):
        fetch_content(server, tmp_path, size=len(CONTENT) + 1)
    assert len(server.requests) == 1


def test_fetch_not_found(server, tmp_path):
    server.behaviours = [404]
    with pytest.raises(DownloadError, match=f"^{re.escape(server.url)}: the server answered 404$"):
        fetch_content(server, tmp_path)
    assert len(server.requests) == 1


def test_fetch_from_something_else(server, tmp_path):
    server.behaviours = ["garbage"]
    with pytest.raises(DownloadError, match="no HTTP") as caught:
        fetch_content(server, tmp_path)
    assert str(caught.value).isprintable()


def test_fetch_stalling_server(server, tmp_path):
    server.behaviours = ["stall"] * download.ATTEMPTS
    with pytest.raises(DownloadError, match="timed out"):
        fetch_content(server, tmp_path, timeout=0.3)
    assert (tmp_path / "photos.zip.part").read_bytes() == CONTENT[:HALF]
    server.behaviours = ["stall"]
    path = fetch_content(server, tmp_path, timeout=0.3)
    assert path.read_bytes() == CONTENT


def test_fetch_no_server(server, tmp_path):
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError, match=f"^{url}: Connection refused$"):
        fetch(url, tmp_path / "photos.zip", len(CONTENT), SUM)


def test_fetch_through_a_proxy(server, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/photos.zip"))
    url = "http://photos.invalid/photos.zip"
    assert fetch(url, tmp_path / "photos.zip", len(CONTENT), SUM).read_bytes() == CONTENT
    assert server.requests == [(url, None)]


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "photos.zip", ""])
def test_fetch_other_addresses(tmp_path, url):
    with pytest.raises(DownloadError, match="http or https"):
        fetch(url, tmp_path / "photos.zip", len(CONTENT), SUM)


@pytest.mark.parametrize("url", ["http://127.0.0.1:x/", "http://[1/", "http:///x", "http://a b/"])
def test_fetch_impossible_address(tmp_path, url):
    with pytest.raises(DownloadError):
        fetch(url, tmp_path / "photos.zip", len(CONTENT), SUM)


def test_fetch_leaves_another_file_alone(server, tmp_path):
    (tmp_path / "photos.zip").write_bytes(b"mine")
    with pytest.raises(DownloadError, match="expected 300,000 bytes, got 4"):
        fetch_content(server, tmp_path)
    assert (tmp_path / "photos.zip").read_bytes() == b"mine"


def test_fetch_disk_errors(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match="file"):
        fetch_content(server, tmp_path / "file")
    if os.path.exists("/dev/full"):
        (tmp_path / "photos.zip.part").symlink_to("/dev/full")
        with pytest.raises(DownloadError, match="No space left on device"):
            fetch_content(server, tmp_path)


def make_archive(path, entries):
    """`entries`: (name or ZipInfo, bytes), written as they are, however bad."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in entries:
            bundle.writestr(name, content)
    return path


def with_mode(mode, name="PetImages/link"):
    entry = zipfile.ZipInfo(name)
    entry.create_system = 3
    entry.external_attr = mode << 16
    return entry


def assert_refused(archive, tmp_path, reason, **limits):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DownloadError, match=reason) as caught:
        unpack(archive, tmp_path / "inner" / "target", **limits)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before
    return str(caught.value)


@pytest.fixture
def inner(tmp_path):
    (tmp_path / "inner").mkdir()
    return tmp_path / "inner"


def test_unpack(tmp_path):
    photos = {f"PetImages/Cat/{n}.jpg": random.Random(n).randbytes(n * 999) for n in range(5)}
    archive = make_archive(
        tmp_path / "a.zip",
        [("PetImages/", b""), ("readme[1].txt", b"hello" * 999), ("empty/", b""), *photos.items()],
    )
    seen = []
    folder = unpack(archive, tmp_path / "target", progress=lambda *state: seen.append(state))
    assert folder == tmp_path / "target"
    assert (folder / "empty").is_dir()
    assert (folder / "readme[1].txt").read_bytes() == b"hello" * 999
    for name, content in photos.items():
        assert (folder / name).read_bytes() == content
    assert sorted(os.listdir(tmp_path)) == ["a.zip", "target"]
    assert seen == sorted(seen) and seen[-1] == (5 * 999 + 10 * 999,) * 2
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask


def test_unpack_never_overwrites(tmp_path):
    archive = make_archive(tmp_path / "a.zip", [("a", b"new")])
    (tmp_path / "target").mkdir()
    with pytest.raises(DownloadError, match="target"):
        unpack(archive, tmp_path / "target")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DownloadError, match="dangling"):
        unpack(archive, tmp_path / "dangling")
    assert os.listdir(tmp_path / "target") == []


@pytest.mark.parametrize(
    "name",
    [
        "../out", "a/../../out", "a/..", "..", "/out", "//host/out", "C:/out", "C:out", "a/./b",
        "..\\out", "a\\b", "a//b", "a/file:stream", "a\nb", "a\x1b[31mb", "dots.../a", "space /a",
        "x" * 300, "a/" * 150 + "b",
    ],
)  # fmt: skip
def test_unpack_refuses_names(tmp_path, inner, name):
    archive = make_archive(tmp_path / "a.zip", [("good", b"good"), (name, b"bad")])
    reason = assert_refused(archive, tmp_path, "not a plain relative path")
    assert repr(name)[1:20] in reason


def test_unpack_refuses_nul_in_a_name(tmp_path, inner):
    archive = make_archive(tmp_path / "a.zip", [("good", b"good"), ("aXb", b"bad")])
    archive.write_bytes(archive.read_bytes().replace(b"aXb", b"a\0b"))
    assert_refused(archive, tmp_path, "not a plain relative path")


@pytest.mark.parametrize(
    "names",
    [
        ("Cat/1.jpg", "cat/1.jpg"), ("a", "A"), ("a", "a"), ("a", "a/b"), ("a/b", "a"),
        ("a/b", "A/c"), ("straße", "STRASSE"), ("\u00e9", "e\u0301"), ("a", "A/"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_unpack_refuses_names_that_collide(tmp_path, inner, names):
    archive = make_archive(tmp_path / "a.zip", [(name, b"x" * (name[-1] != "/")) for name in names])
    reason = assert_refused(archive, tmp_path, "another entry has this name")
    assert repr(names[1]) in reason


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_unpack_refuses_special_entries(tmp_path, inner, kind):
    link = with_mode(kind | 0o777)
    archive = make_archive(tmp_path / "a.zip", [(link, b"/etc"), ("PetImages/link/x", b"bad")])
    assert_refused(archive, tmp_path, "'PetImages/link': it is a link or another special file")


def test_unpack_takes_regular_entries(tmp_path):
    entries = [
        (with_mode(stat.S_IFREG | 0o6777, "a"), b"a"),
        (with_mode(stat.S_IFDIR | 0o755, "b/"), b""),
    ]
    folder = unpack(make_archive(tmp_path / "a.zip", entries), tmp_path / "target")
    assert not (folder / "a").stat().st_mode & (stat.S_ISUID | stat.S_ISGID)
    assert (folder / "b").is_dir()


def patch_entry(archive, name, announced=None, crc=None, flags=None, method=None):
    """Changes what the archive's directory says about an entry."""
    data = bytearray(archive.read_bytes())
    at = data.rindex(name.encode()) - 46
    assert data[at : at + 4] == b"PK\x01\x02"
    for offset, code, value in (
        (8, "<H", flags), (10, "<H", method), (16, "<L", crc), (24, "<L", announced)
    ):  # fmt: skip
        if value is not None:
            struct.pack_into(code, data, at + offset, value)
    archive.write_bytes(data)


@pytest.mark.parametrize("stored", [False, True])
def test_unpack_refuses_more_than_announced(tmp_path, inner, stored):
    bomb = zipfile.ZipInfo("bomb")
    bomb.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
    archive = make_archive(tmp_path / "a.zip", [("good", b"good"), (bomb, bytes(10_000_000))])
    for crc in (zipfile.crc32(bytes(100)), zipfile.crc32(bytes(101))):
        patch_entry(archive, "bomb", announced=100, crc=crc)
        assert_refused(archive, tmp_path, "entry 'bomb'")


def test_unpack_refuses_fewer_than_announced(tmp_path, inner):
    archive = make_archive(tmp_path / "a.zip", [("good", b"good"), ("short", b"x" * 100)])
    patch_entry(archive, "short", announced=1000)
    assert_refused(archive, tmp_path, "entry 'short': expected the announced 1,000 bytes")


def test_unpack_refuses_wrong_crc(tmp_path, inner):
    archive = make_archive(tmp_path / "a.zip", [("good", b"good"), ("changed", b"x" * 100)])
    patch_entry(archive, "changed", crc=1)
    assert_refused(archive, tmp_path, "entry 'changed': Bad CRC")


def test_unpack_refuses_encrypted_and_odd_compression(tmp_path, inner):
    archive = make_archive(tmp_path / "a.zip", [("secret", b"x" * 100)])
    patch_entry(archive, "secret", method=zipfile.ZIP_LZMA)
    assert_refused(archive, tmp_path, "entry 'secret': its compression")
    patch_entry(archive, "secret", flags=1)
    assert_refused(archive, tmp_path, "entry 'secret': it is encrypted")


def test_unpack_refuses_too_much(tmp_path, inner, monkeypatch):
    archive = make_archive(tmp_path / "a.zip", [("a", bytes(600)), ("b", bytes(600))])
    assert_refused(archive, tmp_path, "entry 'b'.*too many", max_bytes=1199)
    patch_entry(archive, "b", announced=download.MAX_ENTRY_BYTES + 1)
    assert_refused(archive, tmp_path, "entry 'b'.*too many")
    monkeypatch.setattr(download, "MAX_ENTRIES", 1)
    assert_refused(archive, tmp_path, "2 entries")


def test_unpack_refuses_broken_archives(tmp_path, inner):
    archive = make_archive(
        tmp_path / "a.zip", [(f"{n}.jpg", random.Random(n).randbytes(100)) for n in range(3)]
    )
    whole = archive.read_bytes()
    for end in range(0, len(whole), 7):
        archive.write_bytes(whole[:end])
        assert_refused(archive, tmp_path, "a.zip")
    archive.write_bytes(whole[200:])  # a piece in front is missing
    assert_refused(archive, tmp_path, "a.zip")


def test_unpack_survives_changed_bytes(tmp_path, inner):
    """Whatever is changed: the right photos in the right place, or one line and no trace."""
    contents = [random.Random(n).randbytes(50) for n in range(3)]
    archive = make_archive(tmp_path / "a.zip", [(f"c/{n}", x) for n, x in enumerate(contents)])
    whole = archive.read_bytes()
    rng = random.Random(1)
    refused = 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2, 8))):
            data[rng.randrange(len(data))] = rng.choice((0, 1, 0x2E, 0x2F, 0x7F, 0xFF))
        archive.write_bytes(data)
        try:
            folder = unpack(archive, inner / "target")
        except DownloadError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            files = [path for path in folder.rglob("*") if path.is_file()]
            assert all(path.read_bytes() in contents for path in files)
            folder.rename(tmp_path / "done")
            for path in sorted((tmp_path / "done").rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            (tmp_path / "done").rmdir()
        assert os.listdir(inner) == []
        assert sorted(os.listdir(tmp_path)) == ["a.zip", "inner"]
    assert 200 < refused < 400


def test_unpack_leaves_nothing_when_stopped(tmp_path, inner, monkeypatch):
    def interrupt(done, total):
        assert any(inner.iterdir())  # it had begun
        raise KeyboardInterrupt

    archive = make_archive(tmp_path / "a.zip", [("a", b"a"), ("b", b"b")])
    with pytest.raises(KeyboardInterrupt):
        unpack(archive, inner / "target", progress=interrupt)
    assert os.listdir(inner) == []
    too_long_for_disks = make_archive(tmp_path / "b.zip", [("a", b"a"), ("é" * 200, b"b")])
    assert_refused(too_long_for_disks, tmp_path, "entry 'éé.*too long")
    monkeypatch.setattr("shutil.disk_usage", lambda path: FullDisk)
    assert_refused(archive, tmp_path, "free disk space")


class FullDisk:
    free = 1000


@pytest.fixture
def photos(server):
    """The server's archive has the layout of the public copy. Returns arguments and contents."""
    contents = {
        f"PetImages/{name}/{n}.jpg": f"{name} {n}".encode() * 500
        for name in ("Cat", "Dog")
        for n in range(3)
    }
    papers = {"readme[1].txt": b"read me", "MSR-LA - 3467.docx": b"licence"}
    packed = io.BytesIO()
    make_archive(packed, (contents | papers).items())
    server.content = packed.getvalue()
    sha256 = hashlib.sha256(server.content).hexdigest()
    return {"url": server.url, "size": len(server.content), "sha256": sha256}, contents


def test_download_photos(server, tmp_path, photos):
    arguments, contents = photos
    seen = []
    data_dir = tmp_path / "new" / "data"
    folder = download_photos(data_dir, lambda *state: seen.append(state), **arguments)
    assert folder == data_dir / "PetImages"
    assert os.listdir(data_dir) == ["PetImages"]
    assert {path: (data_dir / path).read_bytes() for path in contents} == contents
    assert sorted(os.listdir(folder)) == ["Cat", "Dog", "MSR-LA - 3467.docx", "readme[1].txt"]
    assert (arguments["size"],) * 2 in seen and seen[-1][0] == seen[-1][1]
    with pytest.raises(DownloadError, match="PetImages"):
        download_photos(data_dir, **arguments)


def test_download_photos_stopped_at_any_moment(server, tmp_path, photos):
    arguments, contents = photos
    moments = 0

    def stop(done, total):
        nonlocal moments
        moments += 1
        if moments in (1, 4, 8):
            raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            download_photos(tmp_path, stop, **arguments)
        assert {name.removesuffix(".part") for name in os.listdir(tmp_path)} == {".photos.zip"}
    download_photos(tmp_path, stop, **arguments)
    assert os.listdir(tmp_path) == ["PetImages"]
    assert len(server.requests) == 1
    assert {path: (tmp_path / path).read_bytes() for path in contents} == contents


def test_download_photos_uses_the_users_archive(server, tmp_path, photos):
    arguments, _ = photos
    (tmp_path / "photos.zip").write_bytes(server.content)
    download_photos(tmp_path, **arguments)
    assert sorted(os.listdir(tmp_path)) == ["PetImages", "photos.zip"]
    assert server.requests == []


def test_download_photos_without_photos(server, tmp_path, photos):
    arguments, _ = photos
    packed = io.BytesIO()
    make_archive(packed, [("PetImages/Cat/1.jpg", b"cat")])
    server.content = packed.getvalue()
    arguments["size"] = len(server.content)
    arguments["sha256"] = hashlib.sha256(server.content).hexdigest()
    with pytest.raises(DownloadError, match="PetImages/Dog"):
        download_photos(tmp_path, **arguments)
    assert not (tmp_path / "PetImages").exists()


def test_download_photos_disk_errors(server, tmp_path, photos, monkeypatch):
    arguments, _ = photos
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match="file"):
        download_photos(tmp_path / "file", **arguments)
    monkeypatch.setattr("shutil.disk_usage", lambda path: FullDisk)
    with pytest.raises(DownloadError, match="free disk space"):
        download_photos(tmp_path, **arguments)
    assert server.requests == []
    assert os.listdir(tmp_path) == ["file"]


def test_the_public_copy_is_pinned():
    assert download.URL.startswith("https://") and download.URL.endswith(".zip")
    assert download.SIZE == 824_887_076
    assert re.fullmatch("[0-9a-f]{64}", download.SHA256)
