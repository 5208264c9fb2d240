"""What a caller may give as images, and the one error that each of the others gets before anything is sent."""

from __future__ import annotations

import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from heatserve import ServingError
from heatserve.serving.client.image_batch import as_batch

SHAPE = (1, 2, 2)
ONE = np.full(SHAPE, 0.5, np.float32)
MASKED: Any = np.ma.masked_equal(ONE, 0.5)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    "images",
    [
        ONE,
        [ONE, ONE],
        torch.from_numpy(ONE),
        [[[np.float32(0.5)] * 2] * 2],
        ONE.astype(">f4").astype("f4"),
        ONE[..., ::-1],
    ],
    ids=["array", "list of arrays", "tensor", "scalars of numpy", "native", "reversed"],
)
def test_whatever_is_float32_is_taken(images: Any) -> None:
    batch = as_batch(images, SHAPE, "FP32")
    assert batch.dtype == np.float32
    assert batch.shape[1:] == SHAPE
    assert (batch == 0.5).all()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "image: expected at least one image, found an empty batch"),
        ([[]], "image: expected at least one image, found an empty batch"),
        ([[1.0], [1.0, 2.0]], "image: expected images of one shape, found lists of unequal lengths"),
        ([ONE, ONE[:, :1]], "image: expected images of one shape, found lists of unequal lengths"),
        (torch.from_numpy(ONE).requires_grad_(), "image: expected an array, found a Tensor that gives none"),
        (torch.from_numpy(ONE).bfloat16(), "BFloat16); pass images.detach().float().cpu()"),
        (torch.nn.Parameter(torch.from_numpy(ONE)), "found a Parameter that gives none"),
        (ONE.astype(ml_dtypes.bfloat16), "image: expected dtype float32 in [0,1], or uint8; found bfloat16"),
        (ONE.astype(np.float16), "found float16; convert it first"),
        ([[[0.5, 0.5], [0.5, 0.5]]], "found float64; convert it first"),
        (np.array([None, ONE], object), "found object (NoneType and the like)"),
        (None, "found object (NoneType and the like)"),
        ("cat.png", "image: expected dtype float32 in [0,1], or uint8; found <U7"),
        (np.float32(0.5), "image: expected float32 [N,C,H,W] = [N,1,2,2], or one [1,2,2]; found []"),
        (MASKED, "image: expected an array, found a masked one"),
        (ONE * np.float32(np.nan), "has 4 NaN of 4 values (no finite value)"),
        (2 * ONE * np.float32(1 + 1e-7), "has 4 outside [0,1] of 4 values (min 1 + 1.2e-07 and max 1 + 1.2e-07)"),
        (-1e-9 * ONE, "has 4 outside [0,1] of 4 values (min -5e-10 and max -5e-10)"),
    ],
)
def test_everything_else_gets_one_clear_error(images: Any, message: str) -> None:
    with pytest.raises(ServingError, match=re.escape(message)):
        as_batch(images, SHAPE, "FP32")


@pytest.mark.parametrize("input_type", ["FP32", "UINT8"])
def test_an_image_that_was_made_uint8_in_0_to_1_is_not_taken_for_a_black_one(input_type: Any) -> None:
    halves = np.array([[0.2, 1.0], [0.9, 0.0]], np.float32)[None]
    with pytest.raises(ServingError, match="expected uint8 from 0 to 255, found none above 1"):
        as_batch(halves[..., None].astype(np.uint8), SHAPE, input_type)
    black = np.zeros((1, 2, 2, 1), np.uint8)
    assert as_batch(black, SHAPE, input_type).max() == 0
