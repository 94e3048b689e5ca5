"""Labels that may be wrong: the ranking, the files, and the page in a browser (slow)."""

import base64
import contextlib
import csv
import hashlib
import re
import tempfile
import types

import numpy as np
import pytest
from PIL import Image

from browser import Browser
from catdog.errors import UserError
from catdog.photos import labels as relabelling
from catdog.scores import suspects
from conftest import draw_photos

HOSTILE = '</script><img src=x onerror="document.title=1">'
CODES = {"Tab": 9, "Enter": 13, "ArrowRight": 39, "ArrowDown": 40, "ArrowUp": 38}


def make_dataset(root, paths, labels, classes, splits):
    """A dataset of one grey picture per path; photos on disk are shown if there are any."""
    images = np.full((len(paths), 32, 32, 3), 128, np.uint8)
    return types.SimpleNamespace(
        root=root,
        paths=list(paths),
        names=[path.rsplit(".", 1)[0] for path in paths],
        labels=np.array(labels),
        classes=list(classes),
        images=images,
        identities=lambda members: members,
        splits={name: np.array(members, int) for name, members in splits.items()},
    )


class Oracle:
    """A classifier with given probabilities for the photos of a dataset."""

    def __init__(self, table, evidence=True, seen=()):
        self.table, self.evidence, self.scored = np.asarray(table), evidence, []
        self.run = types.SimpleNamespace(trained_on=lambda members: np.isin(members, [*seen]))

    def outputs_of(self, dataset, members, on_progress):
        self.scored += list(members)
        on_progress(len(members), len(members))
        return {"probabilities": self.table[members]}

    def outputs(self, images):
        found = {"probabilities": np.full((len(images), 2), 0.5)}
        if self.evidence:
            shape = (len(images), 4, 4, self.table.shape[1])
            found["evidence"] = np.random.default_rng(0).normal(size=shape)
        return found


@pytest.fixture
def dataset(tmp_path):
    """Ten drawings, of which four are held out."""
    draw_photos(tmp_path / "photos", 5)
    paths = [f"{name}.{i}.png" for name in ("cat", "dog") for i in range(5)]
    splits = {"train": [0, 1, 2, 5, 6, 7], "validation": [3, 8], "test": [4, 9]}
    return make_dataset(tmp_path / "photos", paths, [0] * 5 + [1] * 5, ["cat", "dog"], splits)


def of_label(dataset, values):
    """Probabilities with `values` for the labels."""
    table = np.tile(1 - np.array(values)[:, None], 2)
    table[np.arange(len(values)), dataset.labels] = values
    return table


VALUES = [0.5, 0.9, 0.8, 0.02, 0.7, 0.6, 0.9, 0.3, 0.99, 0.1]


def test_held_out_photos_are_ranked_by_their_label(dataset):
    ranking = suspects.rank([(Oracle(of_label(dataset, VALUES)), dataset)])
    assert ranking.members.tolist() == [3, 9, 4, 8]
    assert ranking.proposed.tolist() == [1, 0, 1, 0]
    text = suspects.format_ranking(ranking)
    assert re.search(r"1 +cat\.3\.png +validation +cat +dog +0\.02", text)
    assert "Estimate: 0 to 2 of 4 labels are wrong" in text
    assert "disputes 50% of the labels" in text


def test_estimate_is_a_number_if_few_labels_are_disputed(dataset):
    ranking = suspects.rank([(Oracle(of_label(dataset, [0.9] * 10)), dataset)])
    assert suspects.estimate(ranking).startswith("Estimate: about 0 of 4 labels are wrong")


def test_photos_that_the_run_was_trained_on_are_left_out(dataset, caplog):
    oracle = Oracle(of_label(dataset, VALUES), seen=[3])
    assert suspects.rank([(oracle, dataset)]).members.tolist() == [9, 4, 8]
    assert "Left out 1 photo that the model was trained on" in caplog.text
    oracle = Oracle(of_label(dataset, VALUES), seen=range(10))
    with pytest.raises(UserError, match="expected photos that the model was not trained on"):
        suspects.rank([(oracle, dataset)])


