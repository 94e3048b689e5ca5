"""Layouts of folders of classes: the user's own split, and what is refused before training."""

import errno
import os
import re

import numpy as np
import pytest
from PIL import Image

import data
from catdog.errors import UserError
from catdog.photos import index
from catdog.scores import inspect
from photo_files import fill, save


def refused(root, words):
    with pytest.raises(UserError, match=f".*{re.escape(words)}") as caught:
        index.find(root, root / "cache")
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- Layouts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layout",
    [
        "train/{lower}.{n}.jpg",
        "PetImages/{upper}/{n}.jpg",
        "train/{lower}s/{lower}.{n}.jpg",
        "{lower}s/{n}.jpg",
        "{upper}/{n}.jpg",
        "{lower}s/{lower}.{n}.jpg",
        "{lower}.{n}.jpg",
        "dogs-vs-cats/train/{lower}.{n}.jpg",
    ],
)
def test_every_layout_names_the_same_photos_and_splits_them_alike(tmp_path, layout):
    for n in range(40):
        for lower in ("cat", "dog"):
            save(tmp_path / layout.format(lower=lower, upper=lower.title(), n=n))
    found = index.find(tmp_path)
    assert found.classes == ["cat", "dog"]
    assert sorted(found.names) == sorted(f"{c}.{n}" for c in ("cat", "dog") for n in range(40))
    assert [found.classes[i] for i in found.labels] == [name.split(".")[0] for name in found.names]
    reference = {
        name: int(np.searchsorted([0.8, 0.9], data.name_hashes([name])[0] / 2.0**64))
        for name in found.names
    }
    sides = data.split(found.names, list(range(len(found.names))))
    assert dict(zip(found.names, sides.tolist(), strict=True)) == reference


def test_kaggle_layout_wins_over_microsofts_and_that_over_class_folders(tmp_path):
    for c in ("a", "b"):
        save(tmp_path / c / "1.jpg")
    assert index.find(tmp_path).classes == ["a", "b"]
    save(tmp_path / "PetImages/Cat/1.jpg"), save(tmp_path / "PetImages/Dog/1.jpg")
    assert index.find(tmp_path).root == tmp_path / "PetImages"
    save(tmp_path / "train/cat.1.jpg"), save(tmp_path / "train/dog.1.jpg")
    assert index.find(tmp_path).root == tmp_path / "train"


def test_unlabelled_photos_our_demo_and_cache_are_not_classes(tmp_path, caplog):
    for c in ("apple", "pear", "test1", "demo/train", "my-cache", "@eaDir", "pear/@eaDir"):
        save(tmp_path / c / "1.jpg")
    save(tmp_path / ".hidden/2.jpg")
    (tmp_path / "demo/demo.json").write_text("{}")
    found = index.find(tmp_path, tmp_path / "my-cache")
    assert found.paths == ["apple/1.jpg", "pear/1.jpg"]
    assert "test1/ (photos: 1)" in caplog.text and ".hidden" in caplog.text


def test_class_folders_with_names_of_splits_are_told_and_taken(tmp_path, caplog):
    fill(tmp_path, "bus", "car", "train", "test", "demo", "cache")
    assert index.find(tmp_path).classes == ["bus", "cache", "car", "demo", "test", "train"]
    assert "taken for classes" in caplog.text
    assert all(name in caplog.text for name in ("train", "test", "demo", "cache"))


def test_other_classes_sort_by_name_and_their_photos_are_named_by_path(tmp_path):
    for c in ("zebra", "ant", "Bee"):
        save(tmp_path / "train" / c / "deep" / "7.jpg")
    found = index.find(tmp_path)
    assert found.classes == ["Bee", "ant", "zebra"]
    assert found.names == ["Bee/deep/7.jpg", "ant/deep/7.jpg", "zebra/deep/7.jpg"]


def test_a_missing_folder_an_empty_one_and_a_single_class_are_told_apart(tmp_path):
    with pytest.raises(UserError, match=r"^expected a folder, got .*nowhere"):
        index.find(tmp_path / "nowhere")
    with pytest.raises(index.NoPhotos, match="expected labelled photos"):
        data.load(tmp_path, 8, tmp_path / "cache")
    save(tmp_path / "train/cat.1.jpg")
    with pytest.raises(UserError, match="expected 2 to 1,000 classes, got 1: cat"):
        index.find(tmp_path)


