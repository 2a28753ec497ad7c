// Batch norm over x [rows, channels]. Blocks of [32, 8] threads or the like: x takes packs of channels, y takes rows;
// blockIdx.x counts groups of channels, and all gridDim.y blocks of a group share the rows.

const int MOST_THREADS = 256;

// Adds up a and b over threadIdx.y into partial [gridDim.y, 2, channels].
template <int N>
__device__ void write_partial(float (&a)[N], float (&b)[N], int channel, int channels, float* partial) {
  __shared__ float sums[2 * N * MOST_THREADS];
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  for (int i = 0; i < N; ++i) {
    sums[(2 * i) * MOST_THREADS + thread] = a[i];
    sums[(2 * i + 1) * MOST_THREADS + thread] = b[i];
  }
  for (int half = blockDim.y / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.y < half) {
      for (int i = 0; i < 2 * N; ++i) {
        sums[i * MOST_THREADS + thread] += sums[i * MOST_THREADS + thread + half * blockDim.x];
      }
    }
  }
  if (threadIdx.y == 0 && channel < channels) {
    float* own = partial + 2L * blockIdx.y * channels + channel;
    for (int i = 0; i < N; ++i) {
      own[i] = sums[(2 * i) * MOST_THREADS + thread];
      own[channels + i] = sums[(2 * i + 1) * MOST_THREADS + thread];
    }
  }
}

// Both sums of partial [parts, 2, channels] over the parts, by blocks of [32, 8] threads; valid where threadIdx.y is 0.
__device__ inline void add_parts(const float* partial, int parts, int channel, int channels, double& a, double& b) {
  __shared__ double sums[2][8][32];
  a = 0.0, b = 0.0;
  if (channel < channels) {
    for (int part = threadIdx.y; part < parts; part += 8) {
      a += partial[2L * part * channels + channel];
      b += partial[(2L * part + 1) * channels + channel];
    }
  }
  sums[0][threadIdx.y][threadIdx.x] = a;
  sums[1][threadIdx.y][threadIdx.x] = b;
  __syncthreads();
  a = 0.0, b = 0.0;
  for (int y = 0; y < 8; ++y) {
    a += sums[0][y][threadIdx.x];
    b += sums[1][y][threadIdx.x];
  }
}

// Sums of x and x^2, each less the channel's first value, without which the squares would cancel.
template <class T, int N>
__device__ void moments(const T* x, float* partial, int rows, int channels) {
  const int channel = (blockIdx.x * blockDim.x + threadIdx.x) * N;
  float sum[N] = {}, squares[N] = {};
  if (channel < channels) {
    const Pack<T, N> first = load<N>(x + channel);
    for (int row = blockIdx.y * blockDim.y + threadIdx.y; row < rows; row += gridDim.y * blockDim.y) {
      const Pack<T, N> values = load<N>(x + static_cast<long>(row) * channels + channel);
      for (int i = 0; i < N; ++i) {
        const float value = wide(values.v[i]) - wide(first.v[i]);
        sum[i] += value;
        squares[i] += value * value;
      }
    }
  }
  write_partial<N>(sum, squares, channel, channels, partial);
}

// Mean and biased variance, [2, channels].
template <class T>
__device__ void moments_end(const T* x, const float* partial, float* result, int parts, int rows, int channels) {
  const int channel = blockIdx.x * 32 + threadIdx.x;
  double sum, squares;
  add_parts(partial, parts, channel, channels, sum, squares);
  if (threadIdx.y == 0 && channel < channels) {
    const double mean = sum / rows, variance = squares / rows - mean * mean;
    result[channel] = static_cast<float>(wide(x[channel]) + mean);
    // A NaN is to stay one.
    result[channels + channel] = static_cast<float>(variance < 0.0 ? 0.0 : variance);
  }
}

// clamp((x - mean) / sqrt(var + epsilon) * scale + shift).
template <class T, int N>
__device__ void normalise(const T* x, const float* mean_var, const float* scale, const float* shift, T* y, int rows,
                          int channels, float epsilon, Clamp clamp) {
  const int channel = (blockIdx.x * blockDim.x + threadIdx.x) * N;
  if (channel >= channels) return;
  float mean[N], factor[N], offset[N];
  for (int i = 0; i < N; ++i) {
    mean[i] = mean_var[channel + i];
    factor[i] = scale[channel + i] / sqrtf(mean_var[channels + channel + i] + epsilon);
    offset[i] = shift[channel + i];
  }
  for (int row = blockIdx.y * blockDim.y + threadIdx.y; row < rows; row += gridDim.y * blockDim.y) {
    const long at = static_cast<long>(row) * channels + channel;
    Pack<T, N> values = load<N>(x + at);
    for (int i = 0; i < N; ++i) values.v[i] = narrow<T>(clamp((wide(values.v[i]) - mean[i]) * factor[i] + offset[i]));
    store<N>(y + at, values);
  }
}

