// Poolings.
#pragma once

#include "twin.hpp"

struct Pool {
  int height, width, pads[4];  // top, left, bottom, right
  int kernel[2], stride[2];
};

// Strides and pads that differ, windows that overlap, that leave places out, and that are larger than the image.
const std::vector<Pool> POOLS = {
    {7, 5, {1, 0, 0, 1}, {3, 2}, {2, 1}}, {8, 8, {0, 0, 0, 0}, {2, 2}, {2, 2}}, {9, 7, {0, 0, 0, 0}, {1, 2}, {3, 4}},
    {5, 6, {4, 1, 2, 2}, {5, 3}, {1, 1}}, {1, 1, {1, 1, 1, 1}, {2, 2}, {1, 2}}, {19, 17, {1, 1, 1, 1}, {3, 3}, {2, 2}},
};

template <class T>
void test_pool(const std::string& name, auto max_pool, auto average_pool, auto max_gradient, auto average_gradient,
               const Pool& p, int images, int channels, bool nan) {
  const auto along = [&](int axis, int size) {
    return (size + p.pads[axis] + p.pads[axis + 2] - p.kernel[axis]) / p.stride[axis] + 1;
  };
  const int out_height = along(0, p.height), out_width = along(1, p.width);
  const int count = images * p.height * p.width * channels, out_count = images * out_height * out_width * channels;
  const Window window{p.height,    p.width,     channels,    out_height,  out_width, p.kernel[0],
                      p.kernel[1], p.stride[0], p.stride[1], p.pads[0], p.pads[1]};
  auto x = filled<T>(count, halves), g = filled<T>(out_count, [] { return uniform(-1.0, 1.0); });
  if (nan) x[count / 2] = narrow<T>(NAN);
  Twin largest(out_count), mean(out_count), max_dx(count), mean_dx(count);
  for (int o = 0; o < out_count; ++o) {
    const int channel = o % channels, column = o / channels % out_width, row = o / channels / out_width % out_height;
    std::vector<int> places;
    for (int ky = 0; ky < p.kernel[0]; ++ky) {
      for (int kx = 0; kx < p.kernel[1]; ++kx) {
        const int y = row * p.stride[0] - p.pads[0] + ky, z = column * p.stride[1] - p.pads[1] + kx;
        const int image = o / (out_height * out_width * channels);
        const bool outside = y < 0 || y >= p.height || z < 0 || z >= p.width;
        if (!outside) places.push_back(((image * p.height + y) * p.width + z) * channels + channel);
      }
    }
    int place = places[0];
    for (int each : places) {
      if (isnan(wide(x[each])) || wide(x[each]) > wide(x[place])) place = each;
      mean.add(o, double(wide(x[each])) / places.size());
      mean_dx.add(each, double(wide(g[o])) / places.size());
    }
    largest.set(o, wide(x[place]));
    max_dx.add(place, wide(g[o]));
  }
  set_sizes(images, p.height, p.width, channels, p.kernel[0], p.kernel[1]);
  for (int few : {0, 1}) {
    const Grid grid = pointwise(out_count)[few], back = pointwise(count)[few];
    Buffer<T> y(out_count), averages(out_count), dx(count), average_dx(count);
    launch("max_pool" + name, grid, max_pool, x, y, images, window);
    check(values(y), largest, 0.0);
    launch("average_pool" + name, grid, average_pool, x, averages, images, window);
    check(averages, mean);
    launch("max_pool_gradient" + name, back, max_gradient, x, g, dx, images, window);
    check(dx, max_dx);
    launch("average_pool_gradient" + name, back, average_gradient, x, g, average_dx, images, window);
    check(average_dx, mean_dx);
  }
}

template <class T>
void test_pools(const std::string& name, auto... kernels) {
  for (const Pool& p : POOLS) {
    for (int channels : {1, 3, 16}) {
      for (bool nan : {false, true}) test_pool<T>(name, kernels..., p, 1 + channels % 3, channels, nan);
    }
  }
}

template <class T>
void test_mean(const std::string& name, auto mean, auto mean_gradient) {
  for (auto [images, places, channels] : {std::array{1, 1, 1}, {3, 7, 3}, {2, 300, 8}, {5, 49, 100}}) {
    const int count = images * places * channels;
    for (int few : {0, 1}) {
      set_sizes(images, places, channels);
      auto x = filled<T>(count, [] { return uniform(-1.0, 2.0); });
      auto g = filled<T>(images * channels, [] { return uniform(-1.0, 1.0); });
      x[count / 2] = narrow<T>(images > 1 ? NAN : 1.0f);
      Buffer<T> y(images * channels), dx(count);
      Twin y_twin(images * channels), dx_twin(count);
      for (int i = 0; i < count; ++i) {
        const int from = i / (places * channels) * channels + i % channels;
        y_twin.add(from, double(wide(x[i])) / places);
        dx_twin.set(i, double(wide(g[from])) / places);
      }
      launch("mean" + name, pointwise(images * channels)[few], mean, x, y, images, places, channels);
      check(y, y_twin);
      launch("mean_gradient" + name, pointwise(count)[few], mean_gradient, g, dx, images, places, channels);
      check(dx, dx_twin);
    }
  }
}