def test_a_class_named_in_bytes_that_are_no_text_gets_a_name_that_can_be_shown(tmp_path):
    for name in (b"b\xe9e", b"ant"):
        folder = os.path.join(os.fsencode(tmp_path), name)
        os.mkdir(folder)
        Image.new("RGB", (8, 8)).save(os.path.join(os.fsdecode(folder), "1.png"))
    assert index.find(tmp_path).classes == ["ant", "b\\xe9e"]


# --- The user's own split -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["validation", "val", "valid", "Validation"])
def test_train_validation_and_test_folders_are_the_split(tmp_path, name):
    for folder in ("train", name, "test"):
        fill(tmp_path, f"{folder}/ant", f"{folder}/bee", photos=5)
    dataset = data.load(tmp_path, 8, tmp_path / "cache")
    assert dataset.classes == ["ant", "bee"]
    assert dataset.split_sizes() == {"train": 10, "validation": 10, "test": 10}
    for split, folder in (("train", "train"), ("validation", name), ("test", "test")):
        assert {dataset.paths[i].split("/")[0] for i in dataset.splits[split]} == {folder}
    assert len(set(dataset.names)) == 30
    found = index.find(tmp_path)
    assert (found.root / found.paths[7]).is_file()


@pytest.mark.parametrize(("there", "missing"), [("test", "validation"), ("val", "test")])
def test_of_two_folders_the_third_part_is_what_the_hash_holds_out_of_train(
    tmp_path, there, missing
):
    fill(tmp_path, "train/ant", "train/bee", photos=60)
    alone = data.load(tmp_path, 8, tmp_path / "cache")
    held_out = {alone.names[i] for i in alone.splits[missing]}
    fill(tmp_path, f"{there}/ant", f"{there}/bee", photos=5)
    dataset = data.load(tmp_path, 8, tmp_path / "cache")
    assert {dataset.names[i] for i in dataset.splits[missing]} == held_out
    assert dataset.split_sizes()[missing] == len(held_out) > 0
    assert len(dataset.splits["train"]) == 120 - len(held_out)
    assert all(dataset.paths[i].startswith("train/") for i in dataset.splits[missing])


def test_numbers_that_begin_anew_in_each_folder_name_different_photos(tmp_path):
    for folder in ("train", "validation", "test"):
        fill(tmp_path, f"{folder}/cats", f"{folder}/dogs")
    save(tmp_path / "train/cats/cat.7.png")
    save(tmp_path / "test/cats/cat.7.png")
    save(tmp_path / "test/cats/cat.8.png")  # a number of Kaggle's
    found = index.find(tmp_path)
    assert sorted(found.names) == [
        "cat.0",
        "cat.7",
        "cat.8",
        "dog.0",
        "test/cat.0",
        "test/cat.7",
        "test/dog.0",
        "validation/cat.0",
        "validation/dog.0",
    ]


def test_copies_stay_where_the_user_put_them_and_are_reported(tmp_path, capsys):
    fill(tmp_path, "train/ant", "train/bee", "val/ant", "val/bee", "test/ant", "test/bee", photos=4)
    copy = tmp_path / "test/bee/copy.png"
    copy.write_bytes((tmp_path / "train/bee/0.png").read_bytes())
    dataset = data.load(tmp_path, 8, tmp_path / "cache")
    assert dataset.split_sizes() == {"train": 8, "validation": 8, "test": 9}
    assert data.main(["--data-dir", str(tmp_path), "--cache-dir", str(tmp_path / "cache")]) == 0
    assert "identical: 1 group of 2 photos, of which 1 straddle splits" in capsys.readouterr().out


def test_a_test_folder_without_the_classes_is_no_split(tmp_path, caplog):
    fill(tmp_path, "train/ant", "train/bee", "test", "test/unknown", "validation")
    found = index.find(tmp_path)
    assert found.given_split is None and found.root == tmp_path / "train"
    (said,) = caplog.messages
    assert said.endswith(": test/ (photos: 2), validation/ (photos: 1)")


def test_kaggles_test_photos_are_still_no_split(tmp_path):
    for c in ("cat", "dog"):
        save(tmp_path / f"train/{c}.1.jpg")
    fill(tmp_path, "test1", "test")
    assert index.find(tmp_path).given_split is None


