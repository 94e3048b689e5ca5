"""JSON that every reader takes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from catdog import files


def test_to_json_is_strict_and_on_one_line():
    text = files.to_json(
        {
            "nan": math.nan,
            "inf": [-math.inf, np.float32(np.inf)],
            "path": Path("a") / "b",
            "array": np.array([[1.5, np.nan]]),
            "int": np.int64(3),
            "bool": (np.bool_(True), False),
            "long": np.longdouble(0.5),
            "empty": np.zeros((0, 2)),
            "text": "line\nline",
            1: None,
        }
    )
    assert "\n" not in text
    assert json.loads(text, parse_constant=pytest.fail) == {
        "nan": None,
        "inf": [None, None],
        "path": str(Path("a") / "b"),
        "array": [[1.5, None]],
        "int": 3,
        "bool": [True, False],
        "long": 0.5,
        "empty": [],
        "text": "line\nline",
        "1": None,
    }
    with pytest.raises(TypeError):
        files.to_json({"object": object()})
