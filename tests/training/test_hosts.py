"""The processes of a run on several machines, here of one: they agree, or all end with a line."""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from catdog.training import hosts
from conftest import ROOT

PROGRAM = """
import json, os, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from catdog.training import hosts
from catdog import cli as terminal

hosts.WAIT, hosts.SILENCE, hosts.PULSE = 20, {silence}, 0.2

def main():
    with hosts.join({addresses!r}, {rank}) as team:
        {body}

terminal.run(main)
"""


def free_addresses(count):
    """HOST:PORT of ports that nobody uses now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return addresses


def start(addresses, rank, body, silence=60):
    """A process that runs `body` as a member of the team."""
    code = PROGRAM.format(
        root=str(ROOT),
        addresses=addresses,
        rank=rank,
        silence=silence,
        body=body.replace("\n", "\n        "),
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def end(process, seconds=60):
    """(exit code, stdout, stderr) of a process, which must end by itself within the `seconds`."""
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, out, err


def run(bodies, count=None, **options):
    """Runs a process for each body and returns what `end` says of each."""
    addresses = free_addresses(count or len(bodies))
    processes = [start(addresses, rank, body, **options) for rank, body in enumerate(bodies)]
    return [end(process) for process in processes]


def test_all_get_what_rank_0_has_and_agree_and_leave_together(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "checkpoint.npz").write_bytes(bytes(3_000_000))
    body = f"""
