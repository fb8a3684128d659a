#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include <memory>
#include <utility>

#include "arrays.hpp"
#include "implicitgrad/solvers/block_cg.hpp"
#include "implicitgrad/solvers/kept_preconditioner.hpp"
#include "implicitgrad/solvers/minres.hpp"
#include "implicitgrad/solvers/neumann.hpp"
#include "implicitgrad/solvers/nystrom.hpp"
#include "register.hpp"

namespace implicitgrad::python {

namespace {

const char* name_of(solve_status status) {
  switch (status) {
    case solve_status::converged:
      return "converged";
    case solve_status::iteration_limit:
      return "iteration_limit";
    case solve_status::negative_curvature:
      return "negative_curvature";
    case solve_status::singular:
      return "singular";
    case solve_status::bad_preconditioner:
      return "bad_preconditioner";
    case solve_status::stagnated:
      return "stagnated";
    case solve_status::non_finite:
      return "non_finite";
    case solve_status::diverged:
      return "diverged";
    case solve_status::stopped:
      return "stopped";
  }
  return "";
}

preconditioning preconditioning_named(const std::string& kind) {
  if (kind == "auto") return preconditioning::automatic;
  if (kind == "jacobi") return preconditioning::jacobi;
  if (kind == "sketch") return preconditioning::sketch;
  require(kind == "gram", "preconditioner must be 'auto', 'jacobi', 'sketch' or 'gram'");
  return preconditioning::exact;
}

/// The Python monitor is called as monitor(iteration, residual, x) and returns true to stop.
solve_options make_options(std::vector<double> rtol, index maxiter, const py::object& monitor,
                           index size, index columns) {
  require(rtol.size() == 1 || static_cast<index>(rtol.size()) == columns,
          "rtol must have one entry, or one for each column of b");
  require(maxiter >= 1, "maxiter must be at least 1");
  solve_options options{std::move(rtol), maxiter, {}};
  if (!monitor.is_none())
    options.monitor = [monitor, size](index iteration, double residual, const double* x) {
      py::gil_scoped_acquire gil;
      return monitor(iteration, residual, py::array_t<double>(size, x)).cast<bool>();
    };
  return options;
}

/// x as the solver's block, filled with the starting point if there is one.
block starting_from(const std::optional<block_array>& x0, block_array& x) {
  const block solution = as_output(x);
  if (x0) {
    const const_block start = as_block(*x0, solution.rows, "x0");
    require(start.cols == solution.cols, "x0 must have the shape of b");
    std::copy_n(start.data, start.size(), solution.data);
  }
  return solution;
}

/// (x, report, the checkpoint: empty where none was asked for), from solve(b, x, warm, options).
template <class Solve>
py::tuple with_checkpoint(const block_array& b, index size, std::vector<double> rtol,
                          const std::optional<block_array>& x0, index maxiter,
                          const py::object& monitor, double checkpoint_rtol, bool recompute,
                          Solve&& solve) {
  const const_block rhs = as_block(b, size, "b");
  block_array x = empty_like_block(b, size);
  const block solution = starting_from(x0, x);
  solve_options options = make_options(std::move(rtol), maxiter, monitor, rhs.rows, rhs.cols);
  options.recompute = recompute;
  block_array checkpoint(checkpoint_rtol > 0.0 ? rhs.rows : 0);
  if (checkpoint_rtol > 0.0) {
    options.checkpoint_rtol = checkpoint_rtol;
    options.checkpoint = checkpoint.mutable_data();
    std::fill_n(options.checkpoint, rhs.rows, 0.0);
  }
  const bool warm = x0.has_value();
  solve_report report;
  {
    py::gil_scoped_release release;
    report = solve(rhs, solution, warm, options);
  }
  return py::make_tuple(std::move(x), std::move(report), std::move(checkpoint));
}

py::tuple solve_cg(const Operator& a, const block_array& b, std::vector<double> rtol,
                   const Operator* m, const std::optional<block_array>& x0, index maxiter,
                   const py::object& monitor, double checkpoint_rtol, bool recompute) {
  require(m == nullptr || m->size() == a.size(), "the preconditioner has the wrong size");
  return with_checkpoint(b, a.size(), std::move(rtol), x0, maxiter, monitor, checkpoint_rtol,
                         recompute,
                         [&](const_block rhs, block x, bool warm, const solve_options& options) {
                           return cg_for<host_space>(a, m, rhs, x, warm, options);
                         });
}

const sampled_hessian& sampled(const Operator& a) {
  require(a.sampled() != nullptr, "the rows of this Hessian cannot be sampled");
  return *a.sampled();
}

py::tuple solve_kept(kept_preconditioner& kept, const Operator& a, const block_array& b,
                     std::vector<double> rtol, const std::optional<block_array>& x0, index maxiter,
                     const py::object& monitor, double checkpoint_rtol, bool recompute) {
  const sampled_hessian& at = sampled(a);
  return with_checkpoint(b, a.size(), std::move(rtol), x0, maxiter, monitor, checkpoint_rtol,
                         recompute,
                         [&](const_block rhs, block x, bool warm, const solve_options& options) {
                           return kept.solve(at, rhs, x, warm, options);
                         });
}

py::tuple solve_nystrom(nystrom_preconditioner& m, const Operator& a, const block_array& b,
                        std::vector<double> rtol, const std::optional<block_array>& x0,
                        index maxiter, const py::object& monitor, double checkpoint_rtol) {
  require(m.size() == a.size(), "the preconditioner has the wrong size");
  return with_checkpoint(b, a.size(), std::move(rtol), x0, maxiter, monitor, checkpoint_rtol, true,
                         [&](const_block rhs, block x, bool warm, const solve_options& options) {
                           return m.solve(a, rhs, x, warm, options);
                         });
}

std::pair<block_array, solve_report> solve_minres(const Operator& a, const block_array& b,
                                                  std::vector<double> rtol,
                                                  const std::optional<block_array>& x0,
                                                  index maxiter, const py::object& monitor) {
  const const_block rhs = as_block(b, a.size(), "b");
  block_array x = empty_like_block(b, a.size());
  const block solution = starting_from(x0, x);
  const solve_options options = make_options(std::move(rtol), maxiter, monitor, rhs.rows, rhs.cols);
  const bool warm = x0.has_value();
  solve_report report;
  {
    py::gil_scoped_release release;
    report = minres<host_space>(a, rhs, solution, warm, options);
  }
  return {std::move(x), std::move(report)};
}

std::pair<block_array, solve_report> solve_neumann(const Operator& a, const block_array& b,
                                                   std::vector<double> rtol, double step,
                                                   index terms, index maxiter,
                                                   const py::object& monitor) {
  const const_block rhs = as_block(b, a.size(), "b");
  block_array x = empty_like_block(b, a.size());
  const block solution = as_output(x);
  const solve_options options = make_options(std::move(rtol), maxiter, monitor, rhs.rows, rhs.cols);
  solve_report report;
  {
    py::gil_scoped_release release;
    report = neumann<host_space>(a, rhs, solution, step, terms, options);
  }
  return {std::move(x), std::move(report)};
}

}  // namespace

void register_solvers(py::module_& m) {
  py::class_<solve_report>(m, "SolveReport")
      .def_property_readonly("status", [](const solve_report& r) { return name_of(r.status); })
      .def_readonly("iterations", &solve_report::iterations)
      .def_readonly("products", &solve_report::products)
      .def_readonly("residual", &solve_report::residual)
      .def_readonly("curvature_min", &solve_report::curvature_min)
      .def_readonly("curvature_max", &solve_report::curvature_max)
      .def_readonly("condition", &solve_report::condition)
      .def_readonly("least", &solve_report::least);
  m.def("cg", &solve_cg, py::arg("a"), py::arg("b"), py::arg("rtol"),
        py::arg("preconditioner").none(true), py::arg("x0"), py::arg("maxiter"), py::arg("monitor"),
        py::arg("checkpoint_rtol") = 0.0, py::arg("recompute") = true);
  py::class_<kept_preconditioner, std::shared_ptr<kept_preconditioner>>(m, "KeptPreconditioner")
      .def(py::init([](const std::string& kind, std::uint64_t seed, index rows, bool lasting) {
             return std::make_shared<kept_preconditioner>(preconditioning_named(kind), seed, rows,
                                                          lasting);
           }),
           py::arg("kind"), py::arg("seed"), py::arg("rows") = 0, py::arg("lasting") = false)
      .def("prepare",
           [](kept_preconditioner& kept, const Operator& a, double nats) {
             py::gil_scoped_release release;
             return kept.prepare(sampled(a), nats);
           })
      .def_property_readonly("rows",
                             [](const kept_preconditioner& kept) {
                               // Whoever holds its lock may be waiting for the GIL.
                               py::gil_scoped_release release;
                               return kept.rows();
                             })
      .def_property_readonly("strong",
                             [](const kept_preconditioner& kept) {
                               py::gil_scoped_release release;
                               return kept.strong();
                             })
      .def("apply",
           [](const kept_preconditioner& kept, const block_array& v) {
             const const_block in = as_block(v, v.shape(0), "v");
             block_array out = empty_like_block(v, v.shape(0));
             {
               py::gil_scoped_release release;
               kept.apply(in, as_output(out));
             }
             return out;
           })
      .def("solve", &solve_kept, py::arg("a"), py::arg("b"), py::arg("rtol"), py::arg("x0"),
           py::arg("maxiter"), py::arg("monitor"), py::arg("checkpoint_rtol") = 0.0,
           py::arg("recompute") = true);
  m.def("nystrom", &solve_nystrom, py::arg("preconditioner"), py::arg("a"), py::arg("b"),
        py::arg("rtol"), py::arg("x0"), py::arg("maxiter"), py::arg("monitor"),
        py::arg("checkpoint_rtol") = 0.0);
  m.def("minres", &solve_minres, py::arg("a"), py::arg("b"), py::arg("rtol"), py::arg("x0"),
        py::arg("maxiter"), py::arg("monitor"));
  m.def("neumann", &solve_neumann, py::arg("a"), py::arg("b"), py::arg("rtol"),
        py::arg("step_size"), py::arg("terms"), py::arg("maxiter"), py::arg("monitor"));
}

}  // namespace implicitgrad::python
