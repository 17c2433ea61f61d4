"""What makes two settings the same: values, and for functions their code, as text that can be
hashed and compared.
"""

from __future__ import annotations

import functools
import hashlib
import io
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphformer._moved import former_name


def describe(value: Any, _open: tuple[int, ...] = ()) -> Any:
    """A value as JSON: equal for equal settings, in another process too.

    Arrays and tensors are given by their hash. Functions are given by name, code, defaults and what
    they close over, objects by their class, its code and their attributes; so two lambdas in one
    file differ, and an edited transform differs from the old one. What a function reads from its
    module is not followed.

    Raises:
        TypeError: something that cannot be described, such as an open file.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if id(value) in _open:
        return "itself"  # an object that refers to itself
    inner = functools.partial(describe, _open=(*_open, id(value)))
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return {
            "array": [
                str(value.dtype),
                list(value.shape),
                _sha(np.ascontiguousarray(value).tobytes()),
            ]
        }
    if isinstance(value, bytes):
        return {"bytes": _sha(value)}
    if isinstance(value, list | tuple):
        return [inner(item) for item in value]
    if isinstance(value, set | frozenset):
        return {"set": sorted((inner(item) for item in value), key=str)}
    if isinstance(value, Mapping):
        return {"map": [[inner(key), inner(value[key])] for key in sorted(value, key=str)]}
    if isinstance(value, functools.partial):
        return {"partial": [inner(value.func), inner(value.args), inner(value.keywords)]}
    if isinstance(value, types.MethodType):
        return {
            "method": [
                value.__func__.__qualname__,
                inner(value.__self__),
                _code(value.__func__.__code__),
            ]
        }
    if isinstance(value, types.FunctionType):
        closed = [inner(cell.cell_contents) for cell in value.__closure__ or ()]
        kept = [inner(value.__defaults__), inner(value.__kwdefaults__), closed]
        return {
            "function": [
                former_name(value.__module__),
                value.__qualname__,
                _code(value.__code__),
                *kept,
            ]
        }
    if isinstance(value, types.BuiltinFunctionType | np.ufunc | torch.dtype):
        return {"name": str(value)}
    if isinstance(value, type):
        return {"class": _class(value)}
    if isinstance(value, types.ModuleType):
        return {"module": [value.__name__, str(getattr(value, "__version__", ""))]}
    if hasattr(value, "__dict__") and not isinstance(value, io.IOBase):
        return {"object": [_class(type(value)), inner(vars(value))]}
    raise TypeError(
        f"a setting of type {type(value).__qualname__} cannot be described, so a cache made with "
        "it could not be told from others; use numbers, text, arrays, functions or plain objects, "
        "or root=None, which keeps no cache."
    )


def _class(cls: type) -> list[str]:
    parts = [part for base in cls.__mro__ for part in vars(base).values()]
    functions = [
        getattr(part, "__func__", None) or getattr(part, "fget", None) or part for part in parts
    ]
    return [
        former_name(cls.__module__),
        cls.__qualname__,
        _sha(
            "".join(
                _code(f.__code__) for f in functions if isinstance(f, types.FunctionType)
            ).encode()
        ),
    ]


def _code(code: types.CodeType) -> str:
    """The hash of what runs; where it stands in the file does not matter."""
    return _sha(
        repr(
            (
                code.co_code.hex(),
                [_constant(c) for c in code.co_consts],
                code.co_names,
                code.co_varnames,
            )
        ).encode()
    )


def _constant(value: Any) -> str:
    if isinstance(value, types.CodeType):
        return _code(value)
    if isinstance(value, frozenset):
        # the order of a set of strings is another one in each process
        return repr(sorted(map(_constant, value)))
    return repr(value)


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