def test_a_class_that_train_lacks_is_refused_and_one_that_test_lacks_is_told(tmp_path, caplog):
    fill(tmp_path, "train/ant", "train/bee", "train/fly", "test/ant", "test/bee")
    assert index.find(tmp_path).classes == ["ant", "bee", "fly"]
    assert "test has no photos of fly" in caplog.text
    fill(tmp_path, "test/wasp")
    assert "wasp too in" in refused(tmp_path, "expected photos of the classes of")


def test_two_folders_for_one_split_are_refused(tmp_path):
    fill(tmp_path, "train/ant", "train/bee", "val/ant", "val/bee", "valid/ant", "valid/bee")
    refused(tmp_path, "expected a folder of training photos and one folder for each split")


def test_a_class_may_be_called_train_within_train(tmp_path):
    fill(tmp_path, "train/bus", "train/train", "train/demo")
    assert index.find(tmp_path).classes == ["bus", "demo", "train"]


def test_names_of_splits_are_read_in_many_spellings(tmp_path, caplog):
    for number, (train, test) in enumerate(
        [
            ("training_set/training_set", "test_set/test_set"),
            ("x/seg_train/seg_train", "x/seg_test/seg_test"),
            ("Training", "Testing"),
            ("images/train-set", "images/Test Set"),
            ("train/images", "test/images"),
            ("asl_train", "asl_test"),
            ("training", "evaluation"),
        ]
    ):
        root = tmp_path / str(number)
        fill(root, f"{train}/cats", f"{train}/dogs", f"{test}/dogs", f"{test}/cats")
        fill(root, "x/seg_pred" if train[0] == "x" else ".git", photos=2)
        found = index.find(root)
        assert found.classes == ["cat", "dog"] and found.given_split.tolist() == [0, 0, 2, 2], train
        assert all((found.root / path).is_file() for path in found.paths)
        assert "split from" in found.summary and "2 classes: cat, dog" in found.summary
    assert "seg_pred/ (photos: 2)" in caplog.text and len(caplog.messages) == 1


def test_a_class_that_is_alone_in_a_split_is_not_left_out(tmp_path):
    fill(tmp_path, "train/cats", "train/dogs", "test/cats", "val/val/dogs")
    found = index.find(tmp_path)
    assert found.classes == ["cat", "dog"] and found.given_split.tolist() == [0, 0, 1, 2]


def test_splits_without_training_photos_are_refused(tmp_path):
    fill(tmp_path, "test/a", "test/b", "val/a", "val/b")
    assert "got val, test" in refused(tmp_path, "expected a folder of training photos")
    found = index.find(tmp_path, classes=["a", "b"])
    assert found.given_split.tolist() == [1, 1, 2, 2]
    fill(tmp_path, "one/val/a", "one/val/b", "one/c")
    assert index.find(tmp_path / "one", classes=["a", "b"]).labels.tolist() == [0, 1]


def test_a_data_set_beside_other_folders_is_taken(tmp_path, caplog):
    fill(tmp_path, "plots", *(f"set/{part}/{c}" for part in ("train", "test") for c in "ab"))
    assert index.find(tmp_path).classes == ["a", "b"]
    assert "plots/ (photos: 1)" in caplog.text
    fill(tmp_path, "set2/train/a", "set2/train/b", "set2/test/a")
    refused(tmp_path, "got set, set2 with folders of the same names (test, train)")


@pytest.mark.parametrize(
    ("first", "second", "classes"),
    [
        ("cat_{}.jpg", "dog_{}.jpg", ["cat", "dog"]),
        ("cat ({}).JPG", "Dog ({}).jpg", ["cat", "dog"]),
        ("great_dane_1{}.jpg", "Abyssinian_{}.jpg", ["Abyssinian", "great_dane"]),
        ("cat{}.jpg", "fox{}.jpg", ["cat", "fox"]),
        ("cat.{}.jpg", "fox.{}.jpg", ["cat", "fox"]),
    ],
)
def test_labels_in_names_are_read_if_all_have_one(tmp_path, first, second, classes):
    for n in range(3):
        save(tmp_path / "photos" / first.format(n)), save(tmp_path / "photos" / second.format(n))
    found = index.find(tmp_path)
    assert found.classes == classes and np.bincount(found.labels).tolist() == [3, 3]
    assert "labels from names such as" in found.summary