// Sums of g and g (x - mean), where g is the gradient within the clamp.
template <class T, int N>
__device__ void norm_gradient(const T* x, const T* y, const T* g, const float* mean_var, float* partial, int rows,
                              int channels, Clamp clamp) {
  const int channel = (blockIdx.x * blockDim.x + threadIdx.x) * N;
  float sum[N] = {}, products[N] = {};
  if (channel < channels) {
    float mean[N];
    for (int i = 0; i < N; ++i) mean[i] = mean_var[channel + i];
    for (int row = blockIdx.y * blockDim.y + threadIdx.y; row < rows; row += gridDim.y * blockDim.y) {
      const long at = static_cast<long>(row) * channels + channel;
      const Pack<T, N> xs = load<N>(x + at), ys = load<N>(y + at), gs = load<N>(g + at);
      for (int i = 0; i < N; ++i) {
        const float gradient = clamp.gradient(wide(ys.v[i]), wide(gs.v[i]));
        sum[i] += gradient;
        products[i] += gradient * (wide(xs.v[i]) - mean[i]);
      }
    }
  }
  write_partial<N>(sum, products, channel, channels, partial);
}

// Gradients of shift and scale, [2, channels].
extern "C" __global__ void norm_gradient_end(const float* partial, const float* mean_var, float* result, int parts,
                                             int channels, float epsilon) {
  const int channel = blockIdx.x * 32 + threadIdx.x;
  double sum, products;
  add_parts(partial, parts, channel, channels, sum, products);
  if (threadIdx.y == 0 && channel < channels) {
    result[channel] = static_cast<float>(sum);
    result[channels + channel] = static_cast<float>(products / sqrt(mean_var[channels + channel] + static_cast<double>(epsilon)));
  }
}

// factor (g - shift' / rows - (x - mean) scale' / (deviation rows)), shift' and scale' being their gradients.
template <class T, int N>
__device__ void norm_input_gradient(const T* x, const T* y, const T* g, const float* mean_var, const float* scale,
                                    const float* gradients, T* dx, int rows, int channels, float epsilon, Clamp clamp) {
  const int channel = (blockIdx.x * blockDim.x + threadIdx.x) * N;
  if (channel >= channels) return;
  float mean[N], factor[N], constant[N], slope[N];
  for (int i = 0; i < N; ++i) {
    const float inverse = 1.0f / sqrtf(mean_var[channels + channel + i] + epsilon);
    mean[i] = mean_var[channel + i];
    factor[i] = scale[channel + i] * inverse;
    constant[i] = gradients[channel + i] / rows;
    slope[i] = gradients[channels + channel + i] * inverse / rows;
  }
  for (int row = blockIdx.y * blockDim.y + threadIdx.y; row < rows; row += gridDim.y * blockDim.y) {
    const long at = static_cast<long>(row) * channels + channel;
    const Pack<T, N> xs = load<N>(x + at), ys = load<N>(y + at);
    Pack<T, N> gs = load<N>(g + at);
    for (int i = 0; i < N; ++i) {
      const float gradient = clamp.gradient(wide(ys.v[i]), wide(gs.v[i]));
      gs.v[i] = narrow<T>(factor[i] * (gradient - constant[i] - (wide(xs.v[i]) - mean[i]) * slope[i]));
    }
    store<N>(dx + at, gs);
  }
}

#define NORM_KERNELS(NAME, T, N)                                                                                       \
  extern "C" __global__ void moments_##NAME(const T* x, float* partial, int rows, int channels) {                      \
    moments<T, N>(x, partial, rows, channels);                                                                         \
  }                                                                                                                    \
  extern "C" __global__ void normalise_##NAME(const T* x, const float* mean_var, const float* scale,                   \
                                              const float* shift, T* y, int rows, int channels, float epsilon,         \
                                              float low, float high) {                                                 \
    normalise<T, N>(x, mean_var, scale, shift, y, rows, channels, epsilon, Clamp{low, high});                          \
  }                                                                                                                    \
  extern "C" __global__ void norm_gradient_##NAME(const T* x, const T* y, const T* g, const float* mean_var,           \
                                                  float* partial, int rows, int channels, float low, float high) {     \
    norm_gradient<T, N>(x, y, g, mean_var, partial, rows, channels, Clamp{low, high});                                 \
  }                                                                                                                    \
  extern "C" __global__ void norm_input_gradient_##NAME(const T* x, const T* y, const T* g, const float* mean_var,     \
                                                        const float* scale, const float* gradients, T* dx, int rows,   \
                                                        int channels, float epsilon, float low, float high) {          \
    norm_input_gradient<T, N>(x, y, g, mean_var, scale, gradients, dx, rows, channels, epsilon, Clamp{low, high});     \
  }
FOR_EACH_PACK(NORM_KERNELS)

#define MOMENTS_END(NAME, T)                                                                                           \
  extern "C" __global__ void moments_end_##NAME(const T* x, const float* partial, float* result, int parts, int rows,  \
                                                int channels) {                                                        \
    moments_end<T>(x, partial, result, parts, rows, channels);                                                         \
  }
FOR_EACH_TYPE(MOMENTS_END)

// Running statistics after a batch of `values` values a channel, [2, channels]: (1 - momentum) running + momentum batch, of
// the unbiased variance.
extern "C" __global__ void running_statistics(const float* mean, const float* var, const float* mean_var, float* result,
                                              int channels, float unbias, float momentum) {
  const int channel = blockIdx.x * blockDim.x + threadIdx.x;
  if (channel >= channels) return;
  result[channel] = (1.0f - momentum) * mean[channel] + momentum * mean_var[channel];
  result[channels + channel] = (1.0f - momentum) * var[channel] + momentum * unbias * mean_var[channels + channel];
}
