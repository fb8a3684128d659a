#include "implicitgrad/symmetric_eigen.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace implicitgrad {

namespace {

syevd_function syevd = nullptr;

/// Sweeps of rotations in the planes (i, j) that each clear a_ij (C. G. J. Jacobi, 1846).
bool rotate(index n, double* a, double* values) {
  std::vector<double> full(static_cast<std::size_t>(n * n)), u(full.size());
  for (index j = 0; j < n; ++j) {
    u[j * n + j] = 1.0;
    for (index i = j; i < n; ++i) full[j * n + i] = full[i * n + j] = a[j * n + i];
  }
  const auto turn = [n](double* x, double* y, index step, double c, double s) {
    for (index k = 0; k < n; ++k, x += step, y += step) {
      const double t = c * *x - s * *y;
      *y = s * *x + c * *y;
      *x = t;
    }
  };
  double size = 0.0;
  for (const double x : full) size = std::max(size, std::abs(x));
  bool done = false;
  for (int sweep = 0; sweep < 60 && !done; ++sweep) {
    done = true;
    for (index i = 0; i < n; ++i)
      for (index j = i + 1; j < n; ++j) {
        const double off = full[j * n + i], of_i = full[i * n + i], of_j = full[j * n + j];
        if (!(std::abs(off) > 1e-16 * size)) continue;
        done = false;
        const double angle = 0.5 * std::atan2(2.0 * off, of_j - of_i);
        const double c = std::cos(angle), s = std::sin(angle);
        turn(&full[i * n], &full[j * n], 1, c, s);
        turn(&full[i], &full[j], n, c, s);
        turn(&u[i * n], &u[j * n], 1, c, s);
      }
  }
  std::vector<index> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), index{0});
  std::sort(order.begin(), order.end(),
            [&](index i, index j) { return full[i * n + i] < full[j * n + j]; });
  for (index j = 0; j < n; ++j) {
    values[j] = full[order[j] * n + order[j]];
    std::copy_n(&u[order[j] * n], n, a + j * n);
  }
  return done;
}

}  // namespace

void set_syevd(syevd_function function) { syevd = function; }

bool symmetric_eigen(index n, double* a, double* values) {
  if (!std::all_of(a, a + n * n, [](double x) { return std::isfinite(x); })) return false;
  if (!syevd) return rotate(n, a, values);
  char job = 'V', triangle = 'L';
  int size = static_cast<int>(n), ask = -1, iwanted = 0, info = 0;
  double wanted = 0.0;
  syevd(&job, &triangle, &size, a, &size, values, &wanted, &ask, &iwanted, &ask, &info);
  if (info != 0) return false;
  int lwork = static_cast<int>(wanted), liwork = iwanted;
  std::vector<double> work(static_cast<std::size_t>(lwork));
  std::vector<int> iwork(static_cast<std::size_t>(liwork));
  syevd(&job, &triangle, &size, a, &size, values, work.data(), &lwork, iwork.data(), &liwork,
        &info);
  return info == 0;
}

}  // namespace implicitgrad
