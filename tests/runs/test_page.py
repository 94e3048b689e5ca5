"""The page: what is in the file, and what a browser makes of it (slow)."""

import base64
import gzip
import hashlib
import io
import json
import logging
import re
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import model
from browser import Browser
from catdog.errors import UserError
from catdog.photos import drawings
from catdog.photos.photo import load_photo
from catdog.runs import answer, novelty, page
from catdog.runs.classifier import Classifier
from catdog.runs.page import convert, vendor
from catdog.runs.run import Run
from conftest import ROOT, network_file

HOSTILE = '</script><img src=x onerror="document.title=1">'
CARDS = """Array.from(document.querySelectorAll(".card"), (card) => ({
  ...card.dataset,
  name: card.querySelector(".name").textContent,
  rows: card.querySelectorAll(".rows li").length,
  map: card.querySelector(".photo")?.disabled === false,
}))"""


def make_run(folder, classes, **config):
    """A run directory with nothing but a config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"classes": classes, "score_size": 32, "temperature": 2.0, **config}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def network_of(arch, classes, size):
    """The graph of an untrained network, whose logits differ from photo to photo."""
    import keras

    keras.utils.set_random_seed(0)
    return answer.Graph(model.build(arch, classes, size), size).answering


def stand_in(size=32):
    """What `fill_page` asks of a network, without Keras."""
    return SimpleNamespace(input_shape=(None, size, size, 3), count_params=lambda: 1234567)


def filled(run, content=b"network"):
    return page.fill_page(Run(run), stand_in(), content)


def content_of(text, part):
    """The bytes of one part of a page."""
    packed = re.search(rf'id="{part}">([^<]*)<', text)[1]
    return gzip.decompress(base64.b85decode(packed.replace(",", "<")))


def network_in(path):
    """The .tflite file that a page holds."""
    return content_of(path.read_text(encoding="utf-8"), "network")


# --- The file -------------------------------------------------------------------------------------


def test_vendored_files_have_their_checksums():
    lines = (vendor.FOLDER / "SHA256SUMS").read_text().splitlines()
    assert {line.split()[1] for line in lines} == set(vendor.FILES)
    for line in lines:
        digest, name = line.split()
        assert hashlib.sha256((vendor.FOLDER / name).read_bytes()).hexdigest() == digest
    assert "Apache License" in (vendor.FOLDER / "LICENSE").read_text()
    assert vendor.VERSION in (vendor.FOLDER / "README.md").read_text()


def test_another_package_than_the_named_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match="sha512"):
        vendor.unpack(b"another archive", tmp_path)
    assert not list(tmp_path.iterdir())


def test_page_loads_nothing_from_elsewhere(tmp_path):
    text = filled(make_run(tmp_path / "run", ["cat", "dog"]))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert "default-src 'none'" in policy and "http" not in policy and "*" not in policy
    assert text.index("Content-Security-Policy") < text.index("<style>") < text.index("<script")
    for tag in ("script", "style"):
        for content in re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL):
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy
    tags = " ".join(
        re.findall(r"<[a-z][^>]*>", re.sub(r"<script.*?</script>", "", text, flags=re.S))
    )
    assert not re.search(r"\b(src|href|action)=", tags)


def test_names_of_classes_and_runs_are_text(tmp_path):
    hostile = HOSTILE.replace("/", "")  # which no class has
    text = filled(make_run(tmp_path / "<b>run", [hostile, "dog\udcff"]))
    assert text.count("</script>") == filled(make_run(tmp_path / "x", ["a", "b"])).count(
        "</script>"
    )
    assert "<img src=x" not in text and "<b>run" not in text
    about = json.loads(re.search(r'id="about">(.*?)</script>', text)[1])
    assert about["classes"] == [hostile, "dog\\xff"]


def test_page_says_what_it_is_from(tmp_path):
    config = {"settings": {"recipe": "full", "epochs": 48}, "splits": {"train": 18028}}
    run = make_run(tmp_path / "pets", ["cat", "dog", "fox"], **config)
    (run / "metrics.json").write_text('{"test": {"accuracy": 0.9903, "images": 2261}}')
    text = filled(run)
    for words in (
        "<h1>Cat, dog or fox?</h1>",
        "From the run pets; 99.0% of 2,261 test photos correct",
        "recipe full, 48 epochs, 18,028 photos",
        "knows cat and dog and fox only",
        "1,234,567",
        hashlib.sha256(b"network").hexdigest(),
    ):
        assert words in text


def test_page_without_a_reference_calls_nothing_unknown(tmp_path):
    text = filled(make_run(tmp_path / "run", ["cat", "dog"]))
    assert json.loads(re.search(r'id="about">(.*?)</script>', text)[1])["limit"] is None
    assert "It gives one of these labels to any other photo, too." in text


@pytest.mark.parametrize("metrics", ["", "[]", '{"test": {}}', '{"test": {"accuracy": "x"}}'])
def test_unfinished_run_makes_a_page_without_accuracy(metrics, tmp_path):
    run = make_run(tmp_path / "run", ["a", "b"], settings={"epochs": 3})
    (run / "metrics.json").write_text(metrics)
    text = filled(run)
    assert "From the run run<" in text and "Accuracy" not in text and "Trained" not in text


@pytest.mark.parametrize(
    "classes, title",
    [
        (["cat", "dog"], "Cat or dog?"),
        (["a", "b", "c", "d"], "A, b, c or d?"),
        ([str(i) for i in range(1000)], "Which of 1,000 classes?"),
    ],
)
def test_title_names_few_classes_and_counts_many(classes, title):
    assert page.title(classes) == title


def test_large_page_is_written_with_a_warning(tmp_path, monkeypatch, caplog):
    content = np.random.default_rng(0).bytes(4_000_000)
    monkeypatch.setattr(page, "small_network", lambda network, try_eight_bit: content)
    run = make_run(tmp_path / "run", ["a", "b"])
    with caplog.at_level(logging.WARNING):
        page.write_page(Run(run), stand_in(), tmp_path / "page.html")
    assert re.search(r"page\.html has 8\.\d MB: the network has 1,234,567 weights", caplog.text)
    assert network_in(tmp_path / "page.html") == content


def test_page_says_when_a_photo_is_unknown(tmp_path):
    answer = {"photos": 7, "scores": 300}
    text = filled(make_run(tmp_path / "run", ["cat", "dog"], answer=answer))
    assert json.loads(re.search(r'id="about">(.*?)</script>', text)[1])["limit"] == 0.99
    assert "novelty of 0.99 or more is called unknown: at most 1% of the photos of" in text
    assert "7 training photos" in text and "300 validation photos" in text
    few = make_run(tmp_path / "few", ["cat", "dog"], answer={"photos": 7, "scores": 298})
    assert "It gives one of these labels to any other photo, too." in filled(few)


def test_page_of_our_network_has_at_most_8_mb(tmp_path):
    content = network_file(ROOT / "weights", ".tflite").read_bytes()
    text = filled(make_run(tmp_path / "run", ["cat", "dog"]), content)
    assert len(text.encode()) <= page.MOST_BYTES - 300_000  # for up to 2,000 photos


def test_converter_that_fails_gives_one_line(monkeypatch):
    network = SimpleNamespace(save=lambda path: path.write_bytes(b"no network"))
    with pytest.raises(
        UserError, match=r"cannot convert the network for LiteRT \(exit code 1\): ."
    ) as e:
        convert.convert(network, "eight-bit")
    assert "\n" not in str(e.value)


def test_float_weights_are_kept_where_eight_bits_change_answers(monkeypatch, caplog):
    monkeypatch.setattr(convert, "convert", lambda network, weights: weights)
    monkeypatch.setattr(
        convert, "largest_difference", lambda network, content: content == "eight-bit"
    )
    assert convert.small_network(None) == "float32"
    assert "the page has float32 weights: with eight bits, " in caplog.text
    monkeypatch.setattr(convert, "largest_difference", lambda network, content: 0)
    assert convert.small_network(None) == "eight-bit"
    assert convert.small_network(None, try_eight_bit=False) == "float32"
    monkeypatch.setattr(convert, "largest_difference", lambda network, content: np.nan)
    with pytest.raises(UserError, match="differs from Keras"):
        convert.small_network(None)


# --- In a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cats(tmp_path_factory):
    """The page of `weights`."""
    path = tmp_path_factory.mktemp("pages") / "cats.html"
    page.write_page(Run(ROOT / "weights"), model.load(ROOT / "weights").answering, path)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The page of a small untrained network."""
    folder = tmp_path_factory.mktemp("pages")
    run = make_run(folder / "run", ["cat", "dog"])
    page.write_page(Run(run), network_of("plain", 2, 32), folder / "small.html")
    return folder / "small.html"


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """The page of a small untrained network of three classes, which calls photos unknown."""
    folder = tmp_path_factory.mktemp("pages")
    network = model.build("plain", 3, None)
    rngs = [np.random.default_rng((1, number)) for number in range(340)]
    images = np.stack([drawings.draw(i % 2, rng, 32) for i, rng in enumerate(rngs)])
    images = images.astype(np.float32)
    graph = answer.Graph(network, 32, photos=40, scores=300)
    features = graph.features.predict_on_batch(images[:40])["features"]
    graph.answer.set(directions=novelty.directions(features))
    parts = graph.fitting.predict_on_batch(images[40:])["parts"]
    graph.answer.set(**novelty.fit(parts, 300))
    sizes = {"photos": 40, "scores": 300}
    run = make_run(folder / "run", ["cat", "dog", "unknown"], answer=sizes)
    page.write_page(Run(run), graph.answering, folder / "three.html")
    return folder / "three.html"


