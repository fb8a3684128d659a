// Linear models and their linearisations.
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>

#include "arrays.hpp"
#include "implicitgrad/space.hpp"
#include "linearize.hpp"
#include "register.hpp"

namespace implicitgrad::python {

namespace {

double norm(const std::vector<double>& v) {
  return host_space::norm(static_cast<index>(v.size()), v.data());
}

/// C(d)ᵀq for each column d.
block_array cross_change(const linearization& at, const block_array& d, const block_array& q) {
  const auto size = static_cast<index>(at.jac().size());
  const const_block in = as_block(d, size, "d");
  const double* adjoint = as_vector(q, size, "q");
  block_array out = empty_like_block(d, static_cast<index>(at.jac_lam().size()));
  const block result = as_output(out);
  for (index c = 0; c < in.cols; ++c) {
    const std::vector<double> column = at.cross_change(in.col(c), adjoint);
    std::copy(column.begin(), column.end(), result.col(c));
  }
  return out;
}

/// H ⪰ diag of these, one an entry of θ; infinite for intercepts, of which nothing is known.
py::array_t<double> strength(const linearization& at) {
  const auto size = static_cast<index>(at.jac().size()),
             p = static_cast<index>(at.strength().size());
  const index q = at.shape().size;
  py::array_t<double> out(size);
  for (index i = 0; i < size; ++i)
    out.mutable_data()[i] = i % q < p ? at.strength()[static_cast<std::size_t>(i % q)] : HUGE_VAL;
  return out;
}

}  // namespace

void register_models(py::module_& m) {
  py::class_<gram_sums, std::shared_ptr<gram_sums>>(m, "GramSums")
      .def(py::init([](std::shared_ptr<Matrix> x, bool intercept, const block_array& y,
                       const block_array& weights, const labels& rows, const block_array& offset,
                       int n_threads) {
             const std::vector<index> chosen(rows.data(), rows.data() + rows.size());
             const std::vector<double> targets = to_vector(y), w = to_vector(weights),
                                       off = to_vector(offset);
             py::gil_scoped_release release;
             return std::make_shared<gram_sums>(
                 sum_gram(x, intercept, targets, w, chosen, off, n_threads));
           }),
           py::arg("x"), py::arg("intercept"), py::arg("y"), py::arg("weights"), py::arg("rows"),
           py::arg("offset"), py::arg("n_threads"))
      .def_property_readonly("weight", [](const gram_sums& s) { return s.weight; })
      .def_property_readonly("squares", [](const gram_sums& s) { return copy_vector(s.squares); })
      .def_property_readonly("diagonal",
                             [](const gram_sums& s) {
                               py::array_t<double> out(s.size());
                               for (index j = 0; j < s.size(); ++j)
                                 out.mutable_data()[j] = s.gram[j * s.size() + j];
                               return out;
                             })
      .def_property_readonly("last_column",
                             [](const gram_sums& s) {
                               return py::array_t<double>(
                                   s.size(), s.gram.data() + (s.size() - 1) * s.size());
                             })
      .def("minus", [](const gram_sums& all, const gram_sums& some) {
        py::gil_scoped_release release;
        return std::make_shared<gram_sums>(subtract(all, some));
      });

  py::class_<linear_model, Objective, std::shared_ptr<linear_model>>(m, "LinearModel")
      .def(py::init([](std::shared_ptr<Matrix> x, const block_array& y, const block_array& weights,
                       std::string loss, double fixed, index n_groups, const labels& group,
                       bool intercept, int n_threads, index classes) {
             penalty pen = to_penalty(fixed, n_groups, group);
             if (loss == "softmax")
               return std::make_shared<linear_model>(
                   make_softmax_term(std::move(x), to_vector(y), classes, to_vector(weights),
                                     intercept, n_threads),
                   std::move(pen));
             return make_linear_model(std::move(x), to_vector(y), to_vector(weights),
                                      std::move(loss), std::move(pen), intercept, n_threads);
           }),
           py::arg("x"), py::arg("y"), py::arg("weights"), py::arg("loss"), py::arg("fixed"),
           py::arg("n_groups"), py::arg("group"), py::arg("intercept"), py::arg("n_threads"),
           py::arg("classes") = 1)
      .def_static(
          "of_grams",
          [](const std::vector<std::shared_ptr<gram_sums>>& folds, index target, double fixed,
             index n_groups, const labels& group, int n_threads) {
            auto data = make_gram_term({folds.begin(), folds.end()}, target, n_threads);
            return std::make_shared<linear_model>(std::move(data),
                                                  to_penalty(fixed, n_groups, group));
          },
          py::arg("folds"), py::arg("target"), py::arg("fixed"), py::arg("n_groups"),
          py::arg("group"), py::arg("n_threads"))
      .def("finite", [](const linear_model& f) {
        py::gil_scoped_release release;
        return f.data().finite();
      });

  py::class_<linearization, HyperLinearization, std::shared_ptr<linearization>>(
      m, "LinearModelLinearization")
      .def_property_readonly("values",
                             [](const linearization& at) { return copy_vector(at.values()); })
      .def_property_readonly("strength", &strength)
      .def("errors",
           [](const linearization& at) {
             const error_terms e = [&] {
               py::gil_scoped_release release;
               return at.errors();
             }();
             return py::make_tuple(e.hess, e.third, e.radius, e.least, e.most, e.cross, e.rate,
                                   e.reach, e.cross_rounding, e.gradient_rounding,
                                   e.product_rounding, e.gradient_terms);
           })
      .def("arrival",
           [](const linearization& at, const block_array& sent, const block_array& q) {
             const auto size = static_cast<index>(at.jac().size());
             const const_block in = as_block(sent, size, "sent");
             require(in.cols == 2, "sent must have two columns");
             const double* adjoint = as_vector(q, size, "q");
             std::vector<double> reached(at.jac_lam().size());
             const double changed = [&] {
               py::gil_scoped_release release;
               at.cross_transpose(in.head(1),
                                  {reached.data(), static_cast<index>(reached.size()), 1});
               return norm(at.cross_change(in.col(1), adjoint));
             }();
             return py::make_tuple(norm(reached), changed, host_space::norm(size, in.col(1)));
           })
      .def("reach",
           [](const linearization& at, const block_array& v) {
             const double* of = as_vector(v, static_cast<index>(at.jac().size()), "v");
             py::gil_scoped_release release;
             return at.reach(of);
           })
      .def("response_rate",
           [](const linearization& at, const block_array& u) {
             const double* along = as_vector(u, static_cast<index>(at.jac_lam().size()), "u");
             py::gil_scoped_release release;
             return at.response_rate(along);
           })
      .def("cross_change", &cross_change, py::arg("d"), py::arg("q"))
      .def_property_readonly("constant_curvature", [](const linearization& at) {
        return at.curvature_id() == constant_curvature;
      });
}

}  // namespace implicitgrad::python
