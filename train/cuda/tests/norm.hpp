// Batch norm.
#pragma once

#include "twin.hpp"

const double FINITE_DIFFERENCES = 1e-6;

const float EPSILON = 1e-5f;

// Grid::new of norm.rs.
Grid by_rows(int rows, int channels, int lanes) {
  const int across = std::clamp(channels / lanes, 1, 32);
  int down = 1;
  while (2 * down * across <= 256) down *= 2;
  const int groups = (channels + across * lanes - 1) / (across * lanes);
  const int parts = std::clamp(528 / groups, 1, (rows + 2 * down - 1) / (2 * down));
  return {{unsigned(groups), unsigned(parts)}, {unsigned(across), unsigned(down)}};
}

// Grid::end of norm.rs.
Grid by_channels(int channels) { return {{(channels + 31u) / 32u}, {32, 8}}; }

// [2, channels]: mean and biased variance, by two passes.
Twin moments_twin(const Values& x, int rows, int channels) {
  Twin result(2 * channels);
  for (int c = 0; c < channels; ++c) {
    double mean = 0.0, variance = 0.0, squares = 0.0, sizes = 0.0;
    for (int r = 0; r < rows; ++r) mean += x[r * channels + c] / rows;
    for (int r = 0; r < rows; ++r) {
      const double distance = x[r * channels + c] - x[c];
      variance += pow(x[r * channels + c] - mean, 2) / rows;
      sizes += fabs(distance) / rows, squares += distance * distance / rows;
    }
    result.set(c, mean, sizes);
    result.set(channels + c, variance, 4 * squares);
  }
  return result;
}

struct NormTwin {
  Twin sums, dx;  // sums: of the shift's gradient and of the scale's
};

// The gradients by y = xhat scale + shift, where xhat = (x - mean) / deviation and both depend on x:
// dx = scale / deviation (g - mean(g) - xhat mean(g xhat)).
NormTwin gradient_twin(const Values& x, const Values& g, const Values& mean_var, const Values& scale, int rows,
                       int channels) {
  NormTwin result{Twin(2 * channels), Twin(x.size())};
  auto& [sums, dx] = result;
  for (int c = 0; c < channels; ++c) {
    const double deviation = sqrt(mean_var[channels + c] + EPSILON), factor = scale[c] / deviation;
    const auto xhat = [&](int i) { return (x[i] - mean_var[c]) / deviation; };
    for (int i = c; i < rows * channels; i += channels) sums.add(c, g[i]), sums.add(channels + c, g[i] * xhat(i));
    for (int i = c; i < rows * channels; i += channels) {
      dx.set(i, factor * (g[i] - sums.value[c] / rows - xhat(i) * sums.value[channels + c] / rows),
             fabs(factor) * (fabs(g[i]) + (sums.terms[c] + fabs(xhat(i)) * sums.terms[channels + c]) / rows));
    }
  }
  return result;
}

// gradient_twin() by finite differences of sum(g clamp(xhat scale + shift)).
void test_gradient_twin() {
  const int rows = 7, channels = 3, count = rows * channels;
  kernel = "gradient_twin", set_sizes(rows, channels);
  const Clamp clamp = CLAMPS[2];
  Values x(count), g(count), scale(channels), shift(channels);
  for (Values* each : {&x, &g, &scale, &shift}) {
    for (double& v : *each) v = uniform(-1.0, 1.0);
  }
  Values inner = g;
  const auto loss = [&] {
    const Values mean_var = moments_twin(x, rows, channels).value;
    double sum = 0.0;
    for (int i = 0; i < count; ++i) {
      const int c = i % channels;
      const double xhat = (x[i] - mean_var[c]) / sqrt(mean_var[channels + c] + EPSILON);
      const double y = clamped(xhat * scale[c] + shift[c], clamp);
      inner[i] = inside(y, clamp) ? g[i] : 0.0;
      sum += g[i] * y;
    }
    return sum;
  };
  const auto slopes = [&](Values& of) {
    Values result;
    for (double& v : of) {
      const double before = v, step = 1e-5;
      const double above = (v = before + step, loss()), below = (v = before - step, loss());
      v = before;
      result.push_back((above - below) / (2 * step));
    }
    return result;
  };
  const Values dx = slopes(x), dshift = slopes(shift), dscale = slopes(scale);
  loss();  // for `inner`
  const auto [sums, twin] = gradient_twin(x, inner, moments_twin(x, rows, channels).value, scale, rows, channels);
  for (int i = 0; i < count; ++i) {
    if (!close(twin.value[i], dx[i], FINITE_DIFFERENCES)) fail("dx %d", i);
  }
  for (int c = 0; c < channels; ++c) {
    if (!close(sums.value[c], dshift[c], FINITE_DIFFERENCES)) fail("shift %d", c);
    if (!close(sums.value[channels + c], dscale[c], FINITE_DIFFERENCES)) fail("scale %d", c);
  }
}

// Partial sums [parts, 2, channels], added up.
Values total(const Buffer<float>& partial, int channels) {
  Values result(2 * channels);
  const Values all = values(partial);
  for (std::size_t i = 0; i < all.size(); ++i) result[i % result.size()] += all[i];
  return result;
}

