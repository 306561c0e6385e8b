"""Jobs of other processes, which import no more than they need."""

import os
import time

from dptrain.core.errors import TrainingError
from dptrain.fleet.executors.base import Interrupted, Place

HERE, TWO = [Place("cpu", 1)], [Place("cpu", 1)] * 2


class Odd(Exception):
    """Cannot be sent to another process."""


def squares(offset, place):
    def work(job, emit, stop):
        if job == "fail":
            raise TrainingError("as a test", "workers")
        if job in ("die", "vanish"):
            os._exit(9 if job == "die" else 0)
        if job == "odd":
            raise Odd(lambda: 0)
        while job == "chatter":
            if stop():
                raise Interrupted
            emit("still here")
            time.sleep(0.01)
        while job == "wait":
            if stop():
                raise Interrupted
            time.sleep(0.01)
        emit((job, job * job + offset, os.getpid()))

    return work
