"""Follow a run with a function of your own, and stop it from another thread.

python examples/watch_and_cancel.py OUT
"""

import sys
import threading

import edgepress
from compress.pipeline.events import Event, StageStarted

stop = threading.Event()


def watch(event: Event) -> None:
    if isinstance(event, StageStarted):
        print("began", event.stage)
        stop.set()  # a button of a web page would do this


try:
    edgepress.compress("zoo:vit-mnist", target="cpu", out=sys.argv[1], progress=watch, cancel=stop, cache=False)
except edgepress.Cancelled as error:
    print(error)
