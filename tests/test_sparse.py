"""Sparse X: what is borrowed, what is converted, what is refused; and the same answers as dense X.
The oracle tests run on the sparse problems of cases.py."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import implicitgrad as ig
from reference import assert_near

N, P = 60, 11


def dense(dtype=np.float64, seed=3):
    rng = np.random.default_rng(seed)
    X = np.round(rng.standard_normal((N, P)) * 4) * (rng.random((N, P)) < 0.4)
    X[5], X[:, 4] = 0, 0
    return X.astype(dtype)


Y = np.where(np.random.default_rng(4).random(N) < 0.5, 1.0, -1.0)
THETA, LAM = np.linspace(-1, 1, P + 1), np.linspace(-3, 0, P)


def make(X, **kwargs):
    return ig.Logistic(X, Y, penalty=ig.L2("feature"), fit_intercept=True, **kwargs)


def assert_same(f, X, tol=1e-13):
    """f gives what the dense X does."""
    ours, theirs = f.linearize(THETA, LAM), make(np.asarray(X, dtype=float)).linearize(THETA, LAM)
    assert_near(ours.jac, theirs.jac, tol)
    assert_near(ours.hess @ np.eye(P + 1), theirs.hess @ np.eye(P + 1), tol)


def snapshot(X):
    return [a.tobytes() for a in (X.indptr, X.indices, X.data)]


@pytest.mark.parametrize("kind", [sp.csr_array, sp.csr_matrix])
@pytest.mark.parametrize("value", [np.float64, np.float32])
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_csr_is_borrowed(kind, value, index):
    X = kind(dense(value))
    X.indptr, X.indices = X.indptr.astype(index), X.indices.astype(index)
    for a in (X.indptr, X.indices, X.data):
        a.setflags(write=False)
    f = make(X)
    assert f.X is X
    assert repr(f).startswith(f"Logistic(<{N} × {P} {X.dtype} CSR, {X.nnz} stored>")
    assert_same(f, dense())
    before = f.linearize(THETA, LAM).jac
    X.data.setflags(write=True)
    X.data *= 2  # against the contract: only to see that nothing was copied
    f.linearize(2 * THETA, LAM)  # the last point is remembered
    assert not np.array_equal(f.linearize(THETA, LAM).jac, before)


@pytest.mark.parametrize("kind", ["csc", "coo", "lil", "dok", "dia", "bsr"])
@pytest.mark.parametrize("of", [sp.csr_array, sp.csr_matrix])
def test_other_formats_are_converted_once(kind, of):
    X = of(dense()).asformat(kind)
    f = make(X)
    assert f.X.format == "csr" and f.X is not X and X.format == kind
    assert_same(f, dense())


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint16, np.bool_, np.longdouble])
def test_other_real_types_are_converted(dtype):
    for kind in (sp.csr_array, sp.csc_array, sp.coo_array):
        X = kind(np.abs(dense()).astype(dtype))
        f = make(X)
        assert f.X.dtype == np.float64 and X.dtype == dtype
        assert_same(f, X.toarray())


def test_half_precision_and_foreign_byte_order():
    X = sp.csr_array(dense())
    half = sp.csr_array((X.data, X.indices, X.indptr), shape=X.shape)
    for data in (X.data.astype(np.float16), X.data.astype(">f8"), X.data.repeat(2)[::2]):
        half.data = data
        assert_same(make(half), dense())


def test_unsorted_and_repeated_indices_are_put_in_order_in_a_copy():
    X = sp.csr_array(dense())
    rows = np.repeat(np.arange(N), np.diff(X.indptr))
    order = np.lexsort((-X.indices, rows))
    X.indices, X.data = X.indices[order].copy(), X.data[order].copy()
    before = snapshot(X)
    f = make(X)
    assert f.X is not X and snapshot(X) == before
    assert_same(f, dense())
    twice = sp.csr_array((X.data.repeat(2), X.indices.repeat(2), 2 * X.indptr), shape=X.shape)
    before = snapshot(twice)
    assert_same(make(twice), 2 * dense())
    assert snapshot(twice) == before


def test_stored_zeros_unused_room_and_nothing_stored():
    X = sp.csr_array(dense())
    X.data[::3] = 0
    assert_same(make(X), X.toarray())
    longer = X.copy()
    longer.indices, longer.data = np.append(X.indices, [-5, 99]), np.append(X.data, [np.nan, 1])
    assert_same(make(longer), X.toarray())
    assert_same(make(sp.csr_array((N, P))), np.zeros((N, P)))


@pytest.mark.parametrize("p", [9, 200_000])  # partial sums, and tiles of columns
def test_the_same_bits_at_any_number_of_threads(p):
    rng = np.random.default_rng(5)
    X = sp.random_array((4000, p), density=min(0.5, 40 / p), rng=rng, format="csr")
    y = rng.choice([-1.0, 1.0], 4000)
    theta, V = rng.standard_normal(p + 1), rng.standard_normal((p + 1, 3))
    found = []
    for threads in (1, 2, 3):
        at = ig.Logistic(X, y, fit_intercept=True, n_threads=threads).linearize(theta)
        found.append((at.fun, at.jac, at.hess @ V[:, 0], at.hess @ V))
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))
    A = sp.hstack([X, np.ones((4000, 1))], format="csr")
    u = 1 / (1 + np.exp(-(A @ theta)))
    assert_near(found[0][3], A.T @ ((u * (1 - u) / 4000)[:, None] * (A @ V)), 1e-12)


@pytest.mark.parametrize("method", ["auto", "cholesky", "cg", "minres", "neumann"])
def test_hypergradients_are_those_of_dense_data(method):
    X, tol = dense() / 4, 1e-9
    answers = []
    for data in (X, sp.csr_array(X)):
        f, g = make(data), ig.Logistic(data[::-1], Y, fit_intercept=True)
        theta = ig.train(f, LAM, tol=1e-12).x
        res = ig.implicit_grad(f, g, theta, LAM, method, tol=tol)
        assert res.success
        answers.append(res)
    scale = np.linalg.norm(answers[0].grad)
    assert np.linalg.norm(answers[0].grad - answers[1].grad) <= 2 * tol * scale
    assert (answers[0].error_bound < np.inf) == (answers[1].error_bound < np.inf)


def test_outer_verbs():
    X = dense() / 4
    ours, theirs = (
        ig.minimize(make(data), ig.Logistic(data[::-1], Y, fit_intercept=True), LAM, tol=1e-6)
        for data in (sp.csr_array(X), X)
    )
    assert abs(ours.fun - theirs.fun) <= 1e-6
    X = sp.csr_array(X)
    assert ig.check_hypergrad(make(X), ig.Logistic(X, Y, fit_intercept=True), LAM).success


def broken(**parts):
    """A CSR array with some of its arrays exchanged, which SciPy would refuse to build."""
    X = sp.csr_array(dense())
    for name, value in parts.items():
        setattr(X, name, value)
    return X


def changed(name, at, value):
    array = getattr(sp.csr_array(dense()), name).astype(np.int64)
    array[at] = value
    return broken(**{name: array})


GOOD = sp.csr_array(dense())
BAD = {
    "start": (changed("indptr", 0, 1), r"X\.indptr starts at 1, expected 0"),
    "decreasing": (changed("indptr", 3, -1), r"X\.indptr decreases from \d+ to -1 at index 3"),
    "huge": (changed("indptr", -1, 2**40), r"X\.indptr ends at 1099511627776, but X\.indices has"),
    "jump": (changed("indptr", 9, 2**62), r"X\.indptr decreases"),
    "short indptr": (broken(indptr=GOOD.indptr[:-1]), r"X\.indptr has 60 entries, expected 61"),
    "long indptr": (broken(indptr=np.append(GOOD.indptr, 0)), r"X\.indptr has 62 entries"),
    "no indptr": (broken(indptr=GOOD.indptr[:0]), r"X\.indptr has 0 entries"),
    "short indices": (broken(indices=GOOD.indices[:-1]), r"X\.indptr ends at"),
    "short data": (broken(data=GOOD.data[:-1]), r"X\.indptr ends at"),
    "large": (changed("indices", 7, P), r"X\.indices contains 11 at index 7, expected 0 to 10"),
    "negative": (changed("indices", -1, -1), r"X\.indices contains -1 at index"),
    "beyond 32 bits": (changed("indices", 0, 2**32), r"X\.indices contains 4294967296 at index 0"),
    "real indices": (broken(indices=GOOD.indices + 0.5), r"X\.indices has dtype float64"),
    "2-D indices": (broken(indices=GOOD.indices[None]), r"X\.indices must be one-dimensional"),
    "2-D data": (broken(data=GOOD.data[None]), r"X\.data must be one-dimensional"),
    "complex": (GOOD + 1j * GOOD, r"X has dtype complex128, expected real numbers"),
    "objects": (
        broken(data=GOOD.data.astype(object)),
        r"X has dtype object, expected real numbers",
    ),
    "text": (broken(data=GOOD.data.astype("U")), r"X has dtype <U\d+, expected real numbers"),
    "no rows": (sp.csr_array((0, P)), r"X is empty: it has shape \(0, 11\)"),
    "no columns": (sp.csr_array((N, 0)), r"X is empty"),
    "1-D": (sp.coo_array(np.ones(N)), r"X must be two-dimensional, found shape \(60,\)"),
    "3-D": (sp.coo_array(np.ones((N, 2, 2))), r"X must be two-dimensional"),
}


@pytest.mark.parametrize("what", BAD)
def test_arrays_that_do_not_fit_are_refused_by_name(what):
    X, message = BAD[what]
    with pytest.raises((ValueError, TypeError), match=message):
        make(X)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "bsr"])
def test_values_that_are_not_finite_are_refused(value, dtype, kind):
    X = dense(dtype)
    X[17, 3] = value
    with pytest.raises(ValueError, match=r"X contains (nan|-?inf) at index \(17, 3\)"):
        make(sp.csr_array(X).asformat(kind))


def test_a_sum_that_overflows_is_refused():
    most = np.finfo(float).max
    X = sp.csr_array(([most, most], [2, 2], [0, *[2] * N]), shape=(N, P))
    with pytest.raises(ValueError, match=r"X contains inf at index \(0, 2\)"):
        make(X)


def test_other_formats_with_arrays_that_do_not_fit():
    csc = sp.csc_array(dense())
    csc.indices[3] = 10**6
    with pytest.raises(ValueError, match=r"X\.indices contains 1000000.*X has 60 rows"):
        make(csc)
    coo = sp.coo_array(dense())
    coo.coords[0][2] = -7
    with pytest.raises(ValueError, match=r"X\.row contains -7 at index 2"):
        make(coo)
    lil = sp.lil_array(dense())
    lil.rows[0] = [99, 100]
    with pytest.raises(ValueError, match=r"\bX\b"):
        make(lil)


WILD = [0, 1, -1, 2, 5, P, P - 1, N, 2**31 - 1, -(2**31), 2**31, 2**32, 2**33 + 1, 2**62, -(2**63)]


@st.composite
def wild_arrays(draw):
    """(indptr, indices, data, format): mostly right, or with anything in it."""
    n, p = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    index = draw(st.sampled_from([np.int32, np.int64]))
    info = np.iinfo(index)
    wild = st.one_of(st.sampled_from(WILD), st.integers(-(2**63), 2**63 - 1))
    length = st.integers(0, p)
    indptr = [0, *np.cumsum([draw(length) for _ in range(n)]).tolist()]
    indices = [draw(st.integers(0, p - 1)) for _ in range(indptr[-1])]
    for array in (indptr, indices):
        for _ in range(draw(st.integers(0, 2))):
            if array:
                array[draw(st.integers(0, len(array) - 1))] = draw(wild)
        if draw(st.booleans()) and draw(st.booleans()):
            del array[draw(st.integers(0, len(array))) :]
    number = st.floats(width=32, min_value=-9, max_value=9) | st.sampled_from([np.nan, np.inf])
    data = [draw(number) for _ in indices[: draw(st.integers(0, 40))]]
    clip = [np.array([v for v in a if info.min <= v <= info.max], index) for a in (indptr, indices)]
    return (n, p), *clip, np.array(data), draw(st.sampled_from(["csr", "csc"]))


@settings(max_examples=600, deadline=None, derandomize=True)
@given(wild_arrays())
def test_no_content_of_the_arrays_crashes(arrays):
    (n, p), indptr, indices, data, kind = arrays
    X = getattr(sp, f"{kind}_array")((n, p) if kind == "csr" else (p, n))
    X.indptr, X.indices, X.data = indptr, indices, data
    before = snapshot(X)
    try:
        f = ig.LeastSquares(X, np.zeros(X.shape[0]), penalty=ig.L2("feature"))
    except (ValueError, TypeError) as error:
        refused = str(error)
    else:
        refused = None
    assert refused is None or "X" in refused
    if refused is None:
        want = X.toarray()
        H = f.linearize(np.ones(X.shape[1]), np.zeros(X.shape[1])).hess @ np.eye(X.shape[1])
        assert_near(H, want.T @ want / X.shape[0] + np.eye(X.shape[1]), 1e-12)
    assert snapshot(X) == before
