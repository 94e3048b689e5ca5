"""New labels from a file, and a folder whose labels are in a CSV file."""

import os
import re
import time
import unicodedata

import numpy as np
import pytest

from catdog.errors import UserError
from catdog.photos import index, labels
from catdog.photos.found import Found
from photo_files import fill, save


def relabels_of(folder, text):
    (folder / "new.txt").write_text(text, encoding="utf-8")
    return labels.read_relabels(folder / "new.txt")


def refused(call, words):
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        call()
    assert "\n" not in str(caught.value)


# --- Photos to leave out --------------------------------------------------------------------------


def test_photos_to_leave_out_are_named_in_three_ways(tmp_path, caplog):
    for c in ("cat", "dog"):
        for n in range(4):
            save(tmp_path / f"train/{c}.{n}.png")
    listed = tmp_path / "exclude.txt"
    listed.write_text('# no animals\n\n"cat.1"\ntrain/dog.2.png\ndog.3.png\ncat.12345\n')
    names = labels.read_names(listed)
    assert names == ["cat.1", "cat.12345", "dog.3.png", "train/dog.2.png"]
    found = index.find(tmp_path)
    numbers = [number for number, _ in labels.matching(found, tmp_path, names)]
    assert [found.names[i] for i in numbers] == ["cat.1", "dog.2", "dog.3"]
    assert caplog.messages == ["1 of 4 names match no photo: cat.12345"]
    assert list(labels.matching(found, tmp_path, [])) == []


def test_a_file_of_names_that_cannot_be_read_is_named(tmp_path):
    refused(lambda: labels.read_names(tmp_path / "missing.txt"), "missing.txt: not found")
    assert labels.read_names(None) == []


@pytest.mark.parametrize("read", [labels.read_names, labels.read_relabels])
def test_a_pipe_or_a_device_is_not_read_as_a_file_of_names(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        refused(lambda path=path: read(path), f"cannot read {path}: not a regular file")


# --- New labels -----------------------------------------------------------------------------------


def test_lines_of_new_labels_have_tabs_or_two_words(tmp_path):
    text = '\ufeff# checked\n\ncat.4085 dog\n"#7 ""x"".jpg"\tC # 1\na b #1.jpg\tgreat dane\r\n'
    expected = {"cat.4085": "dog", '#7 "x".jpg': "C # 1", "a b #1.jpg": "great dane"}
    assert relabels_of(tmp_path, text) == expected
    assert labels.read_relabels(None) == {}


def test_names_are_written_so_that_they_are_read_again(tmp_path):
    names = ["#1.jpg", '"a".jpg', "a, b #2.jpg", "x\ny.jpg", "t\tt.jpg"]
    text = "".join(f"{labels.quoted(name)}\n" for name in names)
    (tmp_path / "exclude.txt").write_text(text)
    assert labels.read_names(tmp_path / "exclude.txt") == sorted(names)


@pytest.mark.parametrize(
    "line", ["cat.4085", "my photo.jpg great dane", "\tdog", "cat.7\t", "cat.7\tdog\tfox"]
)
def test_lines_of_other_forms_are_refused_with_their_number(tmp_path, line):
    refused(
        lambda: relabels_of(tmp_path, f"cat.1 dog\n{line}\n"),
        "new.txt, line 2: expected a name, a tab and a class",
    )


def test_name_of_two_new_classes_is_refused(tmp_path):
    assert relabels_of(tmp_path, "cat.1 dog\ncat.1\tdog\n") == {"cat.1": "dog"}
    words = "line 2: expected one class for cat.1, got both dog and fox"
    refused(lambda: relabels_of(tmp_path, "cat.1 dog\ncat.1 fox"), words)


def test_missing_file_of_new_labels_is_refused(tmp_path):
    refused(lambda: labels.read_relabels(tmp_path / "none"), "cannot read")


@pytest.fixture
def found(tmp_path):
    return Found(
        root=tmp_path / "PetImages",
        classes=["cat", "dog"],
        paths=["Cat/1.jpg", "Cat/2.jpg", "Dog/a b.jpg", "Dog/x\ny.jpg"],
        labels=np.array([0, 0, 1, 1], np.int32),
        names=["cat.1", "cat.2", "dog/a b.jpg", "dog/x\ny.jpg"],
    )


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("cat.2", 1),
        ("Cat/2.jpg", 1),
        ("PetImages/Cat/2.jpg", 1),
        ("dog/a b.jpg", 2),
        (r"Dog/x\ny.jpg", 3),
    ],
)
def test_new_label_goes_to_the_photo_that_is_named(found, tmp_path, name, place, caplog):
    before = found.labels.copy()
    new = labels.relabelled(found, tmp_path, {name: "cat" if place > 1 else "dog"})
    assert np.flatnonzero(new != before).tolist() == [place]
    assert new.dtype == np.int32 and (found.labels == before).all()
    assert not caplog.text


