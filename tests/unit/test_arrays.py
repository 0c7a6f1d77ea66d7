"""NumPy in, NumPy out; torch in, torch out."""

import numpy as np
import pytest
import torch

from helpers._arrays import is_tensor, like, to_numpy, to_tensor


def test_kinds_are_told_apart():
    assert is_tensor(torch.ones(1)) and is_tensor(torch.nn.Parameter(torch.ones(1)))
    assert not is_tensor(np.ones(1)) and not is_tensor([1.0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_floats_keep_their_type_and_share_memory(dtype):
    array = np.ones(3, dtype)
    tensor = to_tensor(array)
    assert str(tensor.dtype) == f"torch.{dtype}"
    tensor[0] = 5
    assert array[0] == 5, "no copy without need"


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool"])
def test_integers_become_float32(dtype):
    assert to_tensor(np.ones(3, dtype)).dtype == torch.float32
    assert to_tensor(torch.ones(3, dtype=torch.int64)).dtype == torch.float32
    assert to_tensor(np.ones(3, dtype), dtype=torch.float64).dtype == torch.float64


def test_lists_and_foreign_byte_order_are_taken():
    assert to_tensor([1.0, 2.0]).tolist() == [1, 2]
    assert to_tensor(np.array([1.0, 2.0], ">f8")).tolist() == [1, 2]


def test_back_to_numpy_without_the_graph():
    tensor = torch.ones(2, requires_grad=True) * 3
    assert to_numpy(tensor).tolist() == [3, 3]
    assert isinstance(to_numpy([1, 2]), np.ndarray)


def test_the_answer_has_the_kind_of_the_question():
    answer = torch.ones(2)
    assert like(answer, torch.zeros(1)) is answer
    assert isinstance(like(answer, np.zeros(1)), np.ndarray)
    assert isinstance(like(answer, [0.0]), np.ndarray)
