// exp, log1p, tanh and softplus as straight-line arithmetic, so that a loop over them becomes
// vector code: neither branches nor calls, and no value-changing flag. Errors are below 1.5 units
// in the last place of the result; below 2.5 for softplus, and 3 for its slope.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace implicitgrad {

namespace detail {

/// Σ_j c_j xʲ, c_0 first: the even and the odd powers by Horner's rule, side by side.
template <int N>
inline double polynomial(double x, const double (&c)[N]) {
  static_assert(N % 2 == 0);
  const double square = x * x;
  double even = c[N - 2], odd = c[N - 1];
  for (int j = N - 4; j >= 0; j -= 2) even = even * square + c[j], odd = odd * square + c[j + 1];
  return even + x * odd;
}

}  // namespace detail

/// a where the sign bit of x is set, otherwise b. From several conditionals on the same thing
/// compilers make branches, and then no vector code.
inline double select_by_sign(double x, double a, double b) {
  const std::uint64_t mask = -(std::bit_cast<std::uint64_t>(x) >> 63);
  return std::bit_cast<double>((std::bit_cast<std::uint64_t>(a) & mask) |
                               (std::bit_cast<std::uint64_t>(b) & ~mask));
}

namespace detail {

/// e^x = 2^k (1 + fraction), for |x| ≤ 746; the last bits of `shifted` are those of k + 2046.
///
/// With x = k ln 2 + r, |r| ≤ ½ ln 2, fraction = r + r² Q(r). Q is the polynomial of degree 9 whose
/// largest error relative to e^r is least, 2^−57.9. ln 2 is split in two (W. J. Cody and W. Waite,
/// "Software Manual for the Elementary Functions", 1980): k times the first part is exact.
struct reduced_exp {
  double shifted, fraction, lost;  // `lost` is what rounding took from the fraction, to first order

  explicit reduced_exp(double x) {
    constexpr double log2_e = 0x1.71547652b82fep+0;
    constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
    // Added to |k| ≤ 1076 it leaves no bits for a fraction, and k + 2046 in the last bits.
    constexpr double shift = 0x1.8p52 + 2046.0;
    shifted = x * log2_e + shift;
    const double k = shifted - shift;
    const double far = x - k * ln2_high, r = far - k * ln2_low;
    const double q = polynomial(
        r, {0x1.000000000000ap-1, 0x1.55555555554fap-3, 0x1.555555555087cp-5, 0x1.1111111127be6p-7,
            0x1.6c16c1842a198p-10, 0x1.a01a012a57713p-13, 0x1.a0199a0c53efap-16,
            0x1.71df2552a3075p-19, 0x1.28ad72dd1dd64p-22, 0x1.ad7f6e8eaa133p-26});
    const double rest = r * r * q;
    fraction = r + rest;
    lost = ((far - r) - k * ln2_low) + ((r - fraction) + rest);
  }
  std::uint64_t bits() const { return std::bit_cast<std::uint64_t>(shifted); }
};

}  // namespace detail

/// e^x for every double: results below the smallest normal number are rounded like others, beyond
/// the range it gives 0 and ∞, and NaN stays NaN.
inline double vector_exp(double x) {
  constexpr double most = 746.0;  // e^±746 is ∞ and 0
  const double size = std::abs(x);
  const detail::reduced_exp e(std::copysign(size > most ? most : size, x));
  const double mantissa = 1.0 + e.fraction;
  // 2^k in two normal factors, of which only the second may round: their biased exponents, halves
  // of k + 2046, are what the left shift leaves of the bits.
  const std::uint64_t bits = e.bits(), half = bits >> 1;
  return mantissa * std::bit_cast<double>(half << 52) * std::bit_cast<double>((bits - half) << 52);
}

/// log(1 + x) for 0 ≤ x ≤ 1, and NaN for NaN.
///
/// With s = x / (2 + x) ≤ 1/3 it is 2 artanh s = 2s + s³ P(s²) = x − s (x − s² P(s²)), whose first
/// term is exact. P is the polynomial of degree 9 whose largest error relative to the result is
/// least, 2^−59.4.
inline double vector_log1p(double x) {
  const double s = x / (2.0 + x);
  const double w = s * s;
  const double p = detail::polynomial(
      w, {0x1.5555555555535p-1, 0x1.99999999a06c1p-2, 0x1.2492492091140p-2, 0x1.c71c741a05e73p-3,
          0x1.745cb459c712fp-3, 0x1.3b1dd3ab0888ep-3, 0x1.10682eefb5a9dp-3, 0x1.efd18bd021ffbp-4,
          0x1.55cf5eb72d5edp-4, 0x1.5c5c1d20136dbp-3});
  return x - s * (x - w * p);
}

/// tanh x = E / (E + 2) with E = e^{2x} − 1 = 2^k fraction + (2^k − 1), where nothing cancels; for
/// every double, and NaN for NaN. What the two sums round off is found exactly and put back to
/// first order.
inline double vector_tanh(double x) {
  constexpr double most = 20.0;  // tanh rounds to 1 from 19.1 on
  const double size = std::abs(x);
  const detail::reduced_exp e(2.0 * (size > most ? most : size));
  const double power = std::bit_cast<double>((e.bits() - 1023) << 52);  // 2^k
  const double small = power * e.fraction, whole = power - 1.0;
  const double expm1 = small + whole, below = expm1 + 2.0;
  // Of whole and small either may be the larger.
  const double back = expm1 - whole;
  const double lost = power * e.lost + ((small - back) + (whole - (expm1 - back)));
  const double lost_below = lost + (expm1 - (below - 2.0));
  const double quotient = expm1 / below;
  return std::copysign(quotient + (lost - quotient * lost_below) / below, x);
}

/// softplus(x) = log(1 + e^x) = max(x, 0) + log(1 + e^{−|x|}), and its derivative σ(x).
struct softplus_terms {
  double value, slope;
};

inline softplus_terms vector_softplus(double x) {
  const double e = vector_exp(-std::abs(x)), u = 1.0 / (1.0 + e);
  return {vector_log1p(e) + select_by_sign(x, 0.0, x), select_by_sign(x, e, 1.0) * u};
}

}  // namespace implicitgrad
