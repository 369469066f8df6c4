from __future__ import annotations

from threading import Semaphore

from mercato.serving.wake import WakeReceiver, WakeSender


def test_a_call_wakes_and_never_waits():
    woken = Semaphore(0)
    receiver = WakeReceiver(woken.release)
    workers = WakeSender(receiver.sender._end.dup())
    for _ in range(100_000):  # more than the socket holds: nobody listens yet
        receiver.sender()
    with receiver:
        assert woken.acquire(timeout=60)
        while woken.acquire(timeout=0.2):
            pass
        receiver.sender()
        assert woken.acquire(timeout=60)
    workers()  # the server has gone
