// The rules of first-order methods, step by step and unrolled.
#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "implicitgrad/unroll.hpp"
#include "register.hpp"

namespace implicitgrad::python {

namespace {

/// A rule on its way: its memory between steps of one x.
class stepper {
 public:
  explicit stepper(std::shared_ptr<const StepRule> rule) : rule_(std::move(rule)) {}

  block_array step(const block_array& gradient) {
    const index n = gradient.size();
    if (t_ == 0) memory_.assign(static_cast<std::size_t>(n * rule_->slots()), 0.0);
    require(static_cast<index>(memory_.size()) == n * rule_->slots(),
            "gradient has another length than the one before");
    block_array out = empty_like_block(gradient, n);
    rule_->step(++t_, gradient.data(), {memory_.data(), n, rule_->slots()}, out.mutable_data());
    return out;
  }

 private:
  std::shared_ptr<const StepRule> rule_;
  std::vector<double> memory_;
  index t_ = 0;
};

const char* name_of(unroll_status status) {
  switch (status) {
    case unroll_status::finished:
      return "finished";
    case unroll_status::diverged:
      return "diverged";
    case unroll_status::non_finite:
      return "non_finite";
  }
  return "";
}

unroll_report run(const Objective& f, const Objective& g, const StepRule& rule,
                  const block_array& theta0, const block_array& lam, index steps,
                  index differentiated, bool forward, double memory) {
  const double *start = as_vector(theta0, f.n_theta(), "theta0"),
               *hyper = as_vector(lam, f.n_lam(), "lam");
  require(g.n_theta() == f.n_theta(), "f and g must have the same n_theta");
  require(g.n_lam() == 0 || g.n_lam() == f.n_lam(), "g must have n_lam = 0 or that of f");
  require(1 <= differentiated && differentiated <= steps, "steps are too few");
  py::gil_scoped_release release;
  return unroll(f, g, rule, start, hyper, {steps, differentiated, forward, memory});
}

}  // namespace

void register_unrolling(py::module_& m) {
  py::class_<StepRule, std::shared_ptr<StepRule>>(m, "StepRule")
      .def_static("descent",
                  [](double rate, double momentum) {
                    return std::const_pointer_cast<StepRule>(make_descent(rate, momentum));
                  })
      .def_static("adam",
                  [](double rate, double beta1, double beta2, double eps) {
                    return std::const_pointer_cast<StepRule>(make_adam(rate, beta1, beta2, eps));
                  })
      .def_property_readonly("most_curvature", &StepRule::most_curvature);
  py::class_<stepper>(m, "Stepper")
      .def(py::init([](std::shared_ptr<StepRule> rule) { return stepper(std::move(rule)); }))
      .def("step", &stepper::step);
  py::class_<unroll_report>(m, "UnrollReport")
      .def_property_readonly("status", [](const unroll_report& r) { return name_of(r.status); })
      .def_readonly("steps", &unroll_report::steps)
      .def_readonly("linearizations", &unroll_report::linearizations)
      .def_readonly("products", &unroll_report::products)
      .def_readonly("fun", &unroll_report::fun)
      .def_readonly("stationarity", &unroll_report::stationarity)
      .def_readonly("grad_rate", &unroll_report::grad_rate)
      .def_readonly("curvature_min", &unroll_report::curvature_min)
      .def_readonly("curvature_max", &unroll_report::curvature_max)
      .def_property_readonly("theta", [](const unroll_report& r) { return copy_vector(r.theta); })
      .def_property_readonly("direct", [](const unroll_report& r) { return copy_vector(r.direct); })
      .def_property_readonly("grad", [](const unroll_report& r) { return copy_vector(r.grad); })
      .def_property_readonly("grad_theta0",
                             [](const unroll_report& r) { return copy_vector(r.grad_theta0); });
  m.def("unroll", &run, py::arg("f"), py::arg("g"), py::arg("rule"), py::arg("theta0"),
        py::arg("lam"), py::arg("steps"), py::arg("differentiated"), py::arg("forward"),
        py::arg("memory"));
}

}  // namespace implicitgrad::python
