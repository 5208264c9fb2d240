"""What keeps a request whose shape numpy cannot hold from ending the process that serves a model.

Triton's core (2.51) compares a tensor's bytes with the product of its sizes modulo 2⁶⁴. Where a model takes pictures of
any size, [1, 2³², 2³², 3] passes without a byte. Triton's Python stub then makes a numpy array of that shape outside of
any `try`: numpy raises, the process ends, and Triton does not start it again.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable
from typing import Any

from heatserve.serving.pixels import IMPOSSIBLE_SHAPE

_NEW_FROM_DESCR = 94  # the place of `PyArray_NewFromDescr` in numpy's table of C functions, part of its stable ABI
_Address, _Sizes = ctypes.c_void_p, ctypes.POINTER(ctypes.c_ssize_t)
# type, dtype, number of axes, sizes, strides, data, flags, base → the array. Addresses pass through uncounted.
_Make = ctypes.PYFUNCTYPE(
    _Address, _Address, _Address, ctypes.c_int, _Sizes, _Address, _Address, ctypes.c_int, _Address
)
_kept = list[object]()  # the stub goes on to call what is in here, so that it must not be collected


def survive_impossible_shapes(make_tensor: Callable[[], object]) -> None:
    """Have Triton's stub make an empty array of `IMPOSSIBLE_SHAPE` where numpy would raise.

    Args:
        make_tensor: makes the stub look up numpy's functions, which it does once. It finds ours in the place of
            `PyArray_NewFromDescr`; whoever looks later finds numpy's again.
    """
    numpy_core: Any = sys.modules["numpy.core.multiarray"]
    pointer_of = ctypes.PYFUNCTYPE(_Address, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    table = ctypes.cast(pointer_of(numpy_core._ARRAY_API, None), ctypes.POINTER(_Address))
    numpys_address = table[_NEW_FROM_DESCR]
    assert numpys_address is not None
    numpys = _Make(numpys_address)

    def make(kind: int, dtype: int, axes: int, sizes: Any, strides: int, data: int, flags: int, base: int) -> Any:
        if _is_possible(sizes[:axes]):
            return numpys(kind, dtype, axes, sizes, strides, data, flags, base)
        return numpys(kind, dtype, 1, (ctypes.c_ssize_t * 1)(*IMPOSSIBLE_SHAPE), None, data, flags, base)

    ours = _Make(make)
    _kept.append(ours)
    table[_NEW_FROM_DESCR] = ctypes.cast(ours, _Address)
    try:
        make_tensor()
    finally:
        table[_NEW_FROM_DESCR] = numpys_address


def _is_possible(sizes: list[int]) -> bool:
    """Whether numpy can count the bytes of such an array: it leaves out sizes of 0, and an item may have 16 bytes."""
    return min(sizes, default=0) >= 0 and math.prod(size for size in sizes if size) <= sys.maxsize // 16
