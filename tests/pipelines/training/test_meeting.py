"""Launchers that meet, lose each other and meet again. Threads stand for machines; the store is a real one."""

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from typing import Any

import pytest

from model.engine.watch import PREEMPTED
from pipelines.training import meeting
from pipelines.training.meeting import Meeting, Start
from pipelines.training.nodes import Nodes

SAYS = {"MEDSEG_RANKS": 2, "the run": "train-abc"}


@pytest.fixture
def rendezvous(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(meeting, "COME_S", 20.0)
    monkeypatch.setattr(meeting, "CONNECT_S", 1.0)
    monkeypatch.setattr(meeting, "LINGER_S", 5.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def machine(rank: int, rendezvous: str, says: dict[str, object] = SAYS, patience_s: float = 0.0) -> Meeting:
    return Meeting(Nodes(2, rank, rendezvous), says, patience_s)


def together(*work: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(work)) as pool:
        return [future.result(timeout=60) for future in [pool.submit(each) for each in work]]


def test_an_attempt_begins_when_all_are_there_and_each_failure_is_one_more(rendezvous: str) -> None:
    one, other = machine(0, rendezvous), machine(1, rendezvous)
    numbers = []
    for _ in range(3):  # each of both comes back
        first, second = together(one.attend, other.attend)
        assert first == second
        numbers.append(first.number)
    assert numbers == [0, 1, 2]


def test_a_machine_whose_launcher_was_lost_comes_back_and_the_others_end_their_ranks(rendezvous: str) -> None:
    one = machine(0, rendezvous)
    start, _ = together(one.attend, machine(1, rendezvous).attend)
    ended = threading.Event()
    with one.watching(start, ended.set), ThreadPoolExecutor(1) as pool:
        back = pool.submit(machine(1, rendezvous).attend)
        assert ended.wait(10)
        assert not back.done()
        assert one.attend() == back.result(timeout=10)
    assert back.result().number == start.number + 1


def test_ranks_that_end_by_themselves_in_time_are_left_alone(rendezvous: str) -> None:
    one, other = machine(0, rendezvous, patience_s=60.0), machine(1, rendezvous)
    start, _ = together(one.attend, other.attend)
    ended = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        with one.watching(start, ended.set):
            back = pool.submit(other.attend)
            time.sleep(1)
        assert one.attend() == back.result(timeout=10)
    assert not ended.is_set()


def test_when_the_machine_that_holds_the_store_is_lost_the_others_wait_for_it(rendezvous: str) -> None:
    leader, other = machine(0, rendezvous), machine(1, rendezvous)
    start, _ = together(leader.attend, other.attend)
    ended = threading.Event()
    with other.watching(start, ended.set):
        leader.store = None  # the end of its process
        assert ended.wait(10)
    first, second = together(machine(0, rendezvous).attend, other.attend)
    assert first == second
    assert first.number == 0  # of the new store


@pytest.mark.parametrize(("end", "code"), [(SystemExit(PREEMPTED), PREEMPTED), (SystemExit(1), 1), (ValueError(), 1)])
def test_an_end_on_one_machine_is_the_end_on_all(rendezvous: str, end: BaseException, code: int) -> None:
    one, other = machine(0, rendezvous), machine(1, rendezvous)
    together(one.attend, other.attend)

    def leads() -> None:
        with one:
            raise end

    def follows() -> None:
        with other:
            other.attend()  # its ranks were lost

    with ThreadPoolExecutor(2) as pool:
        leader, follower = pool.submit(leads), pool.submit(follows)
        assert leader.exception(timeout=30) is end
        found = follower.exception(timeout=30)
    assert isinstance(found, SystemExit)
    assert found.code == code


def test_machines_that_differ_do_not_start(rendezvous: str) -> None:
    def attends(rank: int, **changes: object) -> Callable[[], Start]:
        def work() -> Start:
            with machine(rank, rendezvous, {**SAYS, **changes}) as here:
                return here.attend()

        return work

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(attends(0)), pool.submit(attends(1, MEDSEG_RANKS=4))]
        errors = [future.exception(timeout=30) for future in futures]
    assert all(isinstance(error, ValueError | SystemExit) for error in errors)
    told = {  # by whichever finds it out
        f"MEDSEG_RANKS is {one} and {other}; it must be the same on all"
        for one, other in permutations(("4 on machine 1", "2 on machine 0"))
    }
    assert told & set(map(str, errors))


def test_machines_that_do_not_come_are_named(rendezvous: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "COME_S", 1.0)
    with pytest.raises(ValueError, match=f"machines 1 of 2 did not come to {rendezvous} within 1 s; start the same"):
        machine(0, rendezvous).attend()
    elsewhere = rendezvous.replace("127.0.0.1", "127.0.0.2").rpartition(":")[0] + ":1"
    with pytest.raises(ValueError, match=f"machine 0 was not found at {elsewhere} within 1 s"):
        machine(1, elsewhere).attend()