def test_new_label_that_matches_no_photo_is_told(found, tmp_path, caplog):
    new = labels.relabelled(found, tmp_path, {"cat.2": "dog", "cat.3": "dog"})
    assert new.tolist() == [0, 1, 1, 1]
    assert "1 of 2 names match no photo: cat.3" in caplog.text


def test_unknown_and_contrary_new_classes_are_refused(found, tmp_path):
    words = "expected one of the classes cat, dog for cat.1, got fox"
    refused(lambda: labels.relabelled(found, tmp_path, {"cat.1": "fox"}), words)
    both = {"cat.1": "dog", "Cat/1.jpg": "cat"}
    words = "expected one class for Cat/1.jpg, got cat and dog"
    refused(lambda: labels.relabelled(found, tmp_path, both), words)


# --- labels.csv -----------------------------------------------------------------------------------


@pytest.fixture
def breeds(tmp_path):
    """Photos as in Kaggle's Dog Breed Identification."""
    for name in ("train/0a.jpg", "train/0b.jpg", "train/sub/0c.png", "test/0d.jpg"):
        save(tmp_path / name)
    return tmp_path


def layout(folder, text, encoding="utf-8"):
    (folder / "labels.csv").write_bytes(text.encode(encoding))
    return index.find(folder)


def labels_of(found):
    return dict(zip(found.paths, [found.classes[i] for i in found.labels], strict=True))


PATHS = ["train/0a.jpg", "train/0b.jpg", "train/sub/0c.png"]
BREEDS = dict(zip(PATHS, ["great dane", "whippet", "whippet"], strict=True))


