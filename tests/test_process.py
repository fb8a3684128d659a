"""What the surroundings do to a library: forks, threads, signals, and who holds the GIL."""

import multiprocessing
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import implicitgrad as ig
from cases import BY_NAME


def problem(n=20_000, p=40):
    rng = np.random.default_rng(0)
    X, X_val = rng.standard_normal((n, p)), rng.standard_normal((n // 10, p))
    truth = rng.standard_normal(p)
    y, y_val = X @ truth > 0, X_val @ truth > 0
    f = ig.Logistic(X, y, penalty=ig.L2("feature"), n_threads=2)
    return f, ig.Logistic(X_val, y_val, n_threads=2), np.full(p, -3.0)


def work(f, g, lam):
    theta = ig.train(f, lam).x
    return ig.implicit_grad(f, g, theta, lam, method="cg").grad


def in_child(connection, f, g, lam):
    connection.send(work(f, g, lam))
    connection.close()


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this platform"
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_children_can_work_after_their_parent_did():
    """libgomp's threads do not survive a fork; a child that thinks they did waits for ever."""
    f, g, lam = problem()
    expected = work(f, g, lam)
    context = multiprocessing.get_context("fork")
    for _ in range(5):
        receive, send = context.Pipe(duplex=False)
        child = context.Process(target=in_child, args=(send, f, g, lam))
        child.start()
        try:
            assert receive.poll(60), "a forked child hangs"
            assert np.array_equal(receive.recv(), expected)
            child.join(60)
            assert child.exitcode == 0
        finally:
            child.kill()
            child.join()
    assert np.array_equal(work(f, g, lam), expected)  # and the parent still can


def test_many_python_threads_equal_one():
    """Objectives may be shared: linearising at one point disturbs no other."""
    pb = BY_NAME["logistic-597x43"].problem()
    rng = np.random.default_rng(1)
    lams = rng.uniform(-3, 0, (40, pb.f.n_lam))

    def one(lam):
        theta = ig.train(pb.f, lam).x
        res = ig.implicit_grad(pb.f, pb.g, theta, lam, method="cg")
        return theta, res.grad, res.error

    serial = [one(lam) for lam in lams]
    with ThreadPoolExecutor(8) as pool:
        parallel = list(pool.map(one, np.tile(lams, (3, 1))))
    for i, got in enumerate(parallel):
        for a, b in zip(got, serial[i % 40], strict=True):
            assert np.array_equal(a, b)


def test_one_linearization_shared_by_many_threads():
    f, _, lam = problem(4001, 37)
    rng = np.random.default_rng(2)
    hess = f.linearize(rng.standard_normal(37) / 6, lam).hess
    vectors = rng.standard_normal((64, 37))
    serial = [hess @ v for v in vectors]
    with ThreadPoolExecutor(8) as pool:
        parallel = list(pool.map(lambda v: hess @ v, vectors))
    assert all(np.array_equal(a, b) for a, b in zip(serial, parallel, strict=True))


# A Neumann series with a tiny step cannot end by itself; its products stay in native code.
ENDLESS = """
    import numpy as np, implicitgrad as ig
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20000, 50))
    y = rng.standard_normal(20000)
    f, g = ig.LeastSquares(X, y, penalty=ig.L2()), ig.LeastSquares(X[::2], y[::2])
    lam = np.zeros(1)
    theta = ig.train(f, lam).x
    quiet = {"warn": False}
    before = ig.implicit_grad(f, g, theta, lam, "cg", options=quiet).grad
    endless = {"terms": 10**8, "step_size": 1e-9, "warn": False}
"""


def run_script(body, **kwargs):
    code = textwrap.dedent(ENDLESS) + textwrap.dedent(body)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(
    "call",
    [
        'ig.implicit_grad(f, g, theta, lam, "neumann", options=endless)',
        "ig.unrolled_grad(f, g, theta, lam, 10**8, 1e-9)",
    ],
)
def test_interrupt_ends_a_long_solve_and_leaves_nothing_broken(call):
    child = run_script(f"""
        try:
            print("start", flush=True)
            {call}
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        after = ig.implicit_grad(f, g, theta, lam, "cg", options=quiet).grad
        print("same" if np.array_equal(before, after) else "different", flush=True)
    """)
    try:
        assert child.stdout.readline() == "start\n"
        time.sleep(0.5)  # let it get into the native loop
        assert child.poll() is None, "the solve was not endless"
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=10)
    finally:
        child.kill()
        child.wait()
    assert out.split() == ["interrupted", "same"], err
    assert child.returncode == 0


@pytest.mark.slow
def test_other_python_threads_run_during_a_solve():
    """The GIL is released: a thread that only counts makes progress while a solve is under way,
    and a solve started in a thread can be watched from outside."""
    f, g, lam = problem(60_000, 50)
    theta = ig.train(f, lam).x
    options = {"terms": 400, "step_size": 1e-3, "warn": False}
    ticks, done = [], threading.Event()

    def solve():
        ig.implicit_grad(f, g, theta, lam, "neumann", options=options)
        done.set()

    worker = threading.Thread(target=solve)
    start = time.monotonic()
    worker.start()
    while not done.is_set():
        ticks.append(time.monotonic() - start)
        time.sleep(0.005)
    worker.join()
    # With the GIL held there would be one tick before and one after. The number is far below what
    # a loaded machine manages, so it counts progress and measures no time.
    assert len(ticks) >= 10