@pytest.fixture
def browser(tmp_path):
    with Browser(tmp_path / "profile") as browser:
        yield browser


def opened(browser, path):
    browser.open(path)
    browser.wait("document.body.dataset.ready || !document.getElementById('problem').hidden")
    assert browser.run("document.getElementById('problem').hidden")


def cards_of(browser, paths):
    """Choose photos and return what their cards say."""
    browser.choose_files("#files", paths)
    finished = "document.querySelectorAll('.card:is([data-label], [data-error])').length"
    browser.wait(f"{finished} === {len(paths)}")
    return browser.run(CARDS)


def draw(folder, count):
    """Drawings of several sizes, shapes and formats, some of them turned by EXIF."""
    paths = []
    for number in range(count):
        side = (40, 64, 150, 200, 256, 333, 480, 590)[number % 8]
        image = drawings.draw(number % 2, np.random.default_rng(number), side)
        image = image.crop((0, 0, side, side * (number % 3 + 2) // 4))
        suffix = ("png", "jpg", "webp")[number // 2 % 3]
        options = {"quality": 90}
        if suffix == "jpg":
            options["exif"] = Image.Exif()
            options["exif"][274] = number % 8 + 1  # the orientation
        paths.append(folder / f"{number}.{suffix}")
        image.save(paths[-1], **options)
    return paths


def native(content, paths, size):
    """The probability of dog by the native runtime."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_content=content).get_signature_runner()
    photos = [load_photo(path, size)[None].astype(np.float32) for path in paths]
    return np.array([runner(photos=photo)["probabilities"][0, 1] for photo in photos])


@pytest.mark.slow
def test_page_answers_as_the_native_runtime(cats, browser, tmp_path):
    assert cats.stat().st_size < 8_000_000
    paths = draw(tmp_path, 50)
    opened(browser, cats)
    cards = cards_of(browser, paths)
    dog = native(network_in(cats), paths, 200)
    for card, path, p in zip(cards, paths, dog, strict=True):
        assert card["name"] == path.name
        assert card["best"] == ("dog" if p > 0.5 else "cat")
        assert abs(float(card["probability"]) - max(p, 1 - p)) < 0.01
    labels = ("cat", "dog", "unknown")
    counts = {label: sum(card["label"] == label for card in cards) for label in labels}
    assert len({card["best"] for card in cards}) == 2
    summary = browser.run("document.getElementById('summary').textContent")
    assert summary.startswith("50 photos: ")
    assert all(f"{count} {label}" in summary for label, count in counts.items() if count)


@pytest.mark.slow
def test_unknown_pictures_are_those_of_predict(cats, browser, tmp_path):
    paths = draw(tmp_path, 20)
    rng = np.random.default_rng(0)
    for number in range(12):
        colours = rng.integers(0, 256, (2 + number, 2 + number, 3), np.uint8)
        paths.append(tmp_path / f"gradient{number}.png")
        Image.fromarray(colours).resize((300, 200), Image.Resampling.BICUBIC).save(paths[-1])
    classifier = Classifier(ROOT / "weights")
    novel = classifier.outputs(np.stack([load_photo(path, 200) for path in paths]))["novelty"]
    assert 0 < novelty.is_unknown(novel).sum() < len(paths)
    opened(browser, cats)
    cards = cards_of(browser, paths)
    for card, path, expected in zip(cards, paths, novel, strict=True):
        assert card["name"] == path.name
        assert float(card["novelty"]) == pytest.approx(expected, abs=0.005)
        if abs(expected - novelty.DEFAULT_LIMIT) > 0.005:
            assert (card["label"] == "unknown") == novelty.is_unknown(expected)
    count = sum(card["label"] == "unknown" for card in cards)
    assert f"{count} unknown" in browser.run("document.getElementById('summary').textContent")


@pytest.mark.slow
def test_unknown_photo_is_told_from_a_class_of_that_name(three, browser, tmp_path):
    paths = [*draw(tmp_path, 7), tmp_path / "grey.png"]
    Image.new("RGB", (90, 60), "grey").save(paths[-1])
    opened(browser, three)
    *known, grey = cards_of(browser, paths)
    assert grey["label"] == "unknown" and grey["rows"] == 3 and "colour" not in grey
    assert float(grey["novelty"]) > 0.99 and grey["best"] in ("cat", "dog", "unknown")
    note = "document.querySelector('.card:last-child .note').innerText"
    assert browser.run(note) == "Novelty 0.9901\nThe network alone:"
    assert not any("unknown" in card for card in known)
    assert all(card["label"] == card["best"] and "colour" in card for card in known)
    assert browser.run("document.querySelectorAll('.note:not([hidden])').length") == 1
    summary = browser.run("document.getElementById('summary').textContent")
    assert summary.startswith("8 photos: ") and summary.endswith(", 1 unknown")
    assert sum(map(int, re.findall(r"\d+", summary))) == 8 + 7 + 1


@pytest.mark.slow
def test_large_jpegs_are_reduced_as_pillow_drafts_them(cats, browser, tmp_path):
    paths = []
    for number, size in enumerate(
        [(700, 600), (1200, 900), (900, 1600), (3000, 2000), (4000, 700)]
    ):
        image = drawings.draw(number % 2, np.random.default_rng(number), 300)
        paths.append(tmp_path / f"{number}.jpg")
        image.resize(size, Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    opened(browser, cats)
    got = []
    for path in paths:
        got.append(shrunk(browser, path))
    for path, pixels in zip(paths, got, strict=True):
        assert np.abs(pixels - load_photo(path, 200).astype(int)).mean() < 0.3  # of 255


def shrunk(browser, path):
    """The pixels that the page gives to its network: int (200, 200, 3)."""
    browser.run("document.getElementById('files').onchange = null")
    browser.choose_files("#files", [path])
    script = """(async () => {
      const { bitmap, jpeg } = await decode(document.getElementById("files").files[0]);
      return Array.from(shrink(bitmap, jpeg, 200));
    })()"""
    return np.array(browser.run(script), int).reshape(200, 200, 3)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 64), (333, 500), (641, 480), (90, 1000), (2000, 1500)])
def test_pixels_are_those_of_pillow(size, cats, browser, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    opened(browser, cats)
    pixels = shrunk(browser, tmp_path / "noise.png")
    expected = load_photo(tmp_path / "noise.png", 200).astype(int)
    # Pillow before 13 scales rows first, whatever the shape: one level of 255 in some pixels.
    assert np.abs(pixels - expected).max() <= 1


def huge_png():
    """A PNG of 20,000 x 20,000 px in 50 KB."""
    rows = zlib.compress(bytes(2501 * 20_000), 9)
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    file = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    file.seek(0, io.SEEK_END)
    for kind, content in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")):
        checksum = zlib.crc32(kind + content)
        file.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum))
    return file.getvalue()


@pytest.mark.slow
def test_files_that_are_no_photos_are_named_and_passed_over(small, browser, tmp_path):
    (good,) = draw(tmp_path, 1)
    bad = {
        "empty.jpg": (b"", "is empty"),
        "page.jpg": (b"<html>not found</html>", "not a photo that this browser can read"),
        "iphone.heic": (b"\0\0\0\x18ftypheic" + bytes(99), "HEIC, which only Safari can read"),
        "torn.png": (good.read_bytes()[:400], "not a photo"),
        "huge.png": (huge_png(), "20000 × 20000 is more than 89 megapixels"),
        "<img src=x onerror=alert(1)>.gif": (b"GIF", "not a photo"),
    }
    paths = [tmp_path / name for name in bad]
    for path, (content, _) in zip(paths, bad.values(), strict=True):
        path.write_bytes(content)
    with open(tmp_path / "long.jpg", "wb") as file:
        file.truncate(65 * 2**20)
    (tmp_path / "folder").mkdir()
    opened(browser, small)
    cards = cards_of(browser, [*paths, tmp_path / "long.jpg", tmp_path / "folder", good])
    for card, path, (_, message) in zip(cards, paths, bad.values(), strict=False):
        assert card["name"] == path.name and message in card["error"]
    assert "larger than 64 MiB" in cards[-3]["error"]
    assert "folder" in cards[-2]["error"]
    assert "label" in cards[-1]
    assert "8 not read" in browser.run("document.getElementById('summary').textContent")


@pytest.mark.slow
def test_thousand_classes_without_a_map(browser, tmp_path):
    classes = [HOSTILE.replace("/", ""), *(f"class {i}" for i in range(1, 1000))]
    run = make_run(tmp_path / "run", classes)
    page.write_page(Run(run), network_of("classic", 1000, 32), tmp_path / "page.html")
    opened(browser, tmp_path / "page.html")
    (card,) = cards_of(browser, draw(tmp_path, 1))
    assert card["rows"] == 10 and not card["map"] and card["label"] in classes
    assert browser.run("document.querySelectorAll('#cards img').length") == 1
    for part in ("maps", "hint"):
        assert browser.run(f"document.getElementById('{part}').hidden")


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["WebAssembly", "DecompressionStream"])
def test_browser_that_lacks_something_is_told(missing, small, browser):
    browser.open(small, before=f"delete globalThis.{missing}")
    browser.wait("!document.getElementById('problem').hidden")
    assert missing in browser.run("document.getElementById('problem').textContent")
    assert browser.run("document.getElementById('choose').disabled")


@pytest.mark.slow
def test_policy_forbids_every_connection(small, browser):
    opened(browser, small)
    blocked = browser.run("""(async () => {
      const blocked = [];
      const note = (event) => blocked.push(event.effectiveDirective);
      document.addEventListener("securitypolicyviolation", note);
      new Image().src = "https://example.org/image";
      try { await fetch("https://example.org/fetch"); } catch {}
      try { new WebSocket("wss://example.org"); } catch {}
      navigator.sendBeacon("https://example.org/beacon", "photo");
      document.body.append(Object.assign(document.createElement("script"), { text: "0" }));
      await new Promise((resolve) => setTimeout(resolve, 300));
      return blocked;
    })()""")
    assert sorted(blocked) == ["connect-src"] * 3 + ["img-src", "script-src-elem"]


@pytest.mark.slow
def test_camera_takes_a_photo_and_is_switched_off(small, tmp_path):
    fake = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with Browser(tmp_path / "profile", *fake) as browser:
        opened(browser, small)
        browser.run("document.getElementById('camera').click()")
        browser.wait("document.querySelector('video').videoWidth > 0")
        browser.run("document.getElementById('take').click()")
        browser.wait("document.querySelectorAll('.card[data-label]').length === 1")
        assert browser.run("document.querySelector('video').srcObject === null")
    with Browser(tmp_path / "other") as browser:
        opened(browser, small)
        browser.run("document.getElementById('camera').click()")
        browser.wait("!document.getElementById('problem').hidden")
        problem = browser.run("document.getElementById('problem').textContent")
        assert problem == "No camera was found."


@pytest.mark.slow
def test_photos_are_pasted_and_dropped_and_seen_by_keyboard(small, browser):
    opened(browser, small)
    for event, name, data in (
        ("paste", "ClipboardEvent", "clipboardData"),
        ("drop", "DragEvent", "dataTransfer"),
    ):
        browser.run(f"""(async () => {{
          const canvas = document.createElement("canvas");
          canvas.getContext("2d").fillRect(9, 9, 9, 9);
          const blob = await new Promise((resolve) => canvas.toBlob(resolve));
          const files = new DataTransfer();
          files.items.add(new File([blob], "{event}.png", {{ type: "image/png" }}));
          document.dispatchEvent(new {name}("{event}", {{ {data}: files }}));
        }})()""")
        last = "document.querySelector('.card[data-label]:last-child .name')?.textContent"
        browser.wait(f"{last} === '{event}.png'")
    assert [card["name"] for card in browser.run(CARDS)] == ["paste.png", "drop.png"]
    browser.run("document.getElementById('clear').focus()")
    browser.press("Tab", 9)
    browser.press("Enter", 13, "\r")
    pressed = (
        "Array.from(document.querySelectorAll('.photo'), (b) => b.getAttribute('aria-pressed'))"
    )
    assert browser.run(pressed) == ["true", "false"]
    assert not browser.run("document.querySelector('.photo canvas').hidden")
    browser.run("document.getElementById('maps').click()")
    assert browser.run(pressed) == ["true", "true"]
    browser.run("document.getElementById('clear').click()")
    assert browser.run(CARDS) == [] and browser.run("document.getElementById('results').hidden")


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_wider_than_the_window(width, dark, three, browser, tmp_path):
    browser.resize(width, 844, dark)
    opened(browser, three)
    Image.new("RGB", (90, 60), "grey").save(tmp_path / "grey.png")
    cards = cards_of(browser, [*draw(tmp_path, 9), tmp_path / "grey.png"])
    assert "unknown" in cards[-1]
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("getComputedStyle(document.body).backgroundColor") == (
        "rgb(22, 21, 20)" if dark else "rgb(247, 245, 242)"
    )


def test_scores_that_have_no_end_are_not_waited_for(tmp_path):
    (tmp_path / "metrics.json").symlink_to("/dev/zero")
    assert page.accuracy(Run(tmp_path)) == ""