@pytest.mark.parametrize(
    "text",
    [
        "id,breed\n0b,whippet\n0a,great dane\nsub/0c,whippet\n",
        "\ufefflabel,image\r\nwhippet,0b.jpg\r\ngreat dane,./0a.jpg\r\nwhippet,sub/0c.png\r\n",
        "Filename;Class\ntrain/0b.jpg;whippet\ntrain/0a.jpg;great dane\ntrain\\sub/0c;whippet\n",
        'id,width,label\n"0b",3,whippet\n0a,4,"great dane"\n\nsub/0c,5,whippet\n0a,4,great dane',
        "0b,whippet\n0a,great dane\n0c,whippet\n",  # no header; a name alone
        "sep=;\nx;y\n0b.JPG;whippet\n0A.jpg;great dane\n0c.png;whippet\n",
        "sep=\t\nx\ty\n0b\twhippet\n0a\tgreat dane\n0c\twhippet\n",
        "f|great dane|whippet\n0b.jpg|0|1\n0a.jpg|1|0\n0c.png|0.0|1.0\n",  # one-hot
        "C:\\my\\0b.jpg,whippet\n/x/train/0a.jpg,great dane\n{here}/train/sub/0c.png,whippet\n",
        "{name}/train/0b.jpg,whippet\n{name}/0a,great dane\n{name}/train/sub/0c.png,whippet",
        "id,size,what\n0b,3,whippet\n0a,4,great dane\n0c,5,whippet\n0b,6,whippet",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_photos_have_the_labels_of_the_csv_file(breeds, text, encoding, caplog):
    text = text.replace("{here}", str(breeds)).replace("{name}", breeds.name)
    found = layout(breeds, text.removeprefix("\ufeff" if encoding == "utf-16" else ""), encoding)
    assert labels_of(found) == BREEDS
    assert (found.root, found.paths, found.names) == (breeds, PATHS, PATHS)
    assert "labels.csv" in found.summary and "2 classes" in found.summary
    (told,) = caplog.messages
    assert told.endswith("left out 1 photo without a row: test/0d.jpg")


def test_photos_may_lie_beside_the_csv_file(tmp_path, caplog):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        save(tmp_path / name)
    found = layout(tmp_path, "id,breed\na,ant\nb,bee\n")
    assert labels_of(found) == {"a.jpg": "ant", "b.jpg": "bee"}
    assert found.names == ["a.jpg", "b.jpg"]
    assert "left out 1 photo without a row: c.jpg" in caplog.text


@pytest.mark.parametrize("row", ["../0a,bee", "twin,bee", "0b,", "0b", ",bee", "test/../../0b,bee"])
def test_rows_that_do_not_name_one_photo_and_a_label_are_left_out(breeds, row, caplog):
    save(breeds / "train" / "twin.jpg")
    save(breeds / "train" / "twin.png")
    found = layout(breeds, f"id,breed\n0a,ant\n{row}\nsub/0c,bee\n")
    assert labels_of(found) == {"train/0a.jpg": "ant", "train/sub/0c.png": "bee"}
    told = f"{breeds}/labels.csv: left out 1 row without a photo or a label"
    assert f"{told}: {row.split(',')[0] or row}" in caplog.text


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("0a,bee", "line 3: expected one label for train/0a.jpg, got both ant and bee"),
        ("train/0a.jpg,bee", "line 3: expected one label for train/0a.jpg, got both ant and bee"),
        ("0b,Ant", "expected one spelling of a label, got both Ant and ant"),
    ],
)
def test_contrary_labels_are_refused(breeds, row, words):
    refused(lambda: layout(breeds, f"id,breed\n0a,ant\n{row}\n"), words)


def test_a_photo_that_is_missing_is_named_and_left_out(breeds, caplog):
    found = layout(breeds, "id,breed\n0a,ant\n0b,bee\nother/0a,bee\n/etc/passwd,bee\n")
    assert labels_of(found) == {"train/0a.jpg": "ant", "train/0b.jpg": "bee"}
    assert "2 rows without" in caplog.text and "other/0a, /etc/passwd" in caplog.text
    refused(lambda: layout(breeds, "id,breed\n0a,ant\n8,bee\n9,bee\n"), "labels, got 0a")


CLASS_MAPS = [
    "",
    "0,ant\n1,bee\n",
    "width,height,size\n1,2,3\n",
    "id\n0a\n",
    "id,label\n0,cat\n1,x",
]


@pytest.mark.parametrize("text", CLASS_MAPS)
def test_csv_files_of_other_content_do_not_block_class_folders(tmp_path, text, caplog):
    fill(tmp_path, "ant", "bee", photos=20)
    assert layout(tmp_path, text).classes == ["ant", "bee"]
    assert "it is not taken for labels" in caplog.text


@pytest.mark.parametrize(
    "content", [b"sep=;;;\nx", b"\xff\xfea", b"\0\0", b'a\n"', b"sep=\n", b",,,\n", b"a" * 200_000]
)
def test_broken_csv_files_are_named_and_passed_over(tmp_path, content, caplog):
    fill(tmp_path, "ant", "bee", photos=20)
    (tmp_path / "labels.csv").write_bytes(content)
    os.mkfifo(tmp_path / "train.csv")
    assert index.find(tmp_path).classes == ["ant", "bee"]
    assert "labels.csv" in caplog.text and "\n" not in caplog.messages[0]


