// Models with hyperparameters in the rows.
#include <pybind11/stl.h>

#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "implicitgrad/hyper_mlp.hpp"
#include "implicitgrad/hyper_model.hpp"
#include "linearize.hpp"
#include "register.hpp"

namespace implicitgrad::python {

namespace {

/// x ↦ T(x; λ) for all rows, by Python functions of λ: value(lam) and push(lam, u) give (rows,
/// cols), pull(lam, m) gives (n_lam,).
class callback_inputs : public InputMap {
 public:
  callback_inputs(py::function value, py::function pull, py::function push, index rows, index cols,
                  index n_lam)
      : value_(std::move(value)),
        pull_(std::move(pull)),
        push_(std::move(push)),
        rows_(static_cast<std::size_t>(rows)),
        cols_(cols),
        n_lam_(n_lam) {
    for (index i = 0; i < rows; ++i) rows_[static_cast<std::size_t>(i)] = i;
  }

  index n_lam() const override { return n_lam_; }
  const std::vector<index>& rows() const override { return rows_; }
  double gain() const override { return HUGE_VAL; }

  void value(const double* lam, double* x) const override {
    py::gil_scoped_acquire gil;
    take(value_(vector(lam)), size(), x);
  }
  void pull(const double* lam, const double* m, double* out) const override {
    py::gil_scoped_acquire gil;
    take(pull_(vector(lam), row_major({static_cast<index>(rows_.size()), cols_}, m)), n_lam_, out);
  }
  void push(const double* lam, const double* u, double* out) const override {
    py::gil_scoped_acquire gil;
    take(push_(vector(lam), vector(u)), size(), out);
  }

 private:
  using row_major = py::array_t<double, py::array::c_style | py::array::forcecast>;

  index size() const { return static_cast<index>(rows_.size()) * cols_; }
  row_major vector(const double* v) const { return row_major(n_lam_, v); }

  static void take(const py::object& result, index size, double* out) {
    const auto array = py::cast<row_major>(result);
    require(array.size() == size, "inputs: a function returned an array of the wrong size");
    std::copy_n(array.data(), size, out);
  }

  py::function value_, pull_, push_;
  std::vector<index> rows_;
  index cols_, n_lam_;
};

hyper_blocks make_blocks(const row_map* weights, std::shared_ptr<InputMap> inputs,
                         const row_map* targets) {
  hyper_blocks blocks;
  if (weights) blocks.weights = *weights;
  if (targets) blocks.targets = *targets;
  blocks.inputs = std::move(inputs);
  return blocks;
}

/// f at λ, with factors of the rows as its only hyperparameters.
template <class Model>
std::shared_ptr<Model> reweighted(const Model& f, const block_array& lam) {
  const const_block at = as_block(lam, f.n_lam(), "lam");
  py::gil_scoped_release release;
  return f.reweighted(at.data);
}

}  // namespace

void register_hyper(py::module_& m) {
  py::class_<row_map>(m, "RowMap")
      .def(py::init([](std::string transform, index n_lam, const labels& slot, index width) {
        return row_map(std::move(transform), n_lam, to_indices(slot), width);
      }));
  py::class_<InputMap, std::shared_ptr<InputMap>>(m, "InputMap")
      .def_property_readonly("n_lam", &InputMap::n_lam);
  py::class_<input_rows, InputMap, std::shared_ptr<input_rows>>(m, "InputRows")
      .def(py::init([](const labels& rows, const labels& slot, index count, index width) {
        return std::make_shared<input_rows>(to_indices(rows), to_indices(slot), count, width);
      }));
  py::class_<callback_inputs, InputMap, std::shared_ptr<callback_inputs>>(m, "CallbackInputs")
      .def(py::init<py::function, py::function, py::function, index, index, index>());
  // Known by name, so that what `linearize` returns is found to be a linear model's.
  py::class_<hyper_linearization, linearization, std::shared_ptr<hyper_linearization>>(
      m, "HyperModelLinearization");
  py::class_<hyper_model, Objective, std::shared_ptr<hyper_model>>(m, "HyperModel")
      .def(py::init([](std::shared_ptr<Matrix> x, const block_array& y,
                       const block_array& coefficients, std::string loss, double fixed,
                       index n_groups, const labels& group, bool intercept, int n_threads,
                       const row_map* weights, std::shared_ptr<InputMap> inputs,
                       const row_map* targets, index classes) {
             hyper_blocks blocks = make_blocks(weights, std::move(inputs), targets);
             fixed_rows data;
             data.x = std::move(x), data.y = to_vector(y),
             data.coefficients = to_vector(coefficients);
             data.loss = std::move(loss), data.classes = classes;
             data.intercept = intercept, data.n_threads = n_threads;
             const penalty pen = to_penalty(fixed, n_groups, group);
             py::gil_scoped_release release;
             return std::make_shared<hyper_model>(std::move(data), pen, std::move(blocks));
           }),
           py::arg("x"), py::arg("y"), py::arg("coefficients"), py::arg("loss"), py::arg("fixed"),
           py::arg("n_groups"), py::arg("group"), py::arg("intercept"), py::arg("n_threads"),
           py::arg("weights").none(true), py::arg("inputs").none(true),
           py::arg("targets").none(true), py::arg("classes") = 1)
      .def("finite",
           [](const hyper_model& f) {
             py::gil_scoped_release release;
             return f.finite();
           })
      .def("reweighted", &reweighted<hyper_model>);
  py::class_<hyper_mlp, Objective, std::shared_ptr<hyper_mlp>>(m, "HyperMlp")
      .def(py::init([](std::shared_ptr<mlp_architecture> architecture, std::shared_ptr<Matrix> x,
                       const block_array& y, const block_array& coefficients, int n_threads,
                       const row_map* weights, std::shared_ptr<InputMap> inputs,
                       const row_map* targets) {
             return std::make_shared<hyper_mlp>(
                 std::move(architecture),
                 network_rows{std::move(x), to_vector(y), to_vector(coefficients), n_threads},
                 make_blocks(weights, std::move(inputs), targets));
           }),
           py::arg("architecture"), py::arg("x"), py::arg("y"), py::arg("coefficients"),
           py::arg("n_threads"), py::arg("weights").none(true), py::arg("inputs").none(true),
           py::arg("targets").none(true))
      .def("reweighted", &reweighted<hyper_mlp>);
}

}  // namespace implicitgrad::python
