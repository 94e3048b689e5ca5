"""Downloading and unpacking, against a server on this machine that misbehaves on demand."""

import hashlib
import io
import os
import random
import re
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from catdog.errors import UserError
from catdog.photos import download
from catdog.photos.download import download_photos, fetch

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
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
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
    with pytest.raises(UserError, match="503"):
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


@pytest.mark.parametrize("behaviour", ["ignore range", 416, "no length"])
@pytest.mark.parametrize("old", [CONTENT[:1000], b"another file", CONTENT + b"x"])
def test_fetch_when_the_server_cannot_resume(server, tmp_path, behaviour, old):
    (tmp_path / "photos.zip.part").write_bytes(old)
    server.behaviours = [behaviour]
    if old != CONTENT[:1000] and (behaviour == "no length" or len(old) > len(CONTENT)):
        with pytest.raises(UserError, match="expected"):
            fetch_content(server, tmp_path)
        assert os.listdir(tmp_path) == []
        server.behaviours.clear()
    assert fetch_content(server, tmp_path).read_bytes() == CONTENT


def test_fetch_keeps_nothing_of_a_part_that_cannot_be_resumed(server, tmp_path):
    (tmp_path / "photos.zip.part").write_bytes(bytes(HALF + 1000))
    server.behaviours = [416, "break"] + [503] * (download.ATTEMPTS - 1)
    with pytest.raises(UserError, match="503"):
        fetch_content(server, tmp_path)
    assert (tmp_path / "photos.zip.part").read_bytes() == CONTENT[:HALF]


def test_fetch_wrong_sum(server, tmp_path):
    with pytest.raises(UserError, match=f"expected sha256 {'0' * 64}, got {SUM}"):
        fetch_content(server, tmp_path, sha256="0" * 64)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("behaviour", ["normal", "no length"])
def test_fetch_more_than_expected(server, tmp_path, behaviour):
    server.behaviours = [behaviour]
    server.content = CONTENT + bytes(8 * download.CHUNK)
    written = []
    with pytest.raises(UserError, match="expected 300,000 bytes"):
        fetch_content(server, tmp_path, progress=lambda done, total: written.append(done))
    assert not (tmp_path / "photos.zip").exists()
    assert written.count(len(CONTENT)) < 3  # it stopped at the first byte too many
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) == 0


def test_fetch_fewer_than_expected(server, tmp_path):
    with pytest.raises(UserError, match=r"expected 300,001 bytes.* 300,000"):
        fetch_content(server, tmp_path, size=len(CONTENT) + 1)
    assert len(server.requests) == 1


def test_fetch_not_found(server, tmp_path):
    server.behaviours = [404]
    with pytest.raises(UserError, match=f"^{re.escape(server.url)}: the server answered 404$"):
        fetch_content(server, tmp_path)
    assert len(server.requests) == 1


def test_fetch_from_something_else(server, tmp_path):
    server.behaviours = ["garbage"]
    with pytest.raises(UserError, match="no HTTP") as caught:
        fetch_content(server, tmp_path)
    assert str(caught.value).isprintable()


def test_fetch_stalling_server(server, tmp_path):
    server.behaviours = ["stall"] * download.ATTEMPTS
    with pytest.raises(UserError, match="timed out"):
        fetch_content(server, tmp_path, timeout=0.3)
    assert (tmp_path / "photos.zip.part").read_bytes() == CONTENT[:HALF]
    server.behaviours = ["stall"]
    path = fetch_content(server, tmp_path, timeout=0.3)
    assert path.read_bytes() == CONTENT


def test_fetch_no_server(server, tmp_path):
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=f"^{url}: Connection refused$"):
        fetch(url, tmp_path / "photos.zip", len(CONTENT), SUM)


def test_fetch_through_a_proxy(server, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/photos.zip"))
    url = "http://photos.invalid/photos.zip"
    assert fetch(url, tmp_path / "photos.zip", len(CONTENT), SUM).read_bytes() == CONTENT
    assert server.requests == [(url, None)]


@pytest.mark.parametrize("url", ["http://127.0.0.1:x/", "http://[1/", "http:///x", "http://a b/"])
def test_fetch_impossible_address(tmp_path, url):
    with pytest.raises(UserError):
        fetch(url, tmp_path / "photos.zip", len(CONTENT), SUM)


def test_fetch_leaves_another_file_alone(server, tmp_path):
    (tmp_path / "photos.zip").write_bytes(b"mine")
    with pytest.raises(UserError, match="expected 300,000 bytes, got 4"):
        fetch_content(server, tmp_path)
    assert (tmp_path / "photos.zip").read_bytes() == b"mine"


def test_fetch_disk_errors(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="file"):
        fetch_content(server, tmp_path / "file")
    if os.path.exists("/dev/full"):
        (tmp_path / "photos.zip.part").symlink_to("/dev/full")
        with pytest.raises(UserError, match="No space left on device"):
            fetch_content(server, tmp_path)


def make_archive(path, entries):
    """Write `entries`: (name, bytes)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in entries:
            bundle.writestr(name, content)
    return path


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
    with pytest.raises(UserError, match="PetImages"):
        download_photos(data_dir, **arguments)


def test_download_photos_stopped_at_any_moment(server, tmp_path, photos, monkeypatch):
    arguments, contents = photos

    def stop(*args):
        raise KeyboardInterrupt

    def go_on(*args):
        pass

    extract = zipfile.ZipFile._extract_member

    def stop_later(bundle, member, *rest):
        if "Dog" in str(member):
            raise KeyboardInterrupt
        return extract(bundle, member, *rest)

    for progress, unpack in ((stop, extract), (go_on, stop), (go_on, stop_later)):
        monkeypatch.setattr(zipfile.ZipFile, "_extract_member", unpack)
        with pytest.raises(KeyboardInterrupt):
            download_photos(tmp_path, progress, **arguments)
        assert {name.removesuffix(".part") for name in os.listdir(tmp_path)} == {".photos.zip"}
    monkeypatch.setattr(zipfile.ZipFile, "_extract_member", extract)
    download_photos(tmp_path, **arguments)
    assert os.listdir(tmp_path) == ["PetImages"]
    assert len(server.requests) == 1
    assert {path: (tmp_path / path).read_bytes() for path in contents} == contents


def test_download_photos_uses_the_users_archive(server, tmp_path, photos):
    arguments, _ = photos
    (tmp_path / "photos.zip").write_bytes(server.content)
    download_photos(tmp_path, **arguments)
    assert sorted(os.listdir(tmp_path)) == ["PetImages", "photos.zip"]
    assert server.requests == []


def test_download_photos_disk_errors(server, tmp_path, photos, monkeypatch):
    arguments, _ = photos
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="file"):
        download_photos(tmp_path / "file", **arguments)
    monkeypatch.setattr("shutil.disk_usage", lambda path: FullDisk)
    with pytest.raises(UserError, match="free disk space"):
        download_photos(tmp_path, **arguments)
    assert server.requests == []
    assert os.listdir(tmp_path) == ["file"]


def test_the_public_copy_is_pinned():
    assert download.URL.startswith("https://") and download.URL.endswith(".zip")
    assert download.SIZE == 824_887_076
    assert re.fullmatch("[0-9a-f]{64}", download.SHA256)


def test_a_file_in_the_place_of_the_default_folder_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tmp").write_text("")
    with pytest.raises(UserError, match="expected a folder, got tmp"):
        download.ensure_photos("tmp", "tmp/cache")
