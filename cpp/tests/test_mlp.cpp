// Networks against a plain definition in extended precision: value and gradient by their formulas,
// products with H by differences of that gradient.
#include <doctest/doctest.h>

#include <numeric>

#include "implicitgrad/blas.hpp"
#include "implicitgrad/mlp.hpp"
#include "implicitgrad/space.hpp"
#include "support.hpp"

namespace implicitgrad::testing {

namespace {

using real = long double;

struct network {
  std::vector<index> widths;
  std::string activation, loss;
  index rows;
  layout order = layout::row_major;
  index n_groups = 0;
  bool shares = false;  // whether y holds distributions
};

/// Targets of rows: labels, distributions (with certain ones among them) or numbers.
std::vector<double> targets_of(const network& net, random_source& random) {
  const index outputs = net.widths.back();
  std::vector<double> y;
  if (net.loss != "softmax") return random.vector(net.rows * outputs);
  for (index i = 0; i < net.rows; ++i) {
    std::vector<double> row(static_cast<std::size_t>(outputs));
    for (double& each : row) each = i % 3 == 0 ? 0.0 : random.unit() + 0.01;
    if (i % 3 == 0) row[static_cast<std::size_t>(i % outputs)] = 1.0;
    const double sum = std::accumulate(row.begin(), row.end(), 0.0);
    for (const double each : row)
      if (net.shares) y.push_back(each / sum);
    if (!net.shares) y.push_back(static_cast<double>(i % outputs));
  }
  return y;
}

std::shared_ptr<const mlp_architecture> architecture_of(const network& net) {
  auto made = std::make_shared<mlp_architecture>();
  made->widths = net.widths, made->activation = net.activation, made->loss = net.loss;
  made->penalty.fixed = 0.125, made->penalty.n_groups = net.n_groups;
  index weights = 0;
  for (std::size_t l = 1; l < net.widths.size(); ++l) weights += net.widths[l - 1] * net.widths[l];
  if (net.n_groups != weights)
    for (index j = 0; j < weights && net.n_groups > 0; ++j)
      made->penalty.group.push_back(j % net.n_groups);
  made->lay_out();
  return made;
}

real phi(const std::string& name, real z, int derivative) {
  if (name == "tanh") return derivative == 0 ? std::tanh(z) : 1 / (std::cosh(z) * std::cosh(z));
  if (name == "softplus")
    return derivative == 0 ? std::max(z, 0.0L) + std::log1p(std::exp(-std::abs(z)))
                           : 1 / (1 + std::exp(-z));
  if (name == "relu") return z > 0 ? (derivative == 0 ? z : 1.0L) : 0.0L;
  return derivative == 0 ? z : 1.0L;
}

/// Value and gradient of f.
template <class T>
struct definition {
  real fun = 0;
  std::vector<real> jac;

