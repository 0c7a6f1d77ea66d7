"""Kernels of the build: copies of one process that has loaded what every page imports.

To import torch, matplotlib and the kernel itself takes seconds, and a build starts a kernel for
every page. Where the system copies processes safely (Linux), this file also runs as a process of
its own: it imports once, and then copies itself for each page. Elsewhere kernels start as always.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from importlib import import_module

LOADED = (
    "ipykernel.kernelapp", "ipywidgets", "matplotlib.figure", "matplotlib.backends.backend_agg",
    "myst_nb", "scipy.ndimage", "torch", "helpers.plots", "helpers.sliders", "helpers.datasets",
    "helpers.fusion.solver", "helpers.inr.phantoms", "helpers.renderer.mle",
    "helpers.xray.reconstruct",
)  # fmt: skip


@contextlib.contextmanager
def copied():
    """Give the class of kernel managers for a NotebookClient, and end the process behind it."""
    from jupyter_client.manager import AsyncKernelManager

    if sys.platform != "linux":
        yield AsyncKernelManager
        return
    from jupyter_client.provisioning import LocalProvisioner

    command = [sys.executable, __file__]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    turn = threading.Lock()
    with subprocess.Popen(command, **pipes) as loaded:

        def copy(folder, command):
            """Ask for a kernel in a folder; give its process."""
            with turn:
                print(json.dumps([str(folder), command]), file=loaded.stdin, flush=True)
                return Copy(int(loaded.stdout.readline()))

        class Provisioner(LocalProvisioner):
            async def launch_kernel(self, cmd, **kwargs):
                self.process = copy(kwargs.get("cwd") or os.getcwd(), cmd)
                self.pid = self.pgid = self.process.pid
                return self.connection_info

        class Manager(AsyncKernelManager):
            async def _async_pre_start_kernel(self, **kwargs):
                self.provisioner = self.provisioner or Provisioner(
                    kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self
                )
                return await super()._async_pre_start_kernel(**kwargs)

        yield Manager  # then its input is closed, and it ends


class Copy:
    """A process that is no child of this one, with what jupyter_client asks of a Popen."""

    stdin = stdout = stderr = None

    def __init__(self, pid):
        self.pid = pid

    def poll(self):
        """Give None while it runs; how it ended, nobody but its parent can tell."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return 0
        return None

    def wait(self):
        """Wait for its end."""
        while self.poll() is None:
            time.sleep(0.05)
        return 0

    def send_signal(self, signum):
        """Send a signal."""
        os.kill(self.pid, signum)

    def kill(self):
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def terminate(self):
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)


def serve():
    """Load, then copy this process for each line of the input: a folder and a kernel's command."""
    # a kernel that sees this ends when its parent has ended
    os.environ["JPY_PARENT_PID"] = str(os.getpid())
    sys.path.remove(os.path.dirname(os.path.abspath(__file__)))
    for name in LOADED:
        with contextlib.suppress(Exception):  # the page that imports it will say why it fails
            import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system forgets kernels that have ended
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            become_kernel(*json.loads(line))
        print(pid, flush=True)


def become_kernel(folder, command):
    """Run as the kernel that a command such as ``python -m ipykernel_launcher -f FILE`` starts."""
    from ipykernel.kernelapp import IPKernelApp

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.chdir(folder)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):  # both lead to the builder
        os.dup2(nothing, stream)
    IPKernelApp.launch_instance(command[command.index("-f") :])
    os._exit(0)


if __name__ == "__main__":
    serve()