def test_labels_in_names_within_numbered_folders_are_read(tmp_path):
    for n in range(6):
        (
            save(tmp_path / f"batch{n % 2 + 1}/cat_{n}.jpg"),
            save(tmp_path / f"batch{n % 2 + 1}/fox_{n}.jpg"),
        )
    found = index.find(tmp_path)
    assert found.classes == ["cat", "fox"] and np.bincount(found.labels).tolist() == [6, 6]
    assert "labels from names such as batch1/cat_0.jpg" in found.summary
    batches = ["batch1", "batch2"]
    assert index.find(tmp_path, classes=batches).classes == batches
    save(tmp_path / "batch2/unnamed.jpg")
    assert index.find(tmp_path).classes == batches
    fill(tmp_path / "digits", "1", "2", "3", photos=2)
    assert index.find(tmp_path / "digits").classes == ["1", "2", "3"]


def test_what_is_wrong_with_labels_is_told(tmp_path):
    for n in range(3):
        save(tmp_path / f"cat_{n}.jpg"), save(tmp_path / f"Cat_1{n}.jpg")
    refused(tmp_path, "got photos such as Cat_10.jpg, whose names say only cat")
    (tmp_path / "labels.txt").touch()
    refused(tmp_path, "or labels.csv; beside the photos: labels.txt")
    rows = [f"{each},{n % 2},{n // 2}\n" for n, each in enumerate(os.listdir(tmp_path)[:4])]
    (tmp_path / "info.csv").write_text("file,sex,ill\n" + "".join(rows))
    refused(tmp_path, "info.csv: expected a column named label, got column sex, column ill")
    save(tmp_path / "group photo.jpg")
    refused(tmp_path, "got photos such as group photo.jpg without")


@pytest.mark.parametrize("names", [("IMG_{}", "DSC_{}"), ("cat_{}_flip", "dog_{}"), ("{}", "a_{}")])
def test_names_without_labels_are_refused_with_what_helps(tmp_path, names):
    for n in range(3):
        save(tmp_path / f"{names[0].format(n)}.jpg"), save(tmp_path / f"{names[1].format(n)}.jpg")
    with pytest.raises(
        index.NoPhotos, match=r"photos such as .* names such as cat_7.jpg, or labels.csv"
    ):
        data.load(tmp_path, 8, tmp_path / "cache")


def test_classes_that_are_named_like_splits_are_refused_with_the_reason(tmp_path):
    fill(tmp_path, "blood_test", "urine_test")
    words = "named like splits: blood_test, urine_test; rename those that are classes"
    assert refused(tmp_path, "got photos such as blood_test/0.png without").endswith(words)


def test_files_that_are_no_photos_are_counted(tmp_path, caplog):
    fill(tmp_path, "ant", "bee")
    for name in ("ant/0.xml", "ant/1.XML", "models/best.h5", "ant/README"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    found = index.find(tmp_path)
    assert found.classes == ["ant", "bee"] and found.others == {".xml": 2, "": 1, ".h5": 1}
    assert "models/ (photos: 0)" in caplog.text
    (tmp_path / "none").mkdir()
    (tmp_path / "none/0.npy").write_text("x")
    with pytest.raises(UserError, match=r"got other files \(.npy: 1\)"):
        data.load(tmp_path / "none", 8, tmp_path / "cache")


def test_the_classes_of_a_network_keep_their_folders(tmp_path):
    fill(tmp_path, "bee", photos=2)
    (tmp_path / "ant").mkdir()
    found = index.find(tmp_path, classes=["ant", "bee"])
    assert found.classes == ["ant", "bee"] and found.labels.tolist() == [1, 1]
    save(tmp_path / "beside.jpg")
    assert index.find(tmp_path, classes=["ant", "bee"]).paths == found.paths
    fill(tmp_path, "train")
    assert index.find(tmp_path, classes=["ant", "bee", "train"]).labels.tolist() == [1, 1, 2]


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        ("fold_{1,2}/{ant,bee}", "got fold_1, fold_2 with folders of the same names (ant, bee)"),
        ("fold_{1,2}/{0,1}", "got fold_1, fold_2 with folders of the same names (0, 1)"),
        ("{old,new}/{ant,bee}", "got new, old with folders of the same names (ant, bee)"),
        ("{ant,bee}/{images,masks}", "got ant, bee with folders of the same names (images, masks)"),
        ("{ant,bee}/{train,test}", "got ant, bee with folders of the same names (test, train)"),
        ("{train,test}/{old,new}/{ant,bee}", "train, got new, old with folders of the same names"),
        ("{JPEGImages,masks}", "got photos such as JPEGImages/0.png without"),
    ],
)
def test_parts_and_views_of_a_data_set_are_no_classes(tmp_path, folders, words):
    fill(tmp_path, *braces(folders))
    refused(tmp_path, words)