print(team.share(b"of rank 0" if team.leads else b"other").decode())
team.agree({{"epochs": 3, "rate": 0.1}})
folder = team.own_copy(Path({str(tmp_path)!r}))
print(*((p.name, p.stat().st_size) for p in sorted(folder.iterdir())), team.leads)
print(folder)
"""
    results = run([body] * 3)
    files = "('checkpoint.npz', 3000000) ('config.json', 2)"
    for rank, (code, out, err) in enumerate(results):
        assert code == 0, err
        said, held, folder = out.splitlines()
        assert (said, held) == ("of rank 0", f"{files} {rank == 0}")
        assert (folder == str(tmp_path)) == (rank == 0)
        assert os.path.exists(folder) == (rank == 0)  # the copies are gone


def test_none_goes_on_before_all_have_come():
    body = "time.sleep({}); print(time.time()); team.meet(); print(time.time())"
    results = run([body.format(seconds) for seconds in (0, 1.5, 0.5)])
    times = [[float(line) for line in out.splitlines()] for _, out, _ in results]
    assert min(after for _, after in times) >= max(before for before, _ in times)


def test_what_differs_is_named_and_ends_all():
    bodies = [f'team.agree({{"epochs": 3, "photos": {n}}}); time.sleep(60)' for n in (86, 86, 85)]
    results = run(bodies)
    for code, out, err in results:
        assert code == 2 and out == ""
        assert "expected the same as rank 0, photos 86, got 85" in err.splitlines()[-1]
        assert "epochs" not in err and "Traceback" not in err
    assert "rank 2 at" in results[0][2] and "rank 0 at" in results[1][2]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others_at_once_whatever_they_wait_for(victim):
    addresses = free_addresses(3)
    body = 'team.advice = "Go on"\nprint("ready", flush=True)\ntime.sleep(60)'
    processes = [start(addresses, rank, body) for rank in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    started = time.monotonic()
    processes[victim].kill()
    for rank, process in enumerate(processes):
        code, _, err = end(process)
        if rank != victim:
            assert code == 2 and f"lost rank {victim} at {addresses[victim]}" in err
            assert err.splitlines()[-1] == "Go on" and "Traceback" not in err
    assert time.monotonic() - started < 10


def test_a_process_that_gives_no_sign_of_life_is_lost():
    addresses = free_addresses(2)
    body = 'print("ready", flush=True)\ntime.sleep(60)'
    processes = [start(addresses, rank, body, silence=2) for rank in range(2)]
    for process in processes:
        process.stdout.readline()
    os.kill(processes[1].pid, signal.SIGSTOP)
    code, _, err = end(processes[0])
    processes[1].kill()
    assert code == 2 and "no sign of life for 2 seconds" in err
    assert end(processes[1])[0] == -signal.SIGKILL


def test_an_error_of_one_ends_the_others_with_a_line_that_says_so():
    first, second = run(["time.sleep(60)", 'raise ValueError("a mistake")'])
    assert first[0] == 2 and "stopped: a mistake" in first[2] and "Traceback" not in first[2]
    assert second[0] == 1 and "ValueError: a mistake" in second[2]


def test_an_error_that_another_process_may_have_caused_waits_for_its_sign_of_life(monkeypatch):
    monkeypatch.setattr(hosts, "PULSE", 0.2)
    monkeypatch.setattr(hosts.atexit, "register", lambda *_: None)
    sent = []
    link = SimpleNamespace(heard=time.monotonic(), send=lambda *message: sent.append(message))
    team = hosts.Team(["a:1", "b:1"], 0)
    team._links.append(link)
    thread = threading.Thread(target=team.fail, args=[RuntimeError("connection closed")])
    thread.start()
    thread.join(0.5)
    assert thread.is_alive() and not sent  # time for `_watch` to see that the other is dead
    link.heard = time.monotonic()
    thread.join(10)
    assert sent == [(hosts.STOPPED, b"connection closed")]


def test_an_interrupt_ends_all_and_keeps_its_exit_code():
    addresses = free_addresses(2)
    processes = [
        start(addresses, rank, 'print("ready", flush=True)\ntime.sleep(60)') for rank in range(2)
    ]
    for process in processes:
        process.stdout.readline()
    processes[0].send_signal(signal.SIGINT)
    (code, _, err), (other, _, told) = end(processes[0]), end(processes[1])
    assert code == 130 and "interrupted" in err and other == 2 and "stopped: interrupted" in told


@pytest.mark.parametrize("rank", [0, 1])
def test_a_port_in_use_is_refused(rank):
    addresses = free_addresses(2)
    with socket.create_server(("127.0.0.1", int(addresses[rank].split(":")[1]))):
        code, _, err = end(start(addresses, rank, "pass"))
    assert code == 2 and "--hosts: cannot use port" in err and "in use" in err


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_does_not_answer_is_named(rank, monkeypatch):
    monkeypatch.setattr(hosts, "WAIT", 0.5)
    addresses = free_addresses(2)
    with (
        pytest.raises(hosts.UserError, match=f"rank {1 - rank} at {addresses[1 - rank]}"),
        hosts.join(addresses, rank),
    ):
        pass


def test_a_rank_at_the_address_of_another_is_refused():
    first, second, third = free_addresses(3)
    processes = [start([first, second, third], 0, "pass"), start([first, third, second], 2, "pass")]
    for code, _, err in map(end, processes):
        assert code == 2 and f"--rank: expected 1 at {second}, got 2" in err


def test_hosts_in_other_words_are_refused():
    first, second = free_addresses(2)
    processes = [
        start([first, second], 0, "time.sleep(60)"),
        start([first.replace("127.0.0.1", "localhost"), second], 1, "pass"),
    ]
    for code, _, err in map(end, processes):
        assert code == 2 and f"the same as rank 0, hosts {first},{second}, got localhost" in err


def test_a_stranger_at_the_port_is_hung_up_on():
    addresses = free_addresses(2)
    other = start(addresses, 1, "print(team.share().decode())")
    for _ in range(200):
        try:
            stranger = socket.create_connection(("127.0.0.1", int(addresses[1].split(":")[1])))
            break
        except OSError:
            time.sleep(0.05)
    with stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        first = start(addresses, 0, 'team.share(b"hello")')
        assert end(other)[:2] == (0, "hello\n") and end(first)[0] == 0


@pytest.mark.parametrize(
    "text", ["a:1", "a:1,b", "a:1,b:0", "a:1,b:65536", "a:1,:2", "a:1,a:1", "a:1,b:²", ""]
)
def test_malformed_addresses_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected"):
        hosts.addresses(text)


def test_addresses_are_a_list_and_may_be_of_version_6():
    assert hosts.addresses("a:1,[::1]:2") == ["a:1", "[::1]:2"]
    assert hosts._endpoint("[::1]:2") == ("::1", 2)
