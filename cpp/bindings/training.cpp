#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "implicitgrad/objective.hpp"
#include "implicitgrad/trainers/newton.hpp"
#include "register.hpp"

namespace implicitgrad::python {

namespace {

/// A Python object that stands for an objective at one point, with fun, jac, bytes, and the methods
/// hess() -> Operator, jac_lam(), cross(u) and cross_transpose(q), which are called when they are
/// needed.
class callback_linearization : public CrossLinearization {
 public:
  callback_linearization(py::object at, index n_theta, index n_lam)
      : at_(std::move(at)),
        n_lam_(n_lam),
        fun_(py::cast<double>(at_.attr("fun"))),
        jac_(floats(at_.attr("jac"), n_theta, "jac")) {}
  callback_linearization(const callback_linearization&) = delete;
  callback_linearization& operator=(const callback_linearization&) = delete;
  ~callback_linearization() override {
    py::gil_scoped_acquire gil;  // may be the last owner of Python objects
    hess_.reset();
    at_ = py::object();
  }

  double fun() const override { return fun_; }
  const std::vector<double>& jac() const override { return jac_; }
  const Operator& hess() const override {
    if (!hess_) {
      py::gil_scoped_acquire gil;
      hess_ = py::cast<std::shared_ptr<Operator>>(at_.attr("hess")());
    }
    return *hess_;
  }
  const std::vector<double>& jac_lam() const override {
    if (jac_lam_.empty()) {
      py::gil_scoped_acquire gil;
      jac_lam_ = floats(at_.attr("jac_lam")(), n_lam_, "jac_lam");
    }
    return jac_lam_;
  }
  void cross(const_block u, block out) const override { product("cross", u, out); }
  void cross_transpose(const_block q, block out) const override {
    product("cross_transpose", q, out);
  }

  double bytes() const override {
    py::gil_scoped_acquire gil;
    return 8.0 * static_cast<double>(jac_.size()) + py::cast<double>(at_.attr("bytes"));
  }

 private:
  static std::vector<double> floats(const py::object& value, index size, const char* name) {
    const auto array = py::cast<block_array>(value);
    require(array.size() == size, std::string(name) + " returned an array of the wrong length");
    return {array.data(), array.data() + size};
  }

  void product(const char* name, const_block v, block out) const {
    py::gil_scoped_acquire gil;
    block_array argument = v.cols == 1 ? block_array(v.rows) : block_array({v.rows, v.cols});
    std::copy_n(v.data, v.size(), argument.mutable_data());
    const std::vector<double> found = floats(at_.attr(name)(argument), out.size(), name);
    std::copy(found.begin(), found.end(), out.data);
  }

  py::object at_;
  index n_lam_;
  double fun_;
  std::vector<double> jac_;
  mutable std::vector<double> jac_lam_;
  mutable std::shared_ptr<Operator> hess_;
};

/// An objective that is linearised in Python: linearize(theta, lam) -> the object above.
class callback_objective : public Objective {
 public:
  callback_objective(py::function linearize, index n_theta, index n_lam)
      : linearize_(std::move(linearize)), n_theta_(n_theta), n_lam_(n_lam) {}

  index n_theta() const override { return n_theta_; }
  index n_lam() const override { return n_lam_; }
  std::shared_ptr<const Linearization> linearize(const double* theta,
                                                 const double* lam) const override {
    py::gil_scoped_acquire gil;
    return std::make_shared<const callback_linearization>(
        linearize_(py::array_t<double>(n_theta_, theta), py::array_t<double>(n_lam_, lam)),
        n_theta_, n_lam_);
  }

 private:
  py::function linearize_;
  index n_theta_, n_lam_;
};

const char* name_of(train_status status) {
  switch (status) {
    case train_status::converged:
      return "converged";
    case train_status::iteration_limit:
      return "iteration_limit";
    case train_status::line_search_failed:
      return "line_search_failed";
    case train_status::non_finite:
      return "non_finite";
  }
  return "";
}

/// `kept` is the objective's preconditioner; None leaves the choice of the method to `direct`.
std::pair<py::array_t<double>, train_report> train(const Objective& f, const block_array& theta0,
                                                   const block_array& lam, double tol,
                                                   index maxiter, bool direct,
                                                   kept_preconditioner* kept) {
  require(theta0.size() == f.n_theta(), "theta0 has the wrong length");
  require(lam.size() == f.n_lam(), "lam has the wrong length");
  py::array_t<double> theta(theta0.size(), theta0.data());
  double* x = theta.mutable_data();
  const double* hyper = lam.data();
  train_report report;
  {
    py::gil_scoped_release release;
    const auto method =
        kept ? train_method::automatic : (direct ? train_method::direct : train_method::krylov);
    report = newton(f, x, hyper, {tol, maxiter, method, kept});
  }
  return {std::move(theta), report};
}

}  // namespace

void register_training(py::module_& m) {
  py::class_<callback_objective, Objective, std::shared_ptr<callback_objective>>(
      m, "CallbackObjective")
      .def(py::init<py::function, index, index>());
  py::class_<train_report>(m, "TrainReport")
      .def_property_readonly("status", [](const train_report& r) { return name_of(r.status); })
      .def_readonly("iterations", &train_report::iterations)
      .def_readonly("evaluations", &train_report::evaluations)
      .def_readonly("products", &train_report::products)
      .def_readonly("fun", &train_report::fun)
      .def_readonly("stationarity", &train_report::stationarity)
      .def_property_readonly("at", [](const train_report& r) {
        return std::const_pointer_cast<HyperLinearization>(
            std::dynamic_pointer_cast<const HyperLinearization>(r.at));
      });
  m.def("train", &train, py::arg("objective"), py::arg("theta0"), py::arg("lam"), py::arg("tol"),
        py::arg("maxiter"), py::arg("direct"), py::arg("kept").none(true));
}

}  // namespace implicitgrad::python
