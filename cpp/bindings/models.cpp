// Linear models and their linearisations.
#include <memory>
#include <string>
#include <utility>

#include "arrays.hpp"
#include "implicitgrad/linear_model.hpp"
#include "implicitgrad/space.hpp"
#include "register.hpp"

namespace implicitgrad::python {

namespace {

using linearization = linear_model_linearization;

std::shared_ptr<linearization> linearize(const linear_model& f, const block_array& theta,
                                         const block_array& lam) {
  const const_block at = as_block(theta, f.n_theta(), "theta");
  const const_block hyper = as_block(lam, f.n_lam(), "lam");
  require(at.cols == 1 && hyper.cols == 1, "theta and lam must be one-dimensional");
  py::gil_scoped_release release;
  return std::const_pointer_cast<linearization>(
      std::static_pointer_cast<const linearization>(f.linearize(at.data, hyper.data)));
}

double norm(const std::vector<double>& v) {
  return host_space::norm(static_cast<index>(v.size()), v.data());
}

block_array cross(const linearization& at, const block_array& u, index n_theta) {
  const const_block in = as_block(u, static_cast<index>(at.jac_lam().size()), "u");
  block_array out = empty_like_block(u, n_theta);
  at.cross(in, as_output(out));
  return out;
}

block_array cross_transpose(const linearization& at, const block_array& q) {
  const const_block in = as_block(q, static_cast<index>(at.jac().size()), "q");
  block_array out = empty_like_block(q, static_cast<index>(at.jac_lam().size()));
  at.cross_transpose(in, as_output(out));
  return out;
}

}  // namespace

void register_models(py::module_& m) {
  py::class_<Objective, std::shared_ptr<Objective>>(m, "NativeObjective")
      .def_property_readonly("n_theta", &Objective::n_theta)
      .def_property_readonly("n_lam", &Objective::n_lam);
  py::class_<linear_model, Objective, std::shared_ptr<linear_model>>(m, "LinearModel")
      .def(py::init([](std::shared_ptr<Matrix> x, const block_array& y, const block_array& weights,
                       std::string loss, double fixed, index n_groups,
                       const py::array_t<index, py::array::c_style | py::array::forcecast>& group,
                       bool intercept, int n_threads) {
             penalty pen{fixed, n_groups, {group.data(), group.data() + group.size()}};
             return std::make_shared<linear_model>(
                 std::move(x), to_vector(y, "y"), to_vector(weights, "sample_weight"),
                 std::move(loss), std::move(pen), intercept, n_threads);
           }),
           py::arg("x"), py::arg("y"), py::arg("weights"), py::arg("loss"), py::arg("fixed"),
           py::arg("n_groups"), py::arg("group"), py::arg("intercept"), py::arg("n_threads"))
      .def("linearize", &linearize)
      .def("smooth", [](const linear_model& f) {
        py::gil_scoped_release release;
        const smoothness& s = f.smooth();
        return std::isfinite(s.hess) && std::isfinite(s.third);
      });

  py::class_<linearization, std::shared_ptr<linearization>>(m, "Linearization")
      .def("first_order",
           [](const linearization& at) {
             return py::make_tuple(at.fun(), copy_vector(at.jac()), norm(at.jac()),
                                   copy_vector(at.jac_lam()), norm(at.jac_lam()));
           })
      .def_property_readonly("hess",
                             [](const std::shared_ptr<linearization>& at) {
                               // Shares the ownership of the linearisation it belongs to.
                               return std::shared_ptr<Operator>(at,
                                                                const_cast<Operator*>(&at->hess()));
                             })
      .def_property_readonly("strength",
                             [](const linearization& at) { return copy_vector(at.strength()); })
      .def("costs",
           [](const linearization& at, double nats) {
             const problem_shape shape = at.shape();
             const sketch_plan plan = best_sketch(shape, nats);
             return py::make_tuple(cost::product(shape), direct(shape),
                                   plan.rows > 0 ? plan.total : HUGE_VAL,
                                   least_with_diagonal * cost::product(shape));
           })
      .def("errors",
           [](const linearization& at) {
             const error_terms e = [&] {
               py::gil_scoped_release release;
               return at.errors();
             }();
             return py::make_tuple(e.hess, e.third, e.least, e.most, e.cross, e.rate, e.reach,
                                   e.gradient_rounding, e.product_rounding);
           })
      .def("cross",
           [](const linearization& at, const block_array& u) {
             return cross(at, u, static_cast<index>(at.jac().size()));
           })
      .def("cross_transpose", &cross_transpose)
      .def("cross_transpose_and_scale", [](const linearization& at, const block_array& q) {
        return py::make_tuple(cross_transpose(at, q), at.cross_scale(q.data()));
      });
}

}  // namespace implicitgrad::python
