"""A network that interpolates between key frames alone, beside FlowFuse and simpler fusion.

The peer is of the EMA-VFI kind, written for this comparison (`interpolation_network.py`). It sees
two key frames and the time between them, and no coarse frame. It is trained like the networks of
`xray_peers`, on the same movies, and judged on the same unseen ones; FlowFuse is as it is shipped.
"""

from __future__ import annotations

from helpers.xray.data import MoviePairs
from helpers.xray.simulate import Experiment, simulate

from .harness import threads
from .interpolation_network import InterpolationNetwork
from .xray_peers import RATES, TRAINING, Contender, chosen, judged, trainings


def run(options):
    """Train it for each seed; judge it beside the shipped FlowFuse and fusion without learning."""
    with threads(1):
        pairs = MoviePairs([simulate(Experiment(), seed) for seed in TRAINING])
        peer = Contender("interpolation network", InterpolationNetwork, pairs, 4, 4, RATES[0])
        rate, trial = chosen(peer, options.seconds / 4)
        yield trial
        table, scores = trainings((peer,), {peer.name: rate}, options)
        yield table
        yield judged(scores, options, peer.name, "linear", plain=("linear",))