// All kernels of batch norm, each with what the ones before it made.
template <class T, int N>
void test_norm(const std::string& name, auto moments, auto moments_end, auto normalise, auto norm_gradient,
               auto norm_input_gradient, int rows, int channels, Clamp clamp, Buffer<T> x) {
  const int count = rows * channels;
  const auto [low, high] = clamp;
  const Grid grid = by_rows(rows, channels, N), end = by_channels(channels);
  const int parts = grid.blocks.y;
  const Values xs = values(x);
  set_sizes(rows, channels);
  Buffer<float> partial(2 * parts * channels), mean_var(2 * channels), sums(2 * channels);

  launch("moments" + name, grid, moments, x, partial, rows, channels);
  Twin from_first(2 * channels);
  for (int i = 0; i < count; ++i) {
    const double distance = xs[i] - xs[i % channels];
    from_first.add(i % channels, distance), from_first.add(channels + i % channels, distance * distance);
  }
  check(total(partial, channels), from_first, 0.0);
  launch("moments_end" + name, end, moments_end, x, partial, mean_var, parts, rows, channels);
  check(mean_var, moments_twin(xs, rows, channels));

  auto scale = filled<float>(channels, [] { return uniform(-1.5, 1.5); });
  auto shift = filled<float>(channels, [] { return uniform(-1.0, 1.0); });
  Buffer<T> y(count);
  launch("normalise" + name, grid, normalise, x, mean_var, scale, shift, y, rows, channels, EPSILON, low, high);
  Twin y_twin(count);
  for (int i = 0; i < count; ++i) {
    const int c = i % channels;
    const double product = (xs[i] - mean_var[c]) / sqrt(double(mean_var[channels + c]) + EPSILON) * scale[c];
    y_twin.set(i, clamped(product + shift[c], clamp), fabs(product) + fabs(shift[c]));
  }
  check(y, y_twin);

  auto g = filled<T>(count, [] { return uniform(-1.0, 1.0); });
  Values inner = values(g);
  for (int i = 0; i < count; ++i) inner[i] = inside(wide(y[i]), clamp) ? inner[i] : 0.0;
  Buffer<float> partial_gradient(2 * parts * channels);
  launch("norm_gradient" + name, grid, norm_gradient, x, y, g, mean_var, partial_gradient, rows, channels, low, high);
  Twin products(2 * channels);
  for (int i = 0; i < count; ++i) {
    const int c = i % channels;
    products.add(c, inner[i]), products.add(channels + c, inner[i] * (xs[i] - mean_var[c]));
  }
  check(total(partial_gradient, channels), products, 0.0);
  const auto [sums_twin, dx_twin] = gradient_twin(xs, inner, values(mean_var), values(scale), rows, channels);
  launch("norm_gradient_end", end, norm_gradient_end, partial_gradient, mean_var, sums, parts, channels, EPSILON);
  check(sums, sums_twin);

  Buffer<T> dx(count);
  launch("norm_input_gradient" + name, grid, norm_input_gradient, x, y, g, mean_var, scale, sums, dx, rows, channels,
         EPSILON, low, high);
  check(dx, dx_twin);
}

void test_running_statistics() {
  for (int channels : {1, 33, 260}) {
    set_sizes(channels);
    const float unbias = 7.0f / 6.0f, momentum = 0.1f;
    auto mean = filled<float>(channels, [] { return uniform(-1.0, 1.0); });
    auto var = filled<float>(channels, [] { return uniform(0.1, 2.0); });
    auto mean_var = filled<float>(2 * channels, [] { return uniform(0.1, 2.0); });
    Buffer<float> result(2 * channels);
    launch("running_statistics", {{(channels + 1023u) / 1024u}, {1024}}, running_statistics, mean, var, mean_var, result,
           channels, unbias, momentum);
    Twin twin(2 * channels);
    for (int c = 0; c < channels; ++c) {
      twin.add(c, (1.0 - momentum) * mean[c]), twin.add(c, double(momentum) * mean_var[c]);
      twin.add(channels + c, (1.0 - momentum) * var[c]);
      twin.add(channels + c, double(momentum) * unbias * mean_var[channels + c]);
    }
    check(result, twin);
  }
}

// Usual values; a mean so large that squares of values would cancel; and a NaN, which a diverging run is found by.
template <class T, int N>
void test_norms(const std::string& name, auto... kernels) {
  for (int channels : {1, 3, 8, 16, 24, 64, 100, 264}) {
    for (int rows : {1, 2, 7, 300, 5000}) {
      if (channels % N != 0 || (rows == 5000 && channels != 3 && channels != 16)) continue;
      const int count = rows * channels;
      const double mean = 1000.0, spread = 64 * mean * ROUNDING<T>;
      auto usual = filled<T>(count, [] { return uniform(-2.0, 3.0); });
      auto far = filled<T>(count, [&] { return mean + uniform(-spread, spread); });
      auto broken = usual;
      broken[count / 2] = narrow<T>(NAN);
      test_norm<T, N>(name, kernels..., rows, channels, CLAMPS[2], usual);
      if (count > 20000) continue;
      test_norm<T, N>(name, kernels..., rows, channels, CLAMPS[0], far);
      test_norm<T, N>(name, kernels..., rows, channels, CLAMPS[1], broken);
    }
  }
}
