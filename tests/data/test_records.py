"""What a reader may say of an image, and what not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from efpn.data.records import Record
from efpn.errors import UserError

BOX = [1.0, 2.0, 11.0, 12.0]


def test_lists_become_arrays_and_what_is_not_given_is_unknown() -> None:
    record = Record(7, "folder/a.jpg", [BOX, BOX], [1.0, 2.0])
    assert record.path == Path("folder/a.jpg") and record.size is None
    assert (record.boxes.shape, record.boxes.dtype, record.labels.dtype) == ((2, 4), np.float64, np.int64)
    assert record.trainable.tolist() == [True, True] and np.isnan(record.area).all()
    empty = Record(8, "b.jpg", [], [], size=(30, 40))
    assert (empty.boxes.shape, empty.labels.shape, empty.size) == ((0, 4), (0,), (30, 40))
    kept = Record(7, "a.jpg", [BOX, BOX], [1, 2], crowd=[True, False], area=[5, 6]).keep(np.array([False, True]))
    assert (kept.labels.tolist(), kept.crowd.tolist(), kept.area.tolist()) == ([2], [False], [6.0])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"boxes": [BOX], "labels": [1, 2]}, r"labels is \(2,\); with 1 boxes it has to be \(1,\)"),
        ({"crowd": [False, True, False]}, r"crowd is \(3,\); with 1 boxes"),
        ({"area": 5.0}, r"area is \(\); with 1 boxes"),
        ({"boxes": [BOX[:3]]}, r"boxes is \(1, 3\); it has to be \(n, 4\)"),
        ({"boxes": BOX}, r"boxes is \(4,\)"),
        ({"boxes": [BOX, BOX[:3]], "labels": [1, 1]}, "inhomogeneous"),
        ({"labels": [1.5]}, r"labels \[1.5\] are not whole numbers"),
        ({"labels": ["sign"]}, "'sign'"),
        ({"image_id": "7"}, "'str' object cannot be interpreted as an integer"),
        ({"size": 40}, "not subscriptable"),
    ],
)
def test_what_does_not_fit_is_told_with_the_image(given: dict[str, Any], said: str) -> None:
    fields: dict[str, Any] = {"image_id": 7, "path": "a.jpg", "boxes": [BOX], "labels": [1]}
    with pytest.raises(UserError, match=rf"Record of image 7 \(a.jpg\): .*{said}"):
        Record(**fields | given)
