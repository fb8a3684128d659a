// Operators: native ones, and Python callables that stand in for one.
#include <memory>
#include <utility>

#include "arrays.hpp"
#include "implicitgrad/objective.hpp"
#include "implicitgrad/operator.hpp"
#include "implicitgrad/solvers/cholesky.hpp"
#include "implicitgrad/solvers/jacobi.hpp"
#include "implicitgrad/solvers/kronecker.hpp"
#include "implicitgrad/solvers/nystrom.hpp"
#include "implicitgrad/solvers/shifted.hpp"
#include "register.hpp"

namespace implicitgrad::python {

namespace {

/// Calls back into Python for each product: one GIL round trip.
class callback_operator : public Operator {
 public:
  callback_operator(py::function apply, index size) : apply_(std::move(apply)), size_(size) {}

  index size() const override { return size_; }

  void apply(const_block v, block out) const override {
    py::gil_scoped_acquire gil;
    block_array argument = v.cols == 1 ? block_array(v.rows) : block_array({v.rows, v.cols});
    std::copy_n(v.data, v.size(), argument.mutable_data());
    const auto result = py::cast<block_array>(apply_(argument));
    const bool fits =
        result.size() == out.size() && result.ndim() >= 1 && result.shape(0) == out.rows;
    require(fits, "a linear operator returned an array of the wrong shape");
    std::copy_n(result.data(), out.size(), out.data);
  }

 private:
  py::function apply_;
  index size_;
};

block_array apply(const Operator& a, const block_array& v) {
  const const_block in = as_block(v, a.size(), "v");
  block_array out = empty_like_block(v, a.size());
  const block result = as_output(out);
  py::gil_scoped_release release;
  a.apply(in, result);
  return out;
}

block_array dense(const Operator& a) {
  const index n = a.size(), q = a.order();
  const auto [count, repeat] = a.blocks();
  std::vector<double> blocks(static_cast<std::size_t>(count * q * q));
  {
    py::gil_scoped_release release;
    a.dense(blocks.data());
  }
  block_array out({n, n});
  std::fill_n(out.mutable_data(), n * n, 0.0);
  for (index b = 0; b < count * repeat; ++b) {
    double* corner = out.mutable_data() + b * q * n + b * q;
    const double* from = blocks.data() + b / repeat * q * q;
    for (index j = 0; j < q; ++j)
      for (index i = j; i < q; ++i) corner[j * n + i] = corner[i * n + j] = from[j * q + i];
  }
  return out;
}

const char* name_of(definiteness verdict) {
  switch (verdict) {
    case definiteness::positive:
      return "positive";
    case definiteness::singular:
      return "singular";
    case definiteness::indefinite:
      return "indefinite";
  }
  return "";
}

}  // namespace

void register_operators(py::module_& m) {
  py::class_<Operator, std::shared_ptr<Operator>>(m, "Operator")
      .def_property_readonly("size", &Operator::size)
      .def_property_readonly("dense_products", &Operator::dense_products)
      .def_property_readonly("rows_can_be_sampled",
                             [](const Operator& a) { return a.sampled() != nullptr; })
      .def("apply", &apply)
      .def("dense", &dense);
  py::class_<callback_operator, Operator, std::shared_ptr<callback_operator>>(m, "CallbackOperator")
      .def(py::init<py::function, index>());
  py::class_<shifted_operator, Operator, std::shared_ptr<shifted_operator>>(m, "ShiftedOperator")
      .def(py::init<std::shared_ptr<Operator>, double>())
      .def_property_readonly("shift", &shifted_operator::shift);
  py::class_<jacobi_preconditioner, Operator, std::shared_ptr<jacobi_preconditioner>>(
      m, "JacobiPreconditioner")
      .def_static("of",
                  [](const Operator& a) {
                    py::gil_scoped_release release;
                    return std::shared_ptr<jacobi_preconditioner>(jacobi_preconditioner::of(a));
                  })
      .def_property_readonly("diagonal", [](const jacobi_preconditioner& m) {
        return copy_vector(m.matrix_diagonal());
      });
  py::class_<cholesky_factor, Operator, std::shared_ptr<cholesky_factor>>(m, "CholeskyFactor")
      .def(py::init([](const Operator& a) {
        py::gil_scoped_release release;
        return std::const_pointer_cast<cholesky_factor>(a.factor());
      }))
      .def_property_readonly("verdict",
                             [](const cholesky_factor& f) {
                               const definiteness verdict = [&] {
                                 py::gil_scoped_release release;
                                 return f.verdict();
                               }();
                               return name_of(verdict);
                             })
      .def_property_readonly(
          "diagonal", [](const cholesky_factor& f) { return copy_vector(f.matrix_diagonal()); })
      .def("proven_minimum", &cholesky_factor::proven_minimum,
           py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("curvature_min",
                             [](const cholesky_factor& f) {
                               py::gil_scoped_release release;
                               return f.curvature_min();
                             })
      .def_property_readonly("curvature_max", [](const cholesky_factor& f) {
        py::gil_scoped_release release;
        return f.curvature_max();
      });
  py::class_<kronecker_preconditioner, Operator, std::shared_ptr<kronecker_preconditioner>>(
      m, "KroneckerPreconditioner")
      .def_static(
          "of",
          [](const HyperLinearization& at,
             double shift) -> std::shared_ptr<kronecker_preconditioner> {
            py::gil_scoped_release release;
            auto curvature = at.kronecker();
            if (!curvature) return nullptr;
            return std::make_shared<kronecker_preconditioner>(std::move(*curvature), shift);
          },
          py::arg("at"), py::arg("shift"))
      .def_property_readonly("smallest", &kronecker_preconditioner::smallest)
      .def_property_readonly("largest", &kronecker_preconditioner::largest);
  py::class_<nystrom_preconditioner, Operator, std::shared_ptr<nystrom_preconditioner>>(
      m, "NystromPreconditioner")
      .def(py::init([](const Operator& a, index rank, std::uint64_t seed) {
             py::gil_scoped_release release;
             return std::make_shared<nystrom_preconditioner>(a, rank, seed);
           }),
           py::arg("operator"), py::arg("rank"), py::arg("seed"), py::keep_alive<1, 2>())
      .def_property_readonly("rank", &nystrom_preconditioner::rank)
      .def_property_readonly("products", &nystrom_preconditioner::products)
      .def_property_readonly("verdict",
                             [](const nystrom_preconditioner& p) { return name_of(p.verdict()); })
      .def_property_readonly("curvature_min", &nystrom_preconditioner::curvature_min)
      .def_property_readonly("curvature_max", &nystrom_preconditioner::curvature_max)
      .def_property_readonly("largest", &nystrom_preconditioner::largest)
      .def_property_readonly("smallest", &nystrom_preconditioner::smallest);
}

}  // namespace implicitgrad::python
