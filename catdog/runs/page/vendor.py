"""Fetch LiteRT.js from npm into the folder `litertjs`, for maintainers.

    python -m catdog.runs.page.vendor

To update, set VERSION and SHA512 (from `npm view @litertjs/core@VERSION dist.integrity`), run this
and the slow tests. Neither the tests nor `write_page` need the network.
"""

import base64
import gzip
import hashlib
import io
import tarfile
import urllib.request
from pathlib import Path

VERSION = "2.5.3"
SHA512 = "PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ=="
URL = f"https://registry.npmjs.org/@litertjs/core/-/core-{VERSION}.tgz"
FOLDER = Path(__file__).parent / "litertjs"
# The compat build needs no relaxed SIMD, which Safari lacks, and no threads, which file:// lacks.
FILES = {
    "core.js": "package/dist/index.js",
    "litert_wasm.js": "package/wasm/litert_wasm_compat_internal.js",
    "litert_wasm.wasm.gz": "package/wasm/litert_wasm_compat_internal.wasm",
}


def unpack(archive: bytes, folder: Path) -> None:
    """Write the files of the npm package that the page needs, and their sha256.

    Args:
        archive: the content of the package's .tgz file.
        folder: where `FILES` and `SHA256SUMS` are written; the .wasm file is compressed.
    Raises:
        ValueError: the archive is not the one that SHA512 names.
    """
    digest = base64.b64encode(hashlib.sha512(archive).digest()).decode()
    if digest != SHA512:
        raise ValueError(f"expected {URL} with the sha512 {SHA512}, got {digest}")
    sums = []
    with tarfile.open(fileobj=io.BytesIO(archive)) as package:
        for name, member in FILES.items():
            content = package.extractfile(member).read()
            if name.endswith(".gz"):
                content = gzip.compress(content, 9, mtime=0)
            (folder / name).write_bytes(content)
            sums.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
    (folder / "SHA256SUMS").write_text("".join(sums))


if __name__ == "__main__":
    with urllib.request.urlopen(URL, timeout=60) as response:
        unpack(response.read(), FOLDER)
