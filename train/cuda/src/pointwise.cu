// Kernels whose elements do not depend on each other; each thread takes every so many-th.

__device__ inline long first_of_thread() { return static_cast<long>(blockIdx.x) * blockDim.x + threadIdx.x; }

__device__ inline long threads() { return static_cast<long>(gridDim.x) * blockDim.x; }

// clamp(a + b).
template <class T, int N>
__device__ void add(const T* a, const T* b, T* y, long packs, Clamp clamp) {
  for (long i = first_of_thread(); i < packs; i += threads()) {
    Pack<T, N> values = load<N>(a + i * N);
    const Pack<T, N> others = load<N>(b + i * N);
    for (int j = 0; j < N; ++j) values.v[j] = narrow<T>(clamp(wide(values.v[j]) + wide(others.v[j])));
    store<N>(y + i * N, values);
  }
}

// The gradient within the clamp.
template <class T, int N>
__device__ void clamp_gradient(const T* y, const T* g, T* dx, long packs, Clamp clamp) {
  for (long i = first_of_thread(); i < packs; i += threads()) {
    const Pack<T, N> ys = load<N>(y + i * N);
    Pack<T, N> gs = load<N>(g + i * N);
    for (int j = 0; j < N; ++j) gs.v[j] = narrow<T>(clamp.gradient(wide(ys.v[j]), wide(gs.v[j])));
    store<N>(dx + i * N, gs);
  }
}

#define POINTWISE_KERNELS(NAME, T, N)                                                                                  \
  extern "C" __global__ void add_##NAME(const T* a, const T* b, T* y, long packs, float low, float high) {             \
    add<T, N>(a, b, y, packs, Clamp{low, high});                                                                       \
  }                                                                                                                    \
  extern "C" __global__ void clamp_gradient_##NAME(const T* y, const T* g, T* dx, long packs, float low, float high) { \
    clamp_gradient<T, N>(y, g, dx, packs, Clamp{low, high});                                                           \
  }
FOR_EACH_PACK(POINTWISE_KERNELS)

// Weights [outputs, inputs, taps] in f32 to [outputs, taps, inputs].
template <class T>
__device__ void weights_last(const float* w, T* result, int outputs, int inputs, int taps) {
  const long count = static_cast<long>(outputs) * inputs * taps;
  for (long i = first_of_thread(); i < count; i += threads()) {
    const long input = i % inputs, tap = i / inputs % taps, output = i / inputs / taps;
    result[i] = narrow<T>(w[(output * inputs + input) * taps + tap]);
  }
}

// And their gradient back.
template <class T>
__device__ void weights_first(const T* g, float* result, int outputs, int inputs, int taps) {
  const long count = static_cast<long>(outputs) * inputs * taps;
  for (long i = first_of_thread(); i < count; i += threads()) {
    const long tap = i % taps, input = i / taps % inputs, output = i / taps / inputs;
    result[i] = wide(g[(output * taps + tap) * inputs + input]);
  }
}

#define WEIGHT_KERNELS(NAME, T)                                                                                        \
  extern "C" __global__ void weights_last_##NAME(const float* w, T* result, int outputs, int inputs, int taps) {       \
    weights_last<T>(w, result, outputs, inputs, taps);                                                                 \
  }                                                                                                                    \
  extern "C" __global__ void weights_first_##NAME(const T* g, float* result, int outputs, int inputs, int taps) {      \
    weights_first<T>(g, result, outputs, inputs, taps);                                                                \
  }
FOR_EACH_TYPE(WEIGHT_KERNELS)

// (softmax(logits) - onehot(label)) / images: the gradient of the mean cross-entropy, a thread an image.
extern "C" __global__ void cross_entropy_gradient(const float* logits, const unsigned* labels, float* result, int images,
                                                  int classes) {
  for (long image = first_of_thread(); image < images; image += threads()) {
    const float* own = logits + image * classes;
    float most = own[0];
    for (int i = 1; i < classes; ++i) most = own[i] > most ? own[i] : most;
    float sum = 0.0f;
    for (int i = 0; i < classes; ++i) sum += expf(own[i] - most);
    for (int i = 0; i < classes; ++i) {
      const float target = i == labels[image] ? 1.0f : 0.0f;
      result[image * classes + i] = (expf(own[i] - most) / sum - target) / images;
    }
  }
}