def folds(dataset):
    """Two runs, the second with other photos held out, one of them in both."""
    other = types.SimpleNamespace(**vars(dataset))
    other.splits = {"train": [4], "validation": np.array([0, 1, 9]), "test": np.array([2, 3, 5, 7])}
    second = Oracle(of_label(dataset, VALUES[::-1]))
    return (Oracle(of_label(dataset, VALUES)), dataset), (second, other)


def test_runs_of_folds_score_each_photo_once(dataset):
    first, second = folds(dataset)
    ranking = suspects.rank([first, second])
    assert sorted(ranking.members) == [0, 1, 2, 3, 4, 5, 7, 8, 9]
    assert sorted(first[0].scored) == [4, 8, 9]  # 3 and 9 are test photos of one run
    assert sorted(second[0].scored) == [0, 1, 2, 3, 5, 7]
    row = ranking.members.tolist().index(3)
    assert ranking.probabilities[row, 0] == pytest.approx(VALUES[::-1][3])
    assert ranking.judge_of[row] == 1
    split = {row[1]: row[2] for row in suspects.rows(ranking)[1:]}
    assert split["cat.3.png"] == "test" and split["cat.0.png"] == "validation"
    assert split["dog.4.png"] == "test" and split["dog.3.png"] == "validation"


def test_progress_counts_the_photos_of_all_runs(dataset):
    told = []
    suspects.rank(folds(dataset), lambda done, total: told.append((done, total)))
    assert told == [(3, 9), (9, 9)]


def test_runs_of_other_photos_are_refused(dataset):
    first, second = folds(dataset)
    second[1].names = second[1].names[::-1]
    with pytest.raises(UserError, match="expected runs of the same photos"):
        suspects.rank([first, second])