def test_paths_of_another_machine_are_found_quickly_among_equal_names(tmp_path):
    photos = [f"{folder}/{n}.jpg" for folder in range(300) for n in range(100)]
    rows = "".join(f"/a/{photo},{'xy'[i % 2]}\n" for i, photo in enumerate(photos))
    (tmp_path / "labels.csv").write_text(rows)
    started = time.process_time()
    of = labels.read_csv(tmp_path / "labels.csv", photos).labels
    assert [of[photo] for photo in photos] == ["x", "y"] * 15_000
    assert time.process_time() - started < 10  # 22 s if all of one name are compared


def test_csv_files_of_other_names_label_photos_that_folders_do_not(breeds):
    text = "id,kind,size\n0b,whippet,7\n0a,great dane,8\nsub/0c,whippet,9\n"
    (breeds / "sample_submission.csv").write_text("id,label\n0d,0\n")
    (breeds / "train.csv").write_text(text)
    found = index.find(breeds)
    assert labels_of(found) == BREEDS and "train.csv" in found.summary
    assert "column kind the label" in found.summary


def test_a_csv_file_and_class_folders_that_disagree_are_told(tmp_path, caplog):
    fill(tmp_path, "set/cats", "set/dogs", photos=2)
    rows = "file,label\ncats/0.png,cats\nset/cats/1.png,dogs\ndogs/0.png,dogs\n"
    (tmp_path / "train.csv").write_text(rows)
    assert index.find(tmp_path).labels.tolist() == [0, 0, 1, 1]
    (told,) = caplog.messages
    assert told.startswith(f"not used: labels from {tmp_path}/train.csv (")
    assert told.endswith("; it disagrees on 1 photo, such as set/cats/1.png")
    caplog.clear()
    found = layout(tmp_path, rows)
    assert labels_of(found)["set/cats/1.png"] == "dogs"
    assert "not used: one folder per class in" in caplog.text
    caplog.clear()
    (tmp_path / "labels.csv").unlink()
    (tmp_path / "train.csv").write_text("file,kind\ncats/0.png,a\ncats/1.png,a\ndogs/0.png,b\n")
    index.find(tmp_path)
    assert not caplog.messages  # of something else


def test_columns_that_do_not_say_which_is_the_label_are_named(breeds):
    text = "id,a,b\n0a,x,u\n0b,y,v\ntrain/0a.jpg,x,u\n0b.jpg,y,v\n"
    refused(lambda: layout(breeds, text), "expected a column named label, got column a, column b")


@pytest.fixture
def numbered(tmp_path):
    """Photos 0.jpg to 5.jpg."""
    for n in range(6):
        save(tmp_path / f"{n}.jpg")
    return tmp_path


LABELS = {f"{n}.jpg": "ab"[n % 2] for n in range(6)}


@pytest.mark.parametrize(
    ("header", "row"),
    [
        (",file,label", "{other},{n}.jpg,{label}"),
        ("id,path,label", "{other},{here}\\{n}.JPG,{label}"),
        ("url,label", "https://example.org/{n}.jpg,{label}"),
        ("path,label", "../{here}/{n}.jpg,{label}"),
        ("file,width,number,animal", "{n}.jpg,{other}00,{number},{label}"),
        ("file,category,label", "{n}.jpg,{half},{label}"),
    ],
)
def test_columns_of_photos_and_labels_are_told_from_others(numbered, header, row):
    rows = [
        row.format(
            n=n, other=5 - n, number=n % 2, half=n // 3, label="ab"[n % 2], here=numbered.name
        )
        for n in range(6)
    ]
    assert labels_of(layout(numbered, "\n".join([header, *rows]))) == LABELS


