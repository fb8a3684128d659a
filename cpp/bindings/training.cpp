#include <memory>
#include <utility>

#include "arrays.hpp"
#include "implicitgrad/objective.hpp"
#include "implicitgrad/trainers/newton.hpp"
#include "register.hpp"

namespace implicitgrad::python {

namespace {

/// What a Python objective returned for one point: (fun, jac, hess).
class callback_linearization : public Linearization {
 public:
  callback_linearization(double fun, std::vector<double> jac, std::shared_ptr<Operator> hess)
      : fun_(fun), jac_(std::move(jac)), hess_(std::move(hess)) {}
  ~callback_linearization() override {
    py::gil_scoped_acquire gil;  // the operator may be the last owner of a Python object
    hess_.reset();
  }

  double fun() const override { return fun_; }
  const std::vector<double>& jac() const override { return jac_; }
  const Operator& hess() const override { return *hess_; }

 private:
  double fun_;
  std::vector<double> jac_;
  std::shared_ptr<Operator> hess_;
};

/// An objective whose linearisation is computed in Python: linearize(theta) -> (fun, jac, hess),
/// with λ bound beforehand.
class callback_objective : public Objective {
 public:
  callback_objective(py::function linearize, index n_theta)
      : linearize_(std::move(linearize)), n_theta_(n_theta) {}

  index n_theta() const override { return n_theta_; }
  index n_lam() const override { return 0; }
  std::shared_ptr<const Linearization> linearize(const double* theta,
                                                 const double*) const override {
    py::gil_scoped_acquire gil;
    const py::tuple at = linearize_(py::array_t<double>(n_theta_, theta));
    const auto jac = py::cast<block_array>(at[1]);
    require(jac.size() == n_theta_, "jac returned an array of the wrong length");
    return std::make_shared<const callback_linearization>(
        py::cast<double>(at[0]), std::vector<double>(jac.data(), jac.data() + jac.size()),
        py::cast<std::shared_ptr<Operator>>(at[2]));
  }

 private:
  py::function linearize_;
  index n_theta_;
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
      .def(py::init<py::function, index>());
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
