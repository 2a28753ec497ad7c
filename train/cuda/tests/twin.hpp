// What kernels write against what they are to write, in double.
#pragma once

#include "emulation.hpp"

using namespace emulation;
using Values = std::vector<double>;

// Half a unit in the last place of a result, relative to it.
template <class T>
const double ROUNDING = std::is_same_v<T, bf16> ? 0x1p-8 : 0x1p-24;

// Errors of f32 steps before it, relative to the terms that the result is made of.
const double STEPS = 0x1p-20;

const std::vector<Clamp> CLAMPS = {{-INFINITY, INFINITY}, {0.0f, INFINITY}, {-0.5f, 1.0f}};

// What a kernel is to write, and the size of the terms of each value.
struct Twin {
  Values value, terms;
  explicit Twin(std::size_t count) : value(count), terms(count) {}
  void add(std::size_t i, double term) { value[i] += term, terms[i] += fabs(term); }
  void set(std::size_t i, double v, double size = 0.0) { value[i] = v, terms[i] = size; }
};

bool close(double got, double expected, double allowed) {
  if (isnan(expected)) return isnan(got);
  return isinf(expected) ? got == expected : fabs(got - expected) <= allowed;
}

void check(const Values& got, const Twin& twin, double rounding) {
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double expected = twin.value[i];
    if (!close(got[i], expected, rounding * fabs(expected) + STEPS * twin.terms[i])) {
      fail("element %zu is %.9g, not %.9g", i, got[i], expected);
    }
  }
}

template <class T>
Values values(const Buffer<T>& buffer) {
  Values result;
  for (std::size_t i = 0; i < buffer.size(); ++i) {
    if (!buffer.written(i)) fail("element %zu is not written", i);
    result.push_back(wide(buffer[i]));
  }
  return result;
}

template <class T>
void check(const Buffer<T>& got, const Twin& twin) {
  check(values(got), twin, ROUNDING<T>);
}

template <class T>
Buffer<T> filled(std::size_t count, auto value) {
  Buffer<T> result(count);
  for (T& x : result) x = narrow<T>(static_cast<float>(value()));
  return result;
}

double uniform(double low, double high) { return low + (high - low) * (generator() * 0x1p-32); }

// Multiples of 1/2, so that there are equal ones and some at bounds.
double halves() { return static_cast<int>(generator() % 8) / 2.0 - 1.5; }

template <class... Sizes>
void set_sizes(Sizes... s) {
  sizes.clear();
  ((sizes += (sizes.empty() ? "" : " x ") + std::to_string(s)), ...);
}

double clamped(double x, Clamp clamp) { return isnan(x) ? x : min<double>(max<double>(x, clamp.low), clamp.high); }

bool inside(double y, Clamp clamp) { return !(y <= clamp.low) && !(y >= clamp.high); }

// pointwise() of launch.rs, and with so few blocks that threads take several turns.
std::vector<Grid> pointwise(long count) {
  const long blocks = std::clamp((count + 255) / 256, 1L, 4L * 1056);
  return {{{static_cast<unsigned>(blocks)}, {256}}, {{1}, {256}}};
}

void test_close() {
  kernel = "close", sizes = "two values";
  const double tiny = 0x1p-149, all = INFINITY;
  const bool same = close(0.0, -0.0, 0.0) && close(NAN, NAN, 0.0) && close(all, all, 0.0) && close(1.0, 1.5, 0.5);
  const bool other = close(NAN, 1.0, all) || close(1.0, NAN, all) || close(1.0, all, all) || close(-all, all, all) ||
                     close(0.0, tiny, tiny / 2) || close(all, 1.0, 1.0);
  if (!same || other) fail("wrong");
}
