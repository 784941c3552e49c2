"""A bundle's weights, read without Keras: checked by their hash, then by name, type and shape."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from closecast.storage.core.errors import Damaged
from closecast.storage.models.bundles import WEIGHTS, Bundle, Draft
from tests.helpers import one_line

KERNEL, BIAS = "layers/dense/vars/0", "layers/dense/vars/1"
SHAPES: dict[str, tuple[int, ...]] = {BIAS: (2,), KERNEL: (3, 2)}
ARRAYS = {
    KERNEL: np.arange(6, dtype=np.float32).reshape(3, 2) / np.float32(7),
    BIAS: np.array([np.pi, -0.0], np.float32),
}


def hdf5(arrays: dict[str, Any]) -> bytes:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return content.getvalue()


def bundle(folder: Path, content: bytes) -> Bundle:
    draft = Draft(folder)
    draft.write(WEIGHTS, content)
    return Bundle(draft.folder, draft.seal())


def test_weights_are_read_in_the_order_that_is_asked_for(tmp_path: Path) -> None:
    weights = bundle(tmp_path, hdf5(ARRAYS)).read_weights(SHAPES)
    assert [array.dtype for array in weights] == [np.float32, np.float32]
    assert [array.tobytes() for array in weights] == [ARRAYS[name].tobytes() for name in SHAPES]


@pytest.mark.parametrize(
    ("arrays", "lacking"),
    [
        ({KERNEL: ARRAYS[KERNEL]}, BIAS),
        ({BIAS: ARRAYS[BIAS]}, KERNEL),
        (ARRAYS | {KERNEL: ARRAYS[KERNEL].T}, KERNEL),
        (ARRAYS | {BIAS: ARRAYS[BIAS].astype(np.float64)}, BIAS),
        ({f"{KERNEL}/0": ARRAYS[KERNEL], BIAS: ARRAYS[BIAS]}, KERNEL),
        ({"layers": 1.0}, BIAS),
    ],
)
def test_a_missing_or_foreign_array_is_damage(tmp_path: Path, arrays: dict[str, Any], lacking: str) -> None:
    with pytest.raises(Damaged, match=f"needs float32 weights {lacking} of the shape", check=one_line):
        bundle(tmp_path, hdf5(arrays)).read_weights(SHAPES)


@pytest.mark.parametrize("content", [b"", b"weights", hdf5(ARRAYS)[:800]])
def test_a_file_that_is_no_hdf5_is_damage(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(Damaged, match=r"model\.weights\.h5 is not an HDF5 file: restore it from a backup"):
        bundle(tmp_path, content).read_weights(SHAPES)


def test_a_changed_file_is_not_opened(tmp_path: Path) -> None:
    stored = bundle(tmp_path, hdf5(ARRAYS))
    (tmp_path / WEIGHTS).write_bytes(hdf5({KERNEL: ARRAYS[KERNEL] + 1, BIAS: ARRAYS[BIAS]}))
    with pytest.raises(Damaged, match="is not the file that was stored"):
        stored.read_weights(SHAPES)