@pytest.mark.parametrize(
    ("header", "row", "words"),
    [
        (
            "a,b,label",
            "{n},{other},x{half}",
            "one column that names photos, got column a, column b",
        ),
        ("id,age,sex,ill", "{n},3{n},{half},{number}", "label, got column sex, column ill"),
        ("id,good,animal", "{n},{number},x{half}", "label, got column animal, column good"),
        ("id,target,dx", "{n},{number},x{half}", "label, got column dx, column target"),
        ("id,label", "0{n},x", "expected names of photos such as 0.jpg and labels, got id, 00, 01"),
    ],
)
def test_columns_that_are_not_clear_are_refused(numbered, header, row, words):
    rows = [row.format(n=n, other=5 - n, number=n % 2, half=n // 3) for n in range(6)]
    refused(lambda: layout(numbered, "\n".join([header, *rows])), words)


def test_a_column_of_splits_is_the_split(numbered):
    splits = ["train", "TRAIN", "valid", "train", "test", "training"]
    rows = "".join(f"{n},{split},{'ab'[n % 2]}\n" for n, split in enumerate(splits))
    found = layout(numbered, f"id,part,animal\n{rows}")
    assert labels_of(found) == LABELS and found.given_split.tolist() == [0, 0, 1, 0, 2, 0]
    assert "column part the split" in found.summary


def test_rows_that_are_left_out_change_no_split(tmp_path):
    for n in range(4):
        save(tmp_path / f"{n}.jpg")
    save(tmp_path / "0.png")
    found = layout(
        tmp_path,
        "id,part,label\n0.jpg,test,a\n1,train,a\n2,train,b\n3,train,b\n0,train,a\n1,test,\n",
    )
    assert found.names[0] == "0.jpg" and found.given_split.tolist() == [2, 0, 0, 0]


def test_words_for_a_missing_label_are_none(numbered, caplog):
    rows = "0,nan\n1,b\n2,NULL\n3,none\n4,b\n5,none\n"
    assert layout(numbered, f"id,label\n{rows}").classes == ["b", "none"]
    assert caplog.messages[0].endswith("left out 2 rows without a photo or a label: 0, 2")
    assert len(caplog.messages) == 1


def test_text_that_is_not_utf_8_is_told_or_refused(numbered):
    rows = "id,label\n0,Hündin\n1,Kätzchen\n2,Hündin\n"
    assert "read as Windows-1252" in layout(numbered, rows, "cp1252").summary
    assert layout(numbered, rows, "utf-16-le").classes == ["Hündin", "Kätzchen"]
    for rows, encoding in (("0,狗\n1,猫\n", "gb18030"), ("0,кот\n1,пёс\n", "cp1251")):
        words = "expected text in UTF-8, got labels such as"
        refused(lambda rows=rows, code=encoding: layout(numbered, rows, code), words)


def test_labels_of_a_test_split_come_last_and_its_photos_are_counted(tmp_path, caplog):
    for split in ("test", "train"):
        rows = [(f"{split}{n}.jpg", "ab"[n % 2]) for n in range(4)]
        for name, _ in rows:
            save(tmp_path / split / name)
        text = "".join(f"{name},{label}\n" for name, label in rows)
        (tmp_path / f"{split}_labels.csv").write_text(text)
    found = index.find(tmp_path)
    assert found.paths == [f"train/train{n}.jpg" for n in range(4)]
    assert "left out 4 photos without a row: test/test0.jpg" in caplog.text


def test_names_are_compared_in_one_unicode_normalization(tmp_path, caplog):
    composed, decomposed = (unicodedata.normalize(form, "Kätzchen") for form in ("NFC", "NFD"))
    fill(tmp_path, f"a/train/{composed}", "a/train/x", f"a/test/{decomposed}", "a/test/x")
    found = index.find(tmp_path / "a")
    assert found.classes == [composed, "x"] and found.given_split is not None
    names = [f"test/{form}/0.png" for form in (composed, decomposed)]
    for name in names:
        assert len(list(labels.matching(found, tmp_path / "a", [name]))) == 1
    for name in (decomposed, "b", "c", "d"):
        save(tmp_path / f"b/{name}.jpg")
    found = layout(tmp_path / "b", f"{composed}.jpg,{decomposed}\nb,{composed}\nc,x\nd,x\n")
    assert labels_of(found)[f"{decomposed}.jpg"] == composed
    assert not caplog.text