  definition(const mlp_architecture& net, const stored_matrix<T>& x, const std::vector<double>& y,
             const std::vector<double>& c, const std::vector<real>& theta,
             const std::vector<double>& lam)
      : jac(theta.size()) {
    const index depth = static_cast<index>(net.layers.size()), outputs = net.widths.back();
    for (index i = 0; i < x.rows; ++i) {
      std::vector<std::vector<real>> a(1), slope(1);
      for (index j = 0; j < x.cols; ++j) a[0].push_back(x.at(i, j));
      for (index l = 1; l <= depth; ++l) {
        const auto& at = net.layers[l - 1];
        std::vector<real> z(at.out), s(at.out);
        for (index k = 0; k < at.out; ++k) {
          z[k] = theta[at.biases + k];
          for (index j = 0; j < at.in; ++j)
            z[k] += a[l - 1][j] * theta[at.weights + j * at.out + k];
          if (l == depth) continue;
          s[k] = phi(net.activation, z[k], 1);
          z[k] = phi(net.activation, z[k], 0);
        }
        a.push_back(z), slope.push_back(s);
      }
      std::vector<real> delta(outputs);
      if (net.loss == "softmax") {
        real total = 0;
        for (const real z : a[depth]) total += std::exp(z);
        const bool labels = static_cast<index>(y.size()) == x.rows;
        fun += c[i] * std::log(total);
        for (index k = 0; k < outputs; ++k) {
          const real share = labels ? (k == static_cast<index>(y[i])) : y[i * outputs + k];
          fun -= c[i] * share * a[depth][k];
          delta[k] = c[i] * (std::exp(a[depth][k]) / total - share);
        }
      } else {
        for (index k = 0; k < outputs; ++k) {
          const real r = a[depth][k] - y[i * outputs + k];
          fun += c[i] * r * r / 2, delta[k] = c[i] * r;
        }
      }
      for (index l = depth; l >= 1; --l) {
        const auto& at = net.layers[l - 1];
        std::vector<real> before(at.in);
        for (index k = 0; k < at.out; ++k) {
          jac[at.biases + k] += delta[k];
          for (index j = 0; j < at.in; ++j) {
            jac[at.weights + j * at.out + k] += a[l - 1][j] * delta[k];
            before[j] += theta[at.weights + j * at.out + k] * delta[k];
          }
        }
        if (l == 1) break;
        for (index j = 0; j < at.in; ++j) before[j] *= slope[l - 1][j];
        delta = before;
      }
    }
    index seen = 0;
    for (const auto& at : net.layers)
      for (index j = at.weights; j < at.biases; ++j, ++seen) {
        const index group = net.penalty.group.empty() ? seen : net.penalty.group[seen];
        const real strength =
            net.penalty.fixed + (lam.empty() ? 0.0L : std::exp(static_cast<real>(lam[group])));
        fun += strength * theta[j] * theta[j] / 2, jac[j] += strength * theta[j];
      }
  }
};

std::vector<real> moved(const std::vector<double>& theta, const std::vector<double>& v, real step) {
  std::vector<real> out(theta.begin(), theta.end());
  for (std::size_t j = 0; j < out.size(); ++j) out[j] += step * v[j];
  return out;
}

template <class T>
void check(const network& net, double tolerance) {
  CAPTURE(net.activation);
  CAPTURE(net.loss);
  CAPTURE(net.widths.size());
  random_source random(11);
  const auto architecture = architecture_of(net);
  const stored_matrix<T> x(net.rows, net.widths.front(), net.order, 3, 5);
  std::vector<double> c = random.vector(net.rows);
  for (double& w : c) w = std::max(w, 0.0) / static_cast<double>(net.rows);
  const std::vector<double> y = targets_of(net, random);
  const std::vector<double> theta = random.vector(architecture->n_theta),
                            v = random.vector(architecture->n_theta),
                            lam = random.vector(net.n_groups);
  const auto matrix = std::make_shared<dense_matrix<T>>(x.view());
  std::vector<double> first;
  for (const int threads : {1, 3}) {
    const auto f = make_mlp(architecture, matrix, y, c, threads);
    const auto at =
        std::dynamic_pointer_cast<const HyperLinearization>(f->linearize(theta.data(), lam.data()));
    REQUIRE(at);
    std::vector<double> product(theta.size());
    at->hess().apply(column(v), column(product));
    if (threads > 1) CHECK(same_bits(product, first));
    first = product;
    if (threads > 1) continue;

    const definition<T> want(*architecture, x, y, c, moved(theta, v, 0), lam);
    double jac_error = 0, scale = 0;
    for (std::size_t j = 0; j < theta.size(); ++j) {
      jac_error = std::max(jac_error, static_cast<double>(std::abs(at->jac()[j] - want.jac[j])));
      scale = std::max(scale, static_cast<double>(std::abs(want.jac[j])));
    }
    CHECK(std::abs(at->fun() - static_cast<double>(want.fun)) <=
          tolerance * (1 + std::abs(at->fun())));
    CHECK(jac_error <= tolerance * scale);

    // Central differences in extended precision: the error is h² and 1e-19 / h.
    constexpr real h = 1e-6L;
    const definition<T> up(*architecture, x, y, c, moved(theta, v, h), lam),
        down(*architecture, x, y, c, moved(theta, v, -h), lam);
    double error = 0, size = 0;
    for (std::size_t j = 0; j < theta.size(); ++j) {
      const real exact = (up.jac[j] - down.jac[j]) / (2 * h);
      error = std::max(error, static_cast<double>(std::abs(product[j] - exact)));
      size = std::max(size, static_cast<double>(std::abs(exact)));
    }
    CHECK(error <= std::max(tolerance, 1e-9) * size);

    std::vector<double> gauss_newton(theta.size());
    at->gauss_newton()->apply(column(v), column(gauss_newton));
    double energy = 0;
    for (std::size_t j = 0; j < theta.size(); ++j) energy += v[j] * gauss_newton[j];
    CHECK(energy > 0.0);
    // Without curvature of the network's own the two are one.
    if (net.widths.size() == 2 && net.loss == "squared")
      CHECK(largest_difference(product, gauss_newton) <= tolerance * size);
  }
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  return host_space::dot(static_cast<index>(a.size()), a.data(), b.data());
}

double norm(const std::vector<double>& a) { return std::sqrt(dot(a, a)); }

/// The rows against the gradient, and against each other; one of the c_i is zero.
template <class T>
void check_rows(const network& net, double tolerance) {
  CAPTURE(net.activation);
  CAPTURE(net.widths.size());
  random_source random(13);
  const auto architecture = architecture_of(net);
  const index n = net.rows, p = net.widths.front(), size = architecture->n_theta;
  const stored_matrix<T> x(n, p, net.order, 0, 5);
  std::vector<double> c = random.vector(n);
  const std::vector<double> y = targets_of(net, random);
  for (double& w : c) w = std::abs(w) / static_cast<double>(n);
  c[1] = 0.0;
  const std::vector<double> theta = random.vector(size), q = random.vector(size);
  const auto f = make_mlp(architecture, std::make_shared<dense_matrix<T>>(x.view()), y, c, 2);
  const auto at =
      std::dynamic_pointer_cast<const NetworkLinearization>(f->linearize(theta.data(), nullptr));
  REQUIRE(at);
  const auto rows = at->loss_rows();
  std::vector<double> values(c.size()), along(c.size()), norms(c.size()), sum(theta.size());
  rows->values(values.data());
  rows->products(column(q), column(along));
  rows->norms(norms.data());
  rows->sum(c.data(), sum.data());

  std::vector<double> penalty(theta.size());
  for (const auto& [begin, count] : architecture->penalty.runs)
    for (index j = begin; j < begin + count; ++j) penalty[j] = 0.125 * theta[j];
  CHECK(dot(c, values) + 0.5 * dot(penalty, theta) ==
        doctest::Approx(at->fun()).epsilon(tolerance));
  for (std::size_t j = 0; j < sum.size(); ++j) penalty[j] += sum[j];
  CHECK(largest_difference(penalty, at->jac()) <= tolerance * norm(at->jac()));
  CHECK(std::abs(dot(c, along) - dot(sum, q)) <= tolerance * norm(sum) * norm(q));

  std::vector<double> one(c.size());
  one[1] = 1.0;
  rows->sum(one.data(), sum.data());
  CHECK(norm(sum) == doctest::Approx(norms[1]).epsilon(tolerance));
  CHECK(along[1] == doctest::Approx(dot(sum, q)).epsilon(100 * tolerance));

  const std::vector<index> some{n - 1, 2, n / 2};
  const std::vector<double> u = random.vector(3 * p);
  std::vector<double> products(u.size());
  rows->input_products(some, q.data(), products.data());
  rows->input_sum(some, u.data(), sum.data());
  CHECK(std::abs(dot(products, u) - dot(sum, q)) <= tolerance * norm(sum) * norm(q));

  std::vector<double> slopes(static_cast<std::size_t>(n * net.widths.back())), of_y(slopes.size());
  if (net.loss == "softmax" && !net.shares) {
    CHECK_THROWS_AS(rows->target_slopes(slopes.data()), std::invalid_argument);
    return;
  }
  const std::vector<double> w = random.vector(static_cast<index>(slopes.size()));
  rows->target_slopes(slopes.data());
  rows->target_products(column(q), column(of_y));
  rows->target_sum(w.data(), sum.data());
  CHECK(std::abs(dot(of_y, w) - dot(sum, q)) <= tolerance * norm(sum) * norm(q));
  // ℓ is linear in the shares of a row and quadratic in a target: exact by central differences.
  std::vector<double> up = y, down = y, above(c.size()), below(c.size());
  const index k = net.widths.back(), last = n - 1;
  for (index j = 0; j < k; ++j) {
    const double step = j == 0 ? 0.01 * static_cast<double>(1 - k) : 0.01;  // the sum stays
    up[last * k + j] += step, down[last * k + j] -= step;
  }
  const auto value = [&](const std::vector<double>& at_y, std::vector<double>& out) {
    const auto moved =
        make_mlp(architecture, std::make_shared<dense_matrix<T>>(x.view()), at_y, c, 2);
    const auto there = moved->linearize(theta.data(), nullptr);
    dynamic_cast<const NetworkLinearization&>(*there).loss_rows()->values(out.data());
  };
  value(up, above), value(down, below);
  double slope = 0.01 * static_cast<double>(1 - k) * slopes[last * k];
  for (index j = 1; j < k; ++j) slope += 0.01 * slopes[last * k + j];
  CHECK(slope == doctest::Approx((above[last] - below[last]) / 2).epsilon(300 * tolerance));
}

}  // namespace

TEST_CASE("rows of networks, in one block and in several") {
  for (const std::string activation : {"tanh", "softplus", "relu"})
    for (const std::vector<index>& widths : {std::vector<index>{4, 3}, {4, 5, 3}, {2, 4, 3, 2}})
      for (const index n : {9, 4200}) {
        check_rows<double>({widths, activation, "softmax", n}, 1e-12);
        check_rows<float>({widths, activation, "softmax", n, layout::column_major}, 1e-4);
        check_rows<double>({widths, activation, "softmax", n, layout::row_major, 0, true}, 1e-12);
        check_rows<double>({widths, activation, "squared", n}, 1e-12);
      }
}

TEST_CASE("value, gradient and products of networks") {
  for (const std::string activation : {"tanh", "softplus", "relu", "identity"})
    for (const std::string loss : {"softmax", "squared"})
      for (const std::vector<index>& widths :
           {std::vector<index>{4, 3}, {4, 5, 3}, {3, 1, 2}, {2, 4, 3, 2}}) {
        index weights = 0;
        for (std::size_t l = 1; l < widths.size(); ++l) weights += widths[l - 1] * widths[l];
        check<double>({widths, activation, loss, 7, layout::row_major, weights}, 1e-13);
        check<double>({widths, activation, loss, 70, layout::column_major, 2}, 1e-13);
        check<float>({widths, activation, loss, 9, layout::row_major, 0}, 2e-5);
        if (loss != "softmax") continue;
        check<double>({widths, activation, loss, 70, layout::row_major, 2, true}, 1e-13);
        check<float>({widths, activation, loss, 9, layout::row_major, 0, true}, 2e-5);
      }
}

TEST_CASE("more rows than a block") {
  check<double>({{3, 16, 2}, "tanh", "softmax", 4200, layout::row_major, 1}, 1e-12);
  check<float>({{3, 16, 2}, "softplus", "squared", 4200, layout::column_major, 1}, 2e-5);
}

TEST_CASE("what does not fit is refused") {
  auto net = std::make_shared<mlp_architecture>();
  net->widths = {3};
  CHECK_THROWS_AS(net->lay_out(), std::invalid_argument);
  net->widths = {3, 0};
  CHECK_THROWS_AS(net->lay_out(), std::invalid_argument);
  net->widths = {3, 2};
  net->penalty.n_groups = 2;
  net->penalty.group = {0, 1};
  CHECK_THROWS_AS(net->lay_out(), std::invalid_argument);
  net->penalty.group = {0, 1, 2, 0, 1, 0};
  CHECK_THROWS_AS(net->lay_out(), std::invalid_argument);
  net->penalty = {};
  net->activation = "tanh", net->loss = "softmax";
  net->lay_out();
  const stored_matrix<double> x(2, 3, layout::row_major, 0, 1);
  const auto matrix = std::make_shared<dense_matrix<double>>(x.view());
  CHECK_THROWS_AS(make_mlp(net, matrix, {0.0, 2.0}, {0.5, 0.5}, 1), std::invalid_argument);
  CHECK_THROWS_AS(make_mlp(net, matrix, {0.0}, {0.5, 0.5}, 1), std::invalid_argument);
  CHECK_THROWS_AS(make_mlp(net, matrix, {0.0, 1.0}, {0.5}, 1), std::invalid_argument);
}

TEST_CASE("the plain matrix product in all its forms") {
  random_source random(3);
  const std::vector<double> left = random.vector(20), right = random.vector(20);
  for (const bool ta : {false, true})
    for (const bool tb : {false, true})
      for (const double beta : {0.0, 1.0}) {
        std::vector<double> c(6, beta == 0.0 ? nan : 2.0);
        gemm<double>(2, 3, 4, {left.data(), ta ? 2 : 4, ta}, {right.data(), tb ? 4 : 3, tb}, beta,
                     c.data(), 3);
        for (index i = 0; i < 2; ++i)
          for (index j = 0; j < 3; ++j) {
            double sum = 2.0 * beta;
            for (index l = 0; l < 4; ++l)
              sum += left[ta ? l * 2 + i : i * 4 + l] * right[tb ? j * 4 + l : l * 3 + j];
            CHECK(c[i * 3 + j] == doctest::Approx(sum).epsilon(1e-14));
          }
      }
}

}  // namespace implicitgrad::testing
