// Kernels whose elements do not depend on each other.
#pragma once

#include "twin.hpp"

template <class T, int N>
void test_pointwise(const std::string& name, auto add, auto clamp_gradient) {
  for (int count : {1, 3, 8, 24, 100, 264, 2100, 4096, 70000}) {
    for (Clamp clamp : CLAMPS) {
      for (Grid grid : pointwise(count / N)) {
        if (count % N != 0) continue;
        set_sizes(count);
        const auto value = [] { return uniform(-2.0, 2.0); };
        auto a = filled<T>(count, value), b = filled<T>(count, value);
        const float special[] = {NAN, INFINITY, -INFINITY, -0.0f};
        for (int i = 0; i < min(count, 4); ++i) a[count - 1 - i] = narrow<T>(special[i]);
        Buffer<T> y(count), dx(count);
        launch("add" + name, grid, add, a, b, y, count / N, clamp.low, clamp.high);
        Twin sum(count), gradient(count);
        for (int i = 0; i < count; ++i) sum.set(i, clamped(double(wide(a[i])) + wide(b[i]), clamp));
        check(y, sum);

        auto ys = filled<T>(count, halves);
        ys[count / 2] = narrow<T>(NAN);
        launch("clamp_gradient" + name, grid, clamp_gradient, ys, b, dx, count / N, clamp.low, clamp.high);
        for (int i = 0; i < count; ++i) gradient.set(i, inside(wide(ys[i]), clamp) ? wide(b[i]) : 0.0);
        check(values(dx), gradient, 0.0);
      }
    }
  }
}

template <class T>
void test_weights(const std::string& name, auto weights_last, auto weights_first) {
  for (auto [outputs, inputs, taps] : {std::array{1, 1, 1}, {2, 3, 9}, {8, 16, 9}, {100, 7, 1}, {3, 24, 25}}) {
    const int count = outputs * inputs * taps;
    for (Grid grid : pointwise(count)) {
      set_sizes(outputs, inputs, taps);
      auto w = filled<float>(count, [] { return uniform(-1.0, 1.0); });
      Buffer<T> last(count);
      Buffer<float> first(count);
      launch("weights_last" + name, grid, weights_last, w, last, outputs, inputs, taps);
      Twin moved(count), back(count);
      for (int o = 0, from = 0; o < outputs; ++o) {
        for (int i = 0; i < inputs; ++i) {
          for (int t = 0; t < taps; ++t, ++from) moved.set((o * taps + t) * inputs + i, w[from]);
        }
      }
      check(last, moved);
      launch("weights_first" + name, grid, weights_first, last, first, outputs, inputs, taps);
      for (int i = 0; i < count; ++i) back.set(i, wide(narrow<T>(w[i])));
      check(values(first), back, 0.0);
    }
  }
}

// The nearer of the two bf16 around x, that of even bits if both are as near; infinity lies at 2^128.
unsigned nearest_bf16(float x) {
  const auto place = [](unsigned bits) { return bits == 0x7f80 ? 0x1p128 : std::bit_cast<float>(bits << 16); };
  const unsigned below = std::bit_cast<unsigned>(fabsf(x)) >> 16, sign = signbit(x) ? 0x8000 : 0;
  if (isinf(x)) return sign | 0x7f80;
  const double down = fabs(x) - place(below), up = place(below + 1) - fabs(x);
  return sign | (down < up || (down == up && below % 2 == 0) ? below : below + 1);
}

// By the kernels that do nothing else: each bf16, and f32 next to each and next to the middle behind it.
void test_rounding() {
  const std::vector<unsigned> low = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
  Buffer<float> x(low.size() << 16);
  for (unsigned i = 0; i < x.size(); ++i) x[i] = std::bit_cast<float>((i / 6) << 16 | low[i % 6]);
  Buffer<bf16> y(x.size());
  Buffer<float> back(x.size());
  const int count = x.size();
  set_sizes(count);
  launch("weights_last_bf16", {{512}, {256}}, weights_last_bf16, x, y, count, 1, 1);
  for (int i = 0; i < count; ++i) {
    const unsigned expected = nearest_bf16(x[i]);
    const bool nan = (y[i].bits & 0x7fff) > 0x7f80;
    if (isnan(x[i]) ? !nan : y[i].bits != expected) {
      fail("bits %08x are rounded to %04x, not %04x", std::bit_cast<unsigned>(x[i]), y[i].bits, expected);
    }
  }
  launch("weights_first_bf16", {{512}, {256}}, weights_first_bf16, y, back, count, 1, 1);
  for (int i = 0; i < count; ++i) {
    if (std::bit_cast<unsigned>(back[i]) != static_cast<unsigned>(y[i].bits) << 16) fail("element %d", i);
  }
}

// Logits of usual size, some whose exponentials overflow, and an image with a NaN.
void test_cross_entropy() {
  for (int images : {1, 7, 300}) {
    for (int classes : {1, 2, 10, 100}) {
      for (double spread : {5.0, 300.0}) {
        for (Grid grid : pointwise(images)) {
          set_sizes(images, classes);
          auto logits = filled<float>(images * classes, [&] { return uniform(-spread, spread); });
          Buffer<unsigned> labels(images);
          for (unsigned& label : labels) label = generator() % classes;
          logits[images / 2 * classes + classes / 2] = images > 1 ? NAN : 0.0f;
          Buffer<float> result(images * classes);
          launch("cross_entropy_gradient", grid, cross_entropy_gradient, logits, labels, result, images, classes);
          Twin twin(images * classes);
          for (int n = 0; n < images; ++n) {
            const float* own = &logits[n * classes];
            for (int i = 0; i < classes; ++i) {
              double inverse = 0.0;
              for (int j = 0; j < classes; ++j) inverse += exp(double(own[j]) - own[i]);
              const double softmax = 1.0 / inverse, target = labels[n] == static_cast<unsigned>(i);
              const double terms = softmax * (1.0 + log(inverse)) + target;
              twin.set(n * classes + i, (softmax - target) / images, terms / images + FLT_MIN);
            }
          }
          check(result, twin);
        }
      }
    }
  }
}