def test_classes_may_hold_folders_of_the_same_names(tmp_path, caplog):
    fill(tmp_path, *braces("{train,test}/{ant,bee}/{day,night}"))
    assert index.find(tmp_path).classes == ["ant", "bee"]
    (said,) = [line for line in caplog.messages if "taken for classes" in line]
    assert said.endswith("taken for classes: ant, bee, with folders of the same names (day, night)")


def braces(text):
    head, brace, rest = text.partition("{")
    if not brace:
        return [text]
    inside, _, tail = rest.partition("}")
    return [head + each + more for each in inside.split(",") for more in braces(tail)]


@pytest.mark.parametrize(
    ("folders", "classes"),
    [
        ("{ant,bee}/{2023,2024}", ["ant", "bee"]),
        ("{train,val}2017/{ant,bee}", ["ant", "bee"]),
        ("{set/images,masks}/{ant,bee}", ["ant", "bee"]),
        ("{train,test}/{images,tables}/{ant,bee}", ["ant", "bee"]),
        ("{.,copy/copy}/{ant,bee}", ["ant", "bee"]),
        ("{photos,drawings}", ["drawings", "photos"]),
    ],
)
def test_class_folders_are_found_among_copies_and_masks(tmp_path, folders, classes, caplog):
    fill(tmp_path, *braces(folders))
    found = index.find(tmp_path)
    assert found.classes == classes
    for other in ("masks", "copy"):
        assert (f"left out in {tmp_path}: {other}/ (photos: 2)" in caplog.text) == (
            other in folders
        )


def test_masks_beside_photos_with_labels_in_their_names_are_left_out(tmp_path, caplog):
    for n in range(3):
        for folder in ("images", "annotations/trimaps"):
            save(tmp_path / folder / f"ant_{n}.png"), save(tmp_path / folder / f"bee_{n}.png")
    found = index.find(tmp_path)
    assert found.classes == ["ant", "bee"] and found.root.name == "images"
    assert "annotations/ (photos: 6)" in caplog.text
    assert "ant, bee: taken for classes from names; if they are none, use folders" in caplog.text


def test_masks_beside_their_photos_are_left_out(tmp_path, caplog):
    for name in ("ant/a (1)", "ant/a (1)_mask", "ant/a (1)_mask_1", "bee/1", "bee/with_mask"):
        save(tmp_path / f"{name}.png")
    assert index.find(tmp_path).paths == ["ant/a (1).png", "bee/1.png", "bee/with_mask.png"]
    assert "as masks of other photos: ant/a (1)_mask.png, ant/a (1)_mask_1.png" in caplog.text


def test_runs_and_environments_among_the_photos_are_no_classes(tmp_path, caplog):
    fill(tmp_path, "ant", "bee", "mine/run", "env/lib", "results", "@home")
    for name in ("mine/run/config.json", "mine/run/history.csv", "env/pyvenv.cfg"):
        (tmp_path / name).touch()
    assert index.find(tmp_path).classes == ["@home", "ant", "bee", "results"]
    assert "@home, results in" in caplog.text and "taken for classes" in caplog.text


def test_numbered_folders_give_way_to_a_csv_file_and_others_are_told(tmp_path, caplog):
    kinds = (
        ("numbered", "part_1 part_2", "dx"),
        ("named", "old new", "dx"),
        ("sex", "s1 s2", "sex"),
    )
    for root, names, column in kinds:
        names = names.split()
        rows = [f"{folder[-1]}{n},{'xy'[n % 2]}\n" for folder in names for n in range(4)]
        for folder in names:
            for n in range(4):
                save(tmp_path / root / folder / f"{folder[-1]}{n}.png")
        (tmp_path / root / "meta.csv").write_text(f"image,{column}\n" + "".join(rows))
    assert index.find(tmp_path / "numbered").classes == ["x", "y"]
    assert caplog.messages == ["not taken for classes: part_1, part_2"]
    save(tmp_path / "numbered/stray.png")
    with (tmp_path / "numbered/meta.csv").open("a") as file:
        file.write("stray,x\n")
    assert index.find(tmp_path / "numbered").classes == ["x", "y"]
    caplog.clear()
    assert index.find(tmp_path / "named").classes == ["new", "old"]
    assert index.find(tmp_path / "sex").classes == ["s1", "s2"]
    for said, column in zip(caplog.messages, ("dx", "sex"), strict=True):
        assert said.startswith("not used: labels from") and f"column {column} the label" in said


