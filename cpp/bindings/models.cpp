// Matrices over NumPy memory, linear models and their linearisations.
#include <memory>
#include <string>
#include <utility>

#include "arrays.hpp"
#include "implicitgrad/dense_matrix.hpp"
#include "implicitgrad/linear_model.hpp"
#include "register.hpp"

namespace implicitgrad::python {

namespace {

/// Keeps the array alive whose memory it reads.
template <class T>
class numpy_matrix : public dense_matrix<T> {
 public:
  numpy_matrix(const py::array& x, index ld, layout order)
      : dense_matrix<T>(static_cast<const T*>(x.data()), x.shape(0), x.shape(1), ld, order),
        owner_(x) {}

 private:
  py::array owner_;
};

template <class T>
std::shared_ptr<Matrix> borrow(const py::array& x) {
  const auto item = static_cast<py::ssize_t>(sizeof(T));
  const index rows = x.shape(0), cols = x.shape(1);
  // The stride along a dimension of length one says nothing.
  const auto contiguous = [&](int axis) { return x.strides(axis) == item || x.shape(axis) == 1; };
  const auto leading = [&](int axis, index least) {
    return x.shape(axis) == 1 ? least : static_cast<index>(x.strides(axis) / item);
  };
  if (contiguous(1) && leading(0, cols) >= cols)
    return std::make_shared<numpy_matrix<T>>(x, leading(0, cols), layout::row_major);
  require(contiguous(0) && leading(1, rows) >= rows, "X must be C- or F-ordered");
  return std::make_shared<numpy_matrix<T>>(x, leading(1, rows), layout::column_major);
}

std::shared_ptr<Matrix> make_dense(const py::array& x) {
  require(x.ndim() == 2, "X must be two-dimensional");
  if (py::isinstance<py::array_t<double>>(x)) return borrow<double>(x);
  require(py::isinstance<py::array_t<float>>(x), "X must be float64 or float32");
  return borrow<float>(x);
}

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
  py::class_<Matrix, std::shared_ptr<Matrix>>(m, "Matrix")
      .def_property_readonly("rows", &Matrix::rows)
      .def_property_readonly("cols", &Matrix::cols)
      .def("all_finite", [](const Matrix& x, int n_threads) {
        py::gil_scoped_release release;
        return all_finite(x, n_threads);
      });
  m.def("dense_matrix", &make_dense);

  py::class_<error_terms>(m, "ErrorTerms")
      .def_readonly("hess", &error_terms::hess)
      .def_readonly("third", &error_terms::third)
      .def_readonly("least", &error_terms::least)
      .def_readonly("most", &error_terms::most)
      .def_readonly("cross", &error_terms::cross)
      .def_readonly("rate", &error_terms::rate)
      .def_readonly("reach", &error_terms::reach)
      .def_readonly("gradient_rounding", &error_terms::gradient_rounding)
      .def_readonly("product_rounding", &error_terms::product_rounding);
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
      .def_property_readonly("fun", &linearization::fun)
      .def_property_readonly("jac", [](const linearization& at) { return copy_vector(at.jac()); })
      .def_property_readonly("jac_lam",
                             [](const linearization& at) { return copy_vector(at.jac_lam()); })
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
                                   plan.rows > 0 ? plan.total : HUGE_VAL);
           })
      .def("errors",
           [](const linearization& at) {
             py::gil_scoped_release release;
             return at.errors();
           })
      .def("cross",
           [](const linearization& at, const block_array& u) {
             return cross(at, u, static_cast<index>(at.jac().size()));
           })
      .def("cross_transpose", &cross_transpose)
      .def("cross_scale", [](const linearization& at, const block_array& q) {
        return at.cross_scale(as_block(q, static_cast<index>(at.jac().size()), "q").data);
      });
}

}  // namespace implicitgrad::python
