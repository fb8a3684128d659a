// Passes over all rows: against plain loops, the same bits at any number of threads, interruptible.
#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>

#include "implicitgrad/fused_pass.hpp"
#include "implicitgrad/gram.hpp"
#include "support.hpp"

namespace implicitgrad::testing {

namespace {

struct shape {
  index n, p;
};

// One row block; several; some hundred columns; wider than tall.
constexpr shape shapes[] = {{1, 1},      {3, 1},      {597, 43}, {4097, 17},
                            {20011, 41}, {501, 1403}, {40, 9001}};
constexpr layout layouts[] = {layout::row_major, layout::column_major};
constexpr int thread_counts[] = {1, 2, 3};

/// out = [X 1]ᵀ diag(d) [X 1] V
void hessian_product(const Matrix& x, bool intercept, const std::vector<double>& d, const_block v,
                     block out, int threads) {
  fused_pass(
      x, intercept, v,
      [&](index begin, index count, index, double* z, index ldz) {
        for (index c = 0; c < v.cols; ++c)
          for (index i = 0; i < count; ++i) z[c * ldz + i] *= d[begin + i];
      },
      out, threads);
}

/// x_ij = u_i for all j: products cost O(p) a panel, so that a pass over more entries than fit into
/// memory takes no time. `pause` makes it as slow as wanted.
class rank_one_matrix : public Matrix {
 public:
  rank_one_matrix(index n, index p, std::chrono::microseconds pause = {}) : pause_(pause), p_(p) {
    random_source random(11);
    u_ = random.vector(n);
  }

  index rows() const override { return static_cast<index>(u_.size()); }
  index cols() const override { return p_; }
  index panel_rows() const override { return 8; }
  double u(index i) const { return u_[i]; }

  void dot(index begin, index end, const double* v, index ld, index k, double* z,
           index ldz) const override {
    visit();
    for (index c = 0; c < k; ++c) {
      double sum = 0.0;
      for (index j = 0; j < p_; ++j) sum += v[c * ld + j];
      for (index i = begin; i < end; ++i) z[c * ldz + i - begin] = u_[i] * sum;
    }
  }
  void accumulate(index begin, index end, const double* w, index ldz, index k, double* out,
                  index ld) const override {
    for (index c = 0; c < k; ++c) {
      double sum = 0.0;
      for (index i = begin; i < end; ++i) sum += u_[i] * w[c * ldz + i - begin];
      for (index j = 0; j < p_; ++j) out[c * ld + j] += sum;
    }
  }
  void accumulate_squares(index begin, index end, const double* w, double* out) const override {
    visit();
    double sum = 0.0;
    for (index i = begin; i < end; ++i) sum += w[i - begin] * u_[i] * u_[i];
    for (index j = 0; j < p_; ++j) out[j] += sum;
  }
  void row_squares(index begin, index end, double* out) const override {
    for (index i = begin; i < end; ++i) out[i - begin] = static_cast<double>(p_) * u_[i] * u_[i];
  }
  void copy_scaled(index begin, index end, const double* scale, double* out,
                   index ld) const override {
    visit();
    for (index i = begin; i < end; ++i)
      std::fill_n(out + (i - begin) * ld, p_, scale[i - begin] * u_[i]);
  }
  bool finite(index, index) const override {
    visit();
    return true;
  }

  mutable std::atomic<int> visits{0};

 private:
  void visit() const {
    ++visits;
    if (pause_.count() > 0) std::this_thread::sleep_for(pause_);
  }

