"""Run directories: what is whole is read, what is not is refused in one line."""

import json

import numpy as np
import pytest

import files
import runs
from terminal import UserError

CONFIG = {"classes": ["cat", "dog"], "score_size": 64, "temperature": 1.0}


def test_a_config_is_read_as_it_was_written(tmp_path):
    runs.create(tmp_path / "run", CONFIG)
    assert runs.read_config(tmp_path / "run") == CONFIG


@pytest.mark.parametrize("text", [
    "", "{", "[]", "null", "7", *(
        json.dumps({**CONFIG, **change}) for change in (
            {"classes": "cat"}, {"classes": ["cat"]}, {"classes": [1, 2]}, {"score_size": "64"},
            {"score_size": 0}, {"score_size": 10**9}, {"temperature": 0},
            {"temperature": "1"})),
    *(json.dumps({k: v for k, v in CONFIG.items() if k != key})
      for key in ("classes", "score_size")),
])
def test_a_config_that_train_did_not_write_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"^--model: .*config\.json is not"):
        runs.read_config(tmp_path)


def test_a_checkpoint_comes_back_as_it_was_written_and_a_torn_one_is_refused(tmp_path):
    assert runs.read_checkpoint(tmp_path) is None
    arrays = [np.arange(6.0).reshape(2, 3), np.array(7)]
    runs.write_checkpoint(tmp_path, {"updates": 3}, arrays)
    state, again = runs.read_checkpoint(tmp_path)
    assert state == {"updates": 3}
    for a, b in zip(arrays, again, strict=True):
        np.testing.assert_array_equal(a, b)
    whole = (tmp_path / "checkpoint.npz").read_bytes()
    for torn in (b"", whole[:10], whole[: len(whole) // 2], whole[:-1], b"\0" * len(whole)):
        (tmp_path / "checkpoint.npz").write_bytes(torn)
        with pytest.raises(UserError, match="--resume: cannot read"):
            runs.read_checkpoint(tmp_path)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(KeyboardInterrupt), files.whole_file(tmp_path / "file") as temporary:
        temporary.write_text("ne")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"
    with files.whole_file(tmp_path / "file") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "file").read_text() == "new"


def test_an_output_that_exists_or_lies_below_a_file_is_refused_before_any_work(tmp_path):
    files.check_new(tmp_path / "new" / "deep")
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match="--output: expected"):
            files.check_new(path)
