"""Arrays of numpy, or of any library that follows the array API standard (data-apis.org/array-api), such as torch.

The solvers (:mod:`tabular.stackelberg`, :mod:`tabular.nash`, :mod:`tabular.rlhf`) find their functions in the library
of the array they are given, so a tensor on a GPU has a GPU answer, and numpy users need no torch. Everything else in
``tabular`` is for numpy and refuses other arrays: nothing is converted or moved between devices in silence.
"""

from __future__ import annotations

from typing import Any

import array_api_compat
import numpy as np
from array_api_compat import (
    device,
    is_array_api_obj,
    is_numpy_array,
    is_torch_array,
    is_writeable_array,
)
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
"""A float64 array of numpy."""
AnyArray = Any
"""A float64 array of any library that follows the standard; static types for those do not exist yet."""


def owned(values: ArrayLike | AnyArray) -> AnyArray:
    """A fresh float64 copy: of an array by its own library and on its device, of anything else by numpy.

    Raises:
        TypeError, ValueError: it holds no numbers, or is an array that this project cannot work on.
    """
    if not is_array_api_obj(values) or is_numpy_array(values):
        return np.array(real(values), dtype=np.float64, order="C")
    if getattr(values, "requires_grad", False):
        raise TypeError("it is part of an autograd graph, which solvers do not extend; pass it with .detach()")
    if not is_writeable_array(values):
        raise TypeError(f"{type(values)} cannot be written to, as the solvers need; pass it as a numpy array")
    xp = array_namespace(values)
    return xp.asarray(values, dtype=xp.float64, copy=True)


def like(values: ArrayLike | AnyArray, pattern: AnyArray) -> AnyArray:
    """``values`` as a float64 array of the library and on the device of ``pattern``; not copied if it is one.

    Raises:
        TypeError, ValueError: it holds no numbers, or is an array of another library or on another device.
    """
    xp = array_namespace(pattern)
    if is_array_api_obj(values) and kind(values) != kind(pattern):
        raise TypeError(f"it is {kind(values)} where the preferences are {kind(pattern)}; convert one of them")
    if is_numpy_array(pattern):
        return np.asarray(real(values), dtype=np.float64)
    return xp.asarray(values, dtype=xp.float64, device=device(pattern))


def of_numpy(values: ArrayLike) -> Array:
    """``values`` as a float64 array of numpy; not copied if it is one.

    Raises:
        TypeError, ValueError: it holds no numbers, or is an array of another library.
    """
    return like(values, np.empty(0))


def real(values: ArrayLike) -> NDArray[Any]:
    """An array of numpy, but not of complex numbers or text, which it would make numbers of in silence.

    Raises:
        TypeError, ValueError: it is.
    """
    array = np.asarray(values)
    if array.dtype.kind in "cSU":
        raise TypeError(f"it holds {'complex numbers' if array.dtype.kind == 'c' else 'text'}, not real numbers")
    return array


def kind(array: AnyArray) -> str:
    """What errors call an array: "numpy", or its library and device."""
    if is_numpy_array(array):
        return "numpy"
    return f"{type(array).__module__.partition('.')[0]} on {device(array)}"


def array_namespace(*arrays: AnyArray) -> Any:
    """The library of arrays, as the standard has it. numpy's own functions are that for what is used here.

    ``array_api_compat`` has wrappers of them too; importing those imports all of numpy, which takes longer than most
    games, and finding them takes longer than most functions do for small ones.
    """
    for array in arrays:
        if not isinstance(array, (np.ndarray, np.generic)):
            return array_api_compat.array_namespace(*arrays)
    return np


def solve(matrix: AnyArray, right: AnyArray) -> AnyArray:
    """``(..., n, k)``: the solutions x of matrix x = right, for ``(..., n, n)`` and ``(..., n, k)``.

    Tensors in main memory are solved by numpy, which shares their memory: torch 2.13 with MKL fails on batches there
    ("Pivots given to lu_solve must all be greater or equal to 1").
    """
    xp = array_namespace(matrix, right)
    if is_torch_array(matrix) and matrix.device.type == "cpu":
        return xp.asarray(np.linalg.solve(matrix.numpy(), right.numpy()))
    return xp.linalg.solve(matrix, right)


def first(mask: AnyArray) -> tuple[int, ...]:
    """The index of the first True entry of an array that has one."""
    xp = array_namespace(mask)
    position = int(xp.argmax(xp.astype(xp.reshape(mask, (-1,)), xp.int8)))
    return tuple(int(i) for i in np.unravel_index(position, tuple(mask.shape)))
