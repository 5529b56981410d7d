"""The bare loop of stage ``serve``: decoding, network, masks and JSON in one process, no server.

    python -m avs.benchmark.serve_bare CHECKPOINT

Each line of its input names a clip, each line of its output is the masks of one as JSON. It decodes
in a child process like all contenders, and the network gets the threads that the checkpoint names.
It runs in a thread that is not the one that warmed it up, as in the servers: OpenMP's threads wait
for work in a busy loop unless the process has more of them than the machine has cores, which on a
machine that does anything else as well makes a loop in the main thread several times slower.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from avs.inference.predictor import Predictor

__all__ = ["segmenter"]


def segmenter(checkpoint: str) -> Callable[[str], bytes]:
    """A warm function from the path of a video to its masks as JSON."""
    predictor = Predictor.from_checkpoint(checkpoint)
    predictor.warm_up()

    def segment(path: str) -> bytes:
        return json.dumps(predictor.segment_video(path).to_json()).encode()

    return segment


def main(checkpoint: str) -> None:
    """Answer until the input ends; an empty line says that the network stands."""
    segment, thread = segmenter(checkpoint), ThreadPoolExecutor(1)
    out = sys.stdout.buffer
    out.write(b"\n")
    out.flush()
    for line in sys.stdin:
        out.write(thread.submit(segment, line.strip()).result() + b"\n")
        out.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