  std::chrono::microseconds pause_;
  index p_;
  std::vector<double> u_;
};

struct interrupted : std::runtime_error {
  interrupted() : std::runtime_error("interrupted") {}
};

std::atomic<int> hook_calls, hook_calls_elsewhere;
std::thread::id entered;

/// Installs a hook for as long as it lives.
struct hook_guard {
  explicit hook_guard(void (*hook)()) {
    hook_calls = hook_calls_elsewhere = 0;
    entered = std::this_thread::get_id();
    set_interrupt_hook(hook);
  }
  ~hook_guard() { set_interrupt_hook(nullptr); }
};

void count_call() {
  ++hook_calls;
  if (std::this_thread::get_id() != entered || omp_in_parallel()) ++hook_calls_elsewhere;
}

void throw_at_once() {
  count_call();
  throw interrupted();
}

// 200 row blocks of 16 rows, in groups of at most 64.
constexpr index long_rows = 3200, long_cols = index{1} << 18;

}  // namespace

TEST_CASE("row blocks cover the rows once, and depend on the shape only") {
  for (const index n : {1, 2, 7, 16, 17, 1000, 65536, 65537, 100000, 1234567, 300000000})
    for (const index p : {1, 3, 17, 1000, 4097, 262144, 5000000}) {
      const row_blocks blocks = partition_rows(n, p);
      CAPTURE(n);
      CAPTURE(p);
      CHECK(blocks.count() >= 1);
      CHECK(blocks.begin(0) == 0);
      CHECK(blocks.end(blocks.count() - 1) == n);
      CHECK(blocks.begin(blocks.count() - 1) < n);
      if (blocks.count() > 1) CHECK(blocks.end(0) == blocks.begin(1));
      CHECK(blocks.rows_per_block % 8 == 0);
      // More than 64 blocks only where a block would hold more than 2^22 entries.
      if (blocks.count() > max_live_blocks)
        CHECK((blocks.rows_per_block + 8) * p * (max_live_blocks + 1) > (index{1} << 28));
    }
  CHECK(partition_rows(0, 5).count() == 0);
  CHECK(partition_rows(100000, 1000).count() <= max_live_blocks);
  CHECK(partition_rows(long_rows, long_cols).count() == 200);
}

TEST_CASE_TEMPLATE("the fused Hessian product", T, double, float) {
  for (const shape s : shapes)
    for (const layout order : layouts)
      for (const bool intercept : {false, true}) {
        const stored_matrix<T> x(s.n, s.p, order, 3, 21);
        const auto view = x.view();
        const index size = s.p + (intercept ? 1 : 0);
        random_source random(22);
        const std::vector<double> d = random.vector(s.n);
        for (const index k : {1, 2, 3, 5}) {
          if (k > 2 && s.n * s.p > 100000) continue;  // the plain loop takes long
          const std::string name = describe(s.n, s.p, order, 3);
          CAPTURE(name);
          CAPTURE(k);
          const std::vector<double> v = random.vector(size * k);
          std::vector<double> out(v.size(), nan);
          hessian_product(view, intercept, d, as_block(v, size), as_block(out, size), 1);

          rounding_check check;
          for (index c = 0; c < k; ++c) {
            std::vector<long double> want(size), scale(size);
            for (index i = 0; i < s.n; ++i) {
              long double z = 0, z_scale = 0;
              for (index j = 0; j < size; ++j) {
                z += x.entry(i, j) * v[c * size + j];
                z_scale += std::abs(x.entry(i, j) * v[c * size + j]);
              }
              for (index j = 0; j < size; ++j) {
                want[j] += x.entry(i, j) * z * d[i];
                scale[j] += std::abs(x.entry(i, j) * d[i]) * z_scale;
              }
            }
            for (index j = 0; j < size; ++j)
              check.add(out[c * size + j], want[j], scale[j], s.n + s.p);
          }
          CHECK(check.worst() <= 1.0);

          for (const int threads : thread_counts) {
            std::vector<double> again(v.size(), nan);
            hessian_product(view, intercept, d, as_block(v, size), as_block(again, size), threads);
            CAPTURE(threads);
            CHECK(same_bits(out, again));
          }
        }
      }
}

TEST_CASE_TEMPLATE("weighted squares and the weighted Gram matrix", T, double, float) {
  for (const shape s : shapes) {
    if (s.p > 500) continue;
    for (const layout order : layouts)
      for (const bool intercept : {false, true}) {
        const std::string name = describe(s.n, s.p, order, 1);
        CAPTURE(name);
        const stored_matrix<T> x(s.n, s.p, order, 1, 31);
        const auto view = x.view();
        const index size = s.p + (intercept ? 1 : 0);
        random_source random(32);
        std::vector<double> d(static_cast<std::size_t>(s.n));
        for (double& w : d) w = random.unit() < 0.1 ? 0.0 : random.unit();

        std::vector<long double> want(size * size), scale(size * size);
        for (index i = 0; i < s.n; ++i)
          for (index j = 0; j < size; ++j)
            for (index l = j; l < size; ++l) {
              const long double term = d[i] * x.entry(i, j) * x.entry(i, l);
              want[j * size + l] += term, scale[j * size + l] += std::abs(term);
            }

        std::vector<double> squares(size, nan), gram(size * size, 7.0);
        weighted_squares(view, intercept, column(d), column(squares), 1);
        std::vector<double> root;
        for (const double weight : d) root.push_back(std::sqrt(weight));
        const std::vector<double> ones(size, 1.0);
        weighted_gram<double>(view, intercept, root.data(), ones.data(), gram.data(), 1);
        rounding_check check;
        bool upper_untouched = true;
        for (index j = 0; j < size; ++j) {
          check.add(squares[j], want[j * size + j], scale[j * size + j], s.n);
          for (index l = j; l < size; ++l)
            check.add(gram[j * size + l], want[j * size + l], scale[j * size + l], 2 * s.n);
          for (index l = 0; l < j; ++l)
            upper_untouched = upper_untouched && gram[j * size + l] == 7;
        }
        CHECK(check.worst() <= 1.0);
        CHECK(upper_untouched);

        for (const int threads : thread_counts) {
          std::vector<double> again(size, nan);
          weighted_squares(view, intercept, column(d), column(again), threads);
          CHECK(same_bits(squares, again));
          std::vector<double> gram_again(size * size, 7.0);
          weighted_gram<double>(view, intercept, root.data(), ones.data(), gram_again.data(),
                                threads);
          CHECK(same_bits(gram, gram_again));
        }
      }
  }
}

TEST_CASE("a column of a block is the product with that column") {
  const stored_matrix<double> x(4097, 17, layout::row_major, 0, 41);
  const auto view = x.view();
  random_source random(42);
  const std::vector<double> d = random.vector(4097), v = random.vector(17 * 5);
  std::vector<double> whole(v.size()), single(17);
  hessian_product(view, false, d, as_block(v, 17), as_block(whole, 17), 2);
  for (index c = 0; c < 5; ++c) {
    hessian_product(view, false, d, {v.data() + c * 17, 17, 1}, as_block(single, 17), 2);
    const std::vector<double> column(whole.begin() + c * 17, whole.begin() + (c + 1) * 17);
    CHECK(largest_difference(column, single) <= 1e-13 * 4097);
  }
}

TEST_CASE("more than 64 row blocks: every row once, the same bits at any number of threads") {
  const rank_one_matrix x(long_rows, long_cols);
  random_source random(51);
  const std::vector<double> d = random.vector(long_rows);
  std::vector<double> v(static_cast<std::size_t>(long_cols + 1));
  for (double& e : v) e = random.symmetric();
  long double sum = 0, ones = v.back(), want = 0, want_last = 0, squares = 0, scale = 0;
  for (index j = 0; j < long_cols; ++j) sum += v[j], scale += std::abs(v[j]);
  for (index i = 0; i < long_rows; ++i) {
    const long double z = x.u(i) * sum + ones;
    want += x.u(i) * d[i] * z, want_last += d[i] * z;
    squares += static_cast<long double>(d[i]) * x.u(i) * x.u(i);
  }
  const double allowed = static_cast<double>(1e-12L * scale * long_rows);

  std::vector<double> first(v.size()), first_squares(v.size());
  for (const int threads : thread_counts) {
    std::vector<double> out(v.size(), nan), out_squares(v.size(), nan);
    hessian_product(x, true, d, as_block(v, long_cols + 1), as_block(out, long_cols + 1), threads);
    weighted_squares(x, true, column(d), column(out_squares), threads);
    CHECK(std::abs(out[0] - static_cast<double>(want)) <= allowed);
    CHECK(std::abs(out[long_cols - 1] - static_cast<double>(want)) <= allowed);
    CHECK(std::abs(out[long_cols] - static_cast<double>(want_last)) <= allowed);
    CHECK(out_squares[0] == doctest::Approx(static_cast<double>(squares)).epsilon(1e-12));
    if (threads == 1) first = out, first_squares = out_squares;
    CHECK(same_bits(first, out));
    CHECK(same_bits(first_squares, out_squares));
  }
  x.visits = 0;
  CHECK(all_finite(x, 2));
  CHECK(x.visits == 200);
}

TEST_CASE("partial sums of row operations are numbered by block") {
  const rank_one_matrix x(long_rows, long_cols);
  const std::vector<double> v(static_cast<std::size_t>(long_cols), 1.0);
  std::vector<double> out(v.size());
  std::vector<int> rows_seen(200);
  fused_pass(
      x, false, as_block(v, long_cols),
      [&](index begin, index count, index b, double*, index) {
        rows_seen[b] += static_cast<int>(count);
        if (begin / 16 != b) rows_seen[b] = -1000;
      },
      as_block(out, long_cols), 2);
  CHECK(std::all_of(rows_seen.begin(), rows_seen.end(), [](int rows) { return rows == 16; }));
}

TEST_CASE("a throwing hook ends a long pass, from the thread that entered it") {
  const std::vector<double> d(static_cast<std::size_t>(long_rows), 1.0);
  const std::vector<double> v(static_cast<std::size_t>(long_cols), 1.0);
  std::vector<double> out(v.size());
  for (const int threads : {1, 2}) {
    // A group of 64 blocks, two panels each, takes at least 64 ms on two threads: it is polled
    // after.
    const rank_one_matrix x(long_rows, long_cols, std::chrono::milliseconds(1));
    CAPTURE(threads);
    {
      const hook_guard guard(throw_at_once);
      CHECK_THROWS_AS(
          hessian_product(x, false, d, as_block(v, long_cols), as_block(out, long_cols), threads),
          interrupted);
      CHECK(x.visits < 300);
    }
    x.visits = 0;
    {
      const hook_guard guard(throw_at_once);
      // Here a block is one visit: two groups are enough on two threads.
      CHECK_THROWS_AS(weighted_squares(x, false, column(d), column(out), threads), interrupted);
      CHECK(x.visits < 200);
    }
    CHECK(hook_calls == 1);
    CHECK(hook_calls_elsewhere == 0);
  }
  SUBCASE("and the next pass works") {
    const rank_one_matrix x(long_rows, long_cols);
    hessian_product(x, false, d, as_block(v, long_cols), as_block(out, long_cols), 2);
    CHECK(std::isfinite(out[0]));
  }
}

TEST_CASE("the hook is called at most every 50 ms") {
  const hook_guard guard(count_call);
  const auto start = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() - start < std::chrono::milliseconds(220))
    poll_interrupt();
  CHECK(hook_calls >= 2);
  CHECK(hook_calls <= 5);
}

}  // namespace implicitgrad::testing
