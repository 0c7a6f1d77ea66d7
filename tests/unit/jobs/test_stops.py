"""A job that was killed, or stopped by Ctrl-C, goes on to the same bits; so do several workers."""

import importlib
import multiprocessing
import os
import signal
import threading
import time

import pytest
import torch

from helpers.__main__ import main
from helpers.scale import workers
from tests.unit.jobs.cases import run, same

KILLED_IN = {  # the function in whose n-th call the process ends
    "fuse": ("helpers.jobs._fuse.solve", 2),
    "beads": ("helpers.jobs._renderer.calibrate_astigmatism", 1),
    "localize": ("helpers.jobs._renderer.find_molecules", 3),
    "denoise": ("helpers.jobs._renderer.save_tif", 1),
    "deconvolve": ("helpers.jobs._renderer.solve_tile", 3),
    "field": ("helpers.jobs.inr._volumes.reconstruct", 2),
    "film": ("helpers.jobs.inr._volumes.fit_sequence", 2),
    "tomogram": ("helpers.jobs.inr._volumes.save_tif", 1),
    "diffraction": ("helpers.training.loop.checkpoints.save", 2),
    "xray-convert": ("PIL.Image.merge", 7),
    "xray-train": ("helpers.training.loop.checkpoints.save", 2),
    "xray-train-calibrator": ("helpers.training.loop.checkpoints.save", 2),
    "xray-calibrate": ("helpers.jobs._xray_infer.spatial", 1),
    "xray-infer": ("helpers.xray.reconstruct._writer.OnDisk.put", 8),
}

GO_ON = "fuse", "localize", "deconvolve", "field", "film", "diffraction"
GO_ON += "xray-convert", "xray-infer"
BY_FILE = "fuse", "denoise"  # workers share the files; the chunks of a file with the others


def counted(path, n, end, monkeypatch):
    """Let the n-th call of a function `end`; gives the list of its calls."""
    module, _, name = path.rpartition(".")
    try:
        owner = importlib.import_module(module)
    except ModuleNotFoundError:
        module, _, attribute = module.rpartition(".")
        owner = getattr(importlib.import_module(module), attribute)
    function, calls = getattr(owner, name), []

    def counting(*arguments, **options):
        calls.append(name)
        if len(calls) == n:
            end()
        return function(*arguments, **options)

    monkeypatch.setattr(owner, name, counting)
    return calls


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As workers have it: several threads add up in another order, to other last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(case, tmp_path_factory):
    """Give what a job writes without a stop, and how often it called what is counted."""
    made = {}

    def give(name):
        if name not in made:
            out = tmp_path_factory.mktemp(name) / "whole"
            with pytest.MonkeyPatch.context() as patch:
                calls = counted(KILLED_IN[name][0], 0, None, patch)
                assert main(case(name).call(out)) == 0
            made[name] = out, len(calls)
        return made[name]

    return give


def run_until_killed(path, n, call):
    """Run a job in this process, which is killed in the n-th call of a function."""
    torch.set_num_threads(1)
    counted(path, n, lambda: os.kill(os.getpid(), signal.SIGKILL), pytest.MonkeyPatch())
    main(call)


@pytest.fixture(scope="module")
def fresh():
    """Give processes that have loaded this file and computed nothing.

    A copy of this very process would not do: it lacks the threads that OpenMP has started here,
    and waits for them.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context.Process


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("name", KILLED_IN)
def test_a_killed_job_goes_on_to_the_same_bits(
    case, whole, fresh, name, tmp_path, capsys, monkeypatch
):
    expected, n_calls = whole(name)
    path, n = KILLED_IN[name]
    process = fresh(target=run_until_killed, args=(path, n, case(name).call(tmp_path / "killed")))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    calls = counted(path, 0, None, monkeypatch)
    run(case(name), tmp_path / "killed", capsys)
    same(expected, tmp_path / "killed")
    if name in GO_ON:
        assert len(calls) == n_calls - (n - 1), "what was done before the kill is not done again"


@pytest.mark.parametrize("name", KILLED_IN)
def test_ctrl_c_ends_with_1_and_the_same_call_goes_on(
    case, whole, name, tmp_path, capsys, monkeypatch
):
    def stop():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        counted(*KILLED_IN[name], stop, patch)
        assert main(case(name).call(tmp_path / "stopped")) == 1
    assert capsys.readouterr().err == "stopped: the same call goes on from here\n"
    run(case(name), tmp_path / "stopped", capsys)
    same(whole(name)[0], tmp_path / "stopped")


@pytest.fixture(scope="module")
def cluster():
    with workers(2) as client:
        yield client


@pytest.mark.parametrize(
    "name", ["fuse", "localize", "denoise", "deconvolve", "film", "xray-infer"]
)
def test_two_workers_give_the_same_bits(case, whole, name, cluster, tmp_path, capsys):
    address = cluster.scheduler.address
    found = run(case(name), tmp_path / "two", capsys, "--scheduler", address)
    assert {r["input"] for r in found} == set(map(str, case(name).files))
    same(whole(name)[0], tmp_path / "two")


@pytest.mark.parametrize("name", ["deconvolve", "xray-infer"])
def test_a_job_starts_workers_of_its_own(case, whole, name, tmp_path, capsys):
    run(case(name), tmp_path / "two", capsys, "--workers", "2")
    same(whole(name)[0], tmp_path / "two")


@pytest.mark.parametrize("name", ["fuse", "localize"])
def test_a_worker_that_is_killed_in_the_middle_changes_no_bit(case, whole, name, tmp_path, capsys):
    """Both workers die, one after the other, as soon as the first results are there."""
    first = {"fuse": "job.json", "localize": ".parts/*/*.json"}[name]
    out = tmp_path / "two"
    with workers(2) as client:
        before = client.run(os.getpid)
        dead = []

        def kill():
            for number in before.values():
                while not list(out.glob(f"*/**/{first}")):
                    time.sleep(0.01)
                os.kill(number, signal.SIGKILL)
                dead.append(number)
                time.sleep(2)

        thread = threading.Thread(target=kill)
        thread.start()
        run(case(name), out, capsys, "--scheduler", client.scheduler.address)
        thread.join()
        client.wait_for_workers(2, timeout=60)
        assert set(client.run(os.getpid).values()).isdisjoint(dead) and len(dead) == 2
    same(whole(name)[0], out)
