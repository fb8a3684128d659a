// What every objective of the core is at one point.
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "arrays.hpp"
#include "implicitgrad/objective.hpp"
#include "implicitgrad/space.hpp"
#include "register.hpp"

namespace implicitgrad::python {

namespace {

using linearization = HyperLinearization;

index size_of(const linearization& at) { return static_cast<index>(at.jac().size()); }

double norm(const std::vector<double>& v) {
  return host_space::norm(static_cast<index>(v.size()), v.data());
}

block_array cross(const linearization& at, const block_array& u) {
  const const_block in = as_block(u, static_cast<index>(at.jac_lam().size()), "u");
  block_array out = empty_like_block(u, size_of(at));
  const block result = as_output(out);
  py::gil_scoped_release release;
  at.cross(in, result);
  return out;
}

/// Cᵀq and, for one vector and where it is wanted, ‖ |C|ᵀ|q| ‖₂.
std::pair<block_array, double> cross_transpose(const linearization& at, const block_array& q,
                                               bool with_scale) {
  const const_block in = as_block(q, size_of(at), "q");
  block_array out = empty_like_block(q, static_cast<index>(at.jac_lam().size()));
  const block result = as_output(out);
  py::gil_scoped_release release;
  at.cross_transpose(in, result);
  return {std::move(out), with_scale ? at.cross_scale(in.data) : 0.0};
}

/// v less what it has of directions in which f is constant.
block_array project(const linearization& at, const block_array& v) {
  const const_block in = as_block(v, size_of(at), "v");
  block_array out = empty_like_block(v, in.rows);
  std::copy_n(in.data, in.size(), out.mutable_data());
  at.project(as_output(out));
  return out;
}

/// [(t + |diagonal ∘ q|) ∘ pattern, (terms of ∇f) ∘ pattern], t the terms of g's gradient.
py::array_t<double> rounding_noise(const linearization& f, const linearization& g,
                                   const block_array& q, const block_array& diagonal,
                                   const block_array& pattern, bool by_row) {
  const index n = size_of(f);
  const double *at = as_vector(q, n, "q"), *scale = as_vector(diagonal, n, "diagonal"),
               *signs = as_vector(pattern, n, "pattern");
  require(size_of(g) == n, "f and g must have the same n_theta");
  const auto [of_f, of_g] = [&] {
    py::gil_scoped_release release;
    return std::pair(f.gradient_terms(by_row), g.gradient_terms(by_row));
  }();
  block_array out({n, index{2}});
  double* noise = out.mutable_data();
  for (index j = 0; j < n; ++j) {
    noise[j] = (of_g[j] + std::abs(scale[j] * at[j])) * signs[j];
    noise[n + j] = of_f[j] * signs[j];
  }
  return out;
}

std::shared_ptr<linearization> linearize(const Objective& f, const block_array& theta,
                                         const block_array& lam, bool remember) {
  const double *at = as_vector(theta, f.n_theta(), "theta"),
               *hyper = as_vector(lam, f.n_lam(), "lam");
  py::gil_scoped_release release;
  const auto found = std::dynamic_pointer_cast<const linearization>(
      remember ? f.linearize(at, hyper) : f.glance(at, hyper));
  require(found != nullptr, "the objective has no derivatives in lam");
  return std::const_pointer_cast<linearization>(found);
}

/// An operator of a linearisation, whose ownership it shares.
std::shared_ptr<Operator> part(const std::shared_ptr<linearization>& at, const Operator* a) {
  return a ? std::shared_ptr<Operator>(at, const_cast<Operator*>(a)) : nullptr;
}

}  // namespace

void register_linearizations(py::module_& m) {
  py::class_<Objective, std::shared_ptr<Objective>>(m, "NativeObjective")
      .def_property_readonly("n_theta", &Objective::n_theta)
      .def_property_readonly("n_lam", &Objective::n_lam)
      .def("linearize", &linearize, py::arg("theta"), py::arg("lam"), py::arg("remember") = true);
  using shared = std::shared_ptr<linearization>;
  py::class_<linearization, shared>(m, "Linearization")
      .def("first_order",
           [](const linearization& at) {
             {
               py::gil_scoped_release release;  // what jac_lam takes is computed now
               at.jac_lam();
             }
             return py::make_tuple(at.fun(), copy_vector(at.jac()), norm(at.jac()),
                                   copy_vector(at.jac_lam()), norm(at.jac_lam()));
           })
      .def_property_readonly("hess", [](const shared& at) { return part(at, &at->hess()); })
      .def_property_readonly("bytes", &linearization::bytes)
      .def_property_readonly("system", [](const shared& at) { return part(at, &at->system()); })
      .def_property_readonly("gauss_newton",
                             [](const shared& at) { return part(at, at->gauss_newton()); })
      .def("costs",
           [](const linearization& at, double nats) {
             const solve_costs c = at.costs(nats);
             return py::make_tuple(c.product, c.direct, c.sketched, c.diagonal);
           })
      .def("gradient_terms",
           [](const linearization& at, bool by_row) {
             const std::vector<double> terms = [&] {
               py::gil_scoped_release release;
               return at.gradient_terms(by_row);
             }();
             return copy_vector(terms);
           })
      .def("rounding_noise", &rounding_noise)
      .def("cross", &cross)
      .def("cross_transpose",
           [](const linearization& at, const block_array& q) {
             return cross_transpose(at, q, false).first;
           })
      .def("cross_transpose_and_scale",
           [](const linearization& at, const block_array& q) {
             return cross_transpose(at, q, true);
           })
      .def_property_readonly("degenerate", &linearization::degenerate)
      .def("project", &project);
}

}  // namespace implicitgrad::python