def test_splits_of_one_class_each_are_scored_for_a_network(tmp_path):
    fill(tmp_path, "val/ant", "test/bee")
    assert index.find(tmp_path, classes=["ant", "bee"]).given_split.tolist() == [1, 2]


# --- Mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", ["fly", "train/fly", "test/bee"])
def test_a_class_folder_without_photos_is_named(tmp_path, empty):
    inside = "train/" if "/" in empty else ""
    fill(tmp_path, f"{inside}ant", f"{inside}bee", *(["test/ant"] if "test" in empty else []))
    (tmp_path / empty / "deep").mkdir(parents=True)
    assert refused(tmp_path, "got none in").endswith(empty)


def test_a_class_of_which_no_photo_can_be_read_is_named(tmp_path):
    fill(tmp_path, "ant", "bee", photos=30)
    for n in range(3):
        (tmp_path / "fly").mkdir(exist_ok=True)
        (tmp_path / f"fly/{n}.jpg").write_text("<html>")
    with pytest.raises(
        UserError, match=r"0 of fly; skipped 3 files, the first fly/0.jpg: .* got a web page"
    ):
        inspect.check(data.load(tmp_path, 8, tmp_path / "cache"))


@pytest.mark.parametrize("names", [("Bee", "bee"), ("Cats", "cat"), ("Dog", "dogs")])
def test_folders_that_differ_in_case_only_or_name_one_class_are_refused(tmp_path, names):
    fill(tmp_path, "ant", *names)
    refused(tmp_path, f"expected one folder for each class, got both {names[0]} and {names[1]}")


def test_a_thousand_classes_are_taken_and_one_more_is_refused(tmp_path, monkeypatch):
    fill(tmp_path, *(f"{i:04}" for i in range(1000)))
    found = index.find(tmp_path)
    assert len(found.classes) == 1000
    np.testing.assert_array_equal(found.labels, np.arange(1000))
    fill(tmp_path, "one more")
    refused(tmp_path, "expected 2 to 1,000 classes, got 1,001")


@pytest.mark.parametrize(
    ("stray", "classes"),
    [
        ("cat.1.jpg", ["cats", "dogs"]),
        ("cat.1.jpg", ["train/ant", "train/bee"]),
        ("cat.1.jpg", ["PetImages/Cat", "PetImages/Dog"]),
        ("train/dog.1.jpg", ["train/a", "train/b"]),
        ("cat.1.jpg", ["more/train/a", "more/train/b"]),
    ],
)
def test_photos_of_kaggles_names_beside_class_folders_are_refused(tmp_path, stray, classes):
    fill(tmp_path, *classes)
    save(tmp_path / stray)
    assert f"({stray.split('/')[-1]})" in refused(tmp_path, "expected one layout in")


def test_folders_that_cannot_be_listed_are_named(tmp_path, monkeypatch):
    fill(tmp_path, "ant", "bee", "lost+found")
    scandir = os.scandir

    def refuse(path):
        if os.path.basename(path) in ("closed", "lost+found"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may list everything
    assert index.find(tmp_path).classes == ["ant", "bee"]
    (tmp_path / "closed").mkdir()
    assert refused(tmp_path, "cannot read").endswith("closed: Permission denied")


def test_links_that_lead_back_are_passed_over(tmp_path):
    fill(tmp_path, "ant", "bee")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "ant/up").symlink_to(tmp_path)
    (tmp_path / "ant/self.jpg").symlink_to("self.jpg")
    (tmp_path / "twin").symlink_to("ant")
    found = index.find(tmp_path)
    assert found.paths == ["ant/0.png", "ant/self.jpg", "bee/0.png"]


@pytest.mark.parametrize("inside", ["train/cat.{}.jpg train/dog.{}.jpg",
                                    "train/cat.{}.jpg train/dog.{}.jpg test1/{}.jpg",
                                    "PetImages/Cat/{}.jpg PetImages/Dog/{}.jpg"])  # fmt: skip
def test_a_public_data_set_one_folder_down_is_found_beside_others(tmp_path, inside):
    for name in [*(each.format(i) for each in inside.split() for i in range(3)), "../notes/a.jpg"]:
        path = tmp_path / "photos" / "download" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"any")
    found = index.find(tmp_path / "photos")
    assert found.classes == ["cat", "dog"] and len(found.paths) == 6
