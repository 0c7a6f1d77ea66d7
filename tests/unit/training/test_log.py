"""Curves: read in the order of the steps, whatever the files are called."""

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from helpers.training import read_curves


def write(folder, steps, value, name, purge=None):
    """One process's event file under a name of its own."""
    with SummaryWriter(str(folder / name), purge_step=purge) as writer:
        for step in steps:
            writer.add_scalar("loss", value, step)
            if step % 5 == 0:
                writer.add_scalar("metric", value, step)
    (file,) = (folder / name).iterdir()
    file.rename(folder / f"events.out.tfevents.1700000000.{name}")


@pytest.mark.parametrize("names", ["abc", "cba", "bca"])
def test_what_was_made_again_counts_once_in_any_order_of_names(tmp_path, names):
    """Killed after step 14 with a checkpoint at 10, and again after 13, in the same second."""
    write(tmp_path, range(1, 15), 1.0, names[0])
    write(tmp_path, range(11, 14), 2.0, names[1], purge=11)
    write(tmp_path, range(11, 31), 3.0, names[2], purge=11)
    curves = read_curves(tmp_path)
    steps, values = curves["loss"]
    np.testing.assert_array_equal(steps, np.arange(1, 31))
    np.testing.assert_array_equal(values, [1.0] * 10 + [3.0] * 20)
    np.testing.assert_array_equal(curves["metric"][0], [5, 10, 15, 20, 25, 30])


def test_what_lies_beyond_a_run_that_ended_earlier_is_left_out(tmp_path):
    write(tmp_path, range(1, 15), 1.0, "b")
    write(tmp_path, range(11, 13), 2.0, "a", purge=11)
    assert read_curves(tmp_path)["loss"][0].tolist() == list(range(1, 13))


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no event file: give the folder of one run"):
        read_curves(tmp_path)
