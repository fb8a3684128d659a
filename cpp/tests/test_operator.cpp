// What operators do by default, the shifted operator and the Jacobi preconditioner.
#include <doctest/doctest.h>

#include <memory>

#include "implicitgrad/operator.hpp"
#include "implicitgrad/solvers/jacobi.hpp"
#include "implicitgrad/solvers/shifted.hpp"
#include "support.hpp"

namespace implicitgrad::testing {

TEST_CASE("dense() applies the operator to the identity, in blocks") {
  for (const index n : {1, 3, 64, 65, 150}) {
    const dense_operator a = dense_operator::with_spectrum(log_spaced(0.1, 10.0, n + 1), 1);
    std::vector<double> out(static_cast<std::size_t>(a.size() * a.size()), nan);
    a.dense(out.data());
    bool exact = true;
    for (index j = 0; j < a.size(); ++j)
      for (index i = j; i < a.size(); ++i) exact = exact && out[j * a.size() + i] == a(i, j);
    CHECK(exact);
    CHECK(a.dense_products() == a.size());
    CHECK(a.applications == (a.size() + 63) / 64);
  }
}

TEST_CASE("the shifted operator is A + shift I in every form") {
  const auto a = std::make_shared<dense_operator>(2, std::vector<double>{2.0, 1.0, 1.0, 3.0});
  const shifted_operator shifted(a, 0.5);
  const std::vector<double> v{1.0, 2.0, 0.0, -1.0};
  std::vector<double> out(4), diagonal(2), dense(4);
  shifted.apply(as_block(v, 2), as_block(out, 2));
  CHECK(same_bits(out, {4.5, 8.0, -1.0, -3.5}));
  CHECK(shifted.diagonal(diagonal.data()));
  CHECK(same_bits(diagonal, {2.5, 3.5}));
  shifted.dense(dense.data());
  CHECK(dense[0] == 2.5);
  CHECK(dense[1] == 1.0);
  CHECK(dense[3] == 3.5);
  CHECK(shifted.dense_products() == a->dense_products());
}

TEST_CASE("the Jacobi preconditioner inverts the diagonal, where it is positive") {
  const dense_operator a = dense_operator::diagonal_matrix({4.0, 0.0, -2.0});
  const auto m = jacobi_preconditioner::of(a);
  REQUIRE(m);
  const std::vector<double> v{1.0, 1.0, 1.0, 2.0, 3.0, 4.0};
  std::vector<double> out(6);
  m->apply(as_block(v, 3), as_block(out, 3));
  CHECK(same_bits(out, {0.25, 1.0, 1.0, 0.5, 3.0, 4.0}));
  CHECK(same_bits(m->matrix_diagonal(), {4.0, 0.0, -2.0}));

  struct unknown : Operator {
    index size() const override { return 2; }
    void apply(const_block, block) const override {}
  };
  CHECK(jacobi_preconditioner::of(unknown{}) == nullptr);
}

}  // namespace implicitgrad::testing