def test_folder_has_list_contact_sheet_and_page(dataset, tmp_path):
    ranking = suspects.rank([(Oracle(of_label(dataset, VALUES)), dataset)])
    suspects.write(tmp_path / "out", ranking)
    with open(tmp_path / "out" / "suspects.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [dataset.paths[i] for i in ranking.members]
    assert float(rows[0]["probability_of_label"]) == pytest.approx(0.02)
    assert rows[0]["predicted"] == "dog" and rows[0]["label"] == "cat"
    with Image.open(tmp_path / "out" / "suspects.png") as sheet:
        assert sheet.size == (4 * suspects.SHEET_TILE, suspects.SHEET_TILE + suspects.SHEET_TEXT)
    assert "cat.3" in (tmp_path / "out" / "suspects.html").read_text()


def test_contact_sheet_shows_photos_of_every_shape(tmp_path):
    Image.new("RGB", (1300, 1)).save(tmp_path / "wide.png")
    paths, splits = ["wide.png", "gone.png"], {"validation": [0], "test": [1]}
    dataset = make_dataset(tmp_path, paths, [0, 1], ["a", "b"], splits)
    ranking = suspects.rank([(Oracle([[0.1, 0.9], [0.2, 0.8]]), dataset)])
    sheet = suspects.contact_sheet(ranking)
    assert sheet.size == (2 * suspects.SHEET_TILE, suspects.SHEET_TILE + suspects.SHEET_TEXT)
    assert suspects.page(ranking).count("<li ") == 2


# --- The page -------------------------------------------------------------------------------------


def make_page(folder, classes=("cat", "dog"), count=12, paths=None, evidence=True):
    """A page of drawings of which the first half has another label than the one proposed."""
    draw_photos(folder, count // 2, 96)
    paths = paths or [f"{name}.{i}.png" for i in range(count // 2) for name in ("cat", "dog")]
    labels = [i % 2 for i in range(len(paths))]
    splits = {"validation": [], "test": range(len(paths))}
    dataset = make_dataset(folder, paths, labels, classes, splits)
    table = np.full((len(paths), len(classes)), 0.01)
    table[np.arange(len(paths)), labels] = np.linspace(0.02, 0.5, len(paths))
    table[:, 0 if len(classes) > 2 else 1] += 0.1
    table /= table.sum(1, keepdims=True)
    ranking = suspects.rank([(Oracle(table, evidence), dataset)])
    (folder / "suspects.html").write_text(suspects.page(ranking), encoding="utf-8")
    return folder / "suspects.html", ranking


def test_names_are_text_and_scripts_have_their_checksum(tmp_path):
    paths = [f"{HOSTILE.replace('/', '|')}.png", "b\udcff\n.png"]
    page, _ = make_page(tmp_path, [HOSTILE, "b & c"], 2, paths)
    text = page.read_text()
    assert text.count("<img ") == 4 and "<img src=x" not in text
    assert r"b\xff\n.png" in text
    policy = re.search(r'Content-Security-Policy"\s+content="([^"]*)"', text)[1]
    assert "default-src 'none'; img-src data:;" in policy and "http" not in policy
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


def test_photos_of_one_name_are_named_by_their_paths(tmp_path):
    page, _ = make_page(tmp_path, paths=["cat.0.png", "cat.0.jpg"])
    names = re.findall(r'data-name="([^"]*)"', page.read_text())
    assert sorted(names) == ["cat.0.jpg", "cat.0.png"]


def test_network_without_evidence_makes_a_page_without_maps(tmp_path):
    text = make_page(tmp_path, evidence=False)[0].read_text()
    assert text.count("<img ") == 12 and "class activation map" not in text


@pytest.fixture
def open_page(tmp_path):
    """Returns a function that opens a page in a new browser."""
    with contextlib.ExitStack() as opened:

        def opener(page, width=1280):
            browser = opened.enter_context(Browser(tempfile.mkdtemp(dir=tmp_path)))
            downloads = {"behavior": "allow", "downloadPath": str(tmp_path)}
            browser.send("Page.setDownloadBehavior", **downloads)
            browser.resize(width, 844)
            browser.open(page)
            return browser

        yield opener


def press(browser, *keys):
    for key in keys:
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        browser.press(key, CODES.get(key) or ord(key.upper()), text)


def save(browser, name, folder):
    """Save a file by keyboard: go back with Shift and Tab from the photo to the button."""
    (folder / f"{name}.txt").unlink(missing_ok=True)
    for _ in range(9):
        if browser.run(f"document.activeElement.id === '{name}'"):
            break
        browser.press("Tab", CODES["Tab"], modifiers=8)
    press(browser, "Enter")
    browser.wait(f"document.getElementById('message').textContent.startsWith('{name}.txt')", 20)
    for _ in range(200):
        if (folder / f"{name}.txt").exists():
            break
        browser.wait("new Promise((resolve) => setTimeout(resolve, 50, true))", 20)
    return (folder / f"{name}.txt").read_text()


def counts(browser):
    return browser.run(
        "Array.from(document.querySelectorAll('#counts span'), (x) => x.textContent).join(', ')"
    )


@pytest.mark.slow
def test_marks_by_keyboard_are_saved_and_loaded(tmp_path, open_page):
    page, ranking = make_page(tmp_path)
    names = [ranking.dataset.names[i] for i in ranking.members]
    given = [("cat", "dog")[i] for i in ranking.labels]
    other = {"cat": "dog", "dog": "cat"}
    browser = open_page(page)
    assert browser.run("document.getElementById('exclude').disabled")
    press(browser, "w", "n", "j", "f", "ArrowRight", "n", "k", "k", "u", "n", "ArrowDown", "w")
    # Photos 0 to 8 in rows of three; the marks: 0 w, 1 n, 3 f, 5 n; then 4 n, from 5 down to 8 w.
    expected = "6 of 12 marked, wrong label 2, none of the classes 3, fine 1"
    assert counts(browser) == expected
    excluded = save(browser, "exclude", tmp_path)
    assert excluded.splitlines() == [names[i] for i in (1, 4, 5)]
    save(browser, "relabel", tmp_path)
    relabels = relabelling.read_relabels(tmp_path / "relabel.txt")
    assert relabels == {
        names[0]: other[given[0]],
        names[3]: given[3],
        names[8]: other[given[8]],
    }

    with open(tmp_path / "exclude.txt", "a") as file:
        file.write('# of another folder\ncat.999\n"#8 ""b"".jpg"\n')
    with open(tmp_path / "relabel.txt", "a") as file:
        file.write(f"dog.999 cat\n{names[11]} {other[given[11]]}\ndog.1000\tzebra\n")
    browser = open_page(page)
    browser.choose_files("#files", [tmp_path / "exclude.txt", tmp_path / "relabel.txt"])
    browser.wait("document.getElementById('message').textContent.includes('relabel')", 20)
    loaded = (
        "7 of 12 marked, wrong label 3, none of the classes 3, fine 1, photos not on this page 3"
    )
    assert counts(browser) == loaded
    assert "1 not understood, such as: dog.1000\tzebra" in browser.run(
        "document.getElementById('message').textContent"
    )
    press(browser, "n")  # the first photo without a mark
    again = save(browser, "exclude", tmp_path)
    assert again.splitlines() == [*(names[i] for i in (1, 2, 4, 5)), "cat.999", '"#8 ""b"".jpg"']
    save(browser, "relabel", tmp_path)
    more = {"dog.999": "cat", names[11]: other[given[11]]}
    assert relabelling.read_relabels(tmp_path / "relabel.txt") == relabels | more


@pytest.mark.slow
def test_right_class_of_many_is_chosen_by_keyboard(tmp_path, open_page):
    classes = ["great dane", "beagle", "collie", "dingo"]
    page, ranking = make_page(tmp_path, classes)
    name = ranking.dataset.names[ranking.members[0]]
    browser = open_page(page)
    press(browser, "c")
    press(browser, "d")
    press(browser, "Enter")
    assert browser.run("document.activeElement.tagName") == "LI"
    save(browser, "relabel", tmp_path)
    assert relabelling.read_relabels(tmp_path / "relabel.txt") == {name: "dingo"}
    browser.run("saved.relabel = contentOf('relabel'); 1")


@pytest.mark.slow
def test_clicks_and_dropped_files_mark_photos(tmp_path, open_page):
    page, ranking = make_page(tmp_path)
    name = ranking.dataset.names[ranking.members[2]]
    browser = open_page(page, 390)
    browser.run("document.querySelector('li:nth-child(4) [data-mark=fine]').click()")
    browser.run(f"""(() => {{
      const files = new DataTransfer();
      files.items.add(new File(["{name}\\n"], "names.txt"));
      document.dispatchEvent(new DragEvent("drop", {{ dataTransfer: files, cancelable: true }}));
    }})()""")
    browser.wait("document.getElementById('message').textContent.startsWith('names.txt')", 20)
    assert counts(browser).startswith(
        "2 of 12 marked, wrong label 0, none of the classes 1, fine 1"
    )
    browser.run("document.querySelector('li:nth-child(4) [data-mark=fine]').click()")
    assert counts(browser).startswith("1 of 12 marked")


@pytest.mark.slow
def test_page_fits_the_window_and_connects_to_nothing(tmp_path, open_page):
    page, _ = make_page(tmp_path, paths=[f"{'long ' * 30}{i}.png" for i in range(4)])
    for width in (390, 1280):
        browser = open_page(page, width)
        assert browser.run("document.documentElement.scrollWidth") <= width
    blocked = browser.run("""(async () => {
      const blocked = [];
      const note = (event) => blocked.push(event.effectiveDirective);
      document.addEventListener("securitypolicyviolation", note);
      new Image().src = "https://example.org/image";
      try { await fetch("https://example.org/fetch"); } catch {}
      document.body.append(Object.assign(document.createElement("script"), { text: "0" }));
      await new Promise((resolve) => setTimeout(resolve, 300));
      return blocked;
    })()""")
    assert sorted(blocked) == ["connect-src", "img-src", "script-src-elem"]
