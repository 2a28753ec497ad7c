// Poolings over images [images, height, width, channels].

struct Window {
  int height, width, channels, out_height, out_width, kernel_height, kernel_width, stride_height, stride_width, top, left;

  // The places of window (row, column) inside the image.
  __device__ int first_row(int row) const { return max(row * stride_height - top, 0); }
  __device__ int end_row(int row) const { return min(row * stride_height - top + kernel_height, height); }
  __device__ int first_column(int column) const { return max(column * stride_width - left, 0); }
  __device__ int end_column(int column) const { return min(column * stride_width - left + kernel_width, width); }

  // The windows that hold place (row, column).
  __device__ int first_window(int row) const { return max(row + top - kernel_height + stride_height, 0) / stride_height; }
  __device__ int end_window(int row) const { return min((row + top) / stride_height + 1, out_height); }
  __device__ int first_window_column(int column) const {
    return max(column + left - kernel_width + stride_width, 0) / stride_width;
  }
  __device__ int end_window_column(int column) const { return min((column + left) / stride_width + 1, out_width); }

  // The place of the largest value of a window, the first of several, and of a NaN; `image` is at the channel.
  template <class T>
  __device__ int place_of_max(const T* image, int row, int column) const {
    int place = -1;
    float most = 0.0f;
    for (int y = first_row(row); y < end_row(row); ++y) {
      for (int x = first_column(column); x < end_column(column); ++x) {
        const float value = wide(image[(static_cast<long>(y) * width + x) * channels]);
        if (place < 0 || value > most || value != value) place = y * width + x, most = value;
      }
    }
    return place;
  }

  __device__ int places(int row, int column) const {
    return (end_row(row) - first_row(row)) * (end_column(column) - first_column(column));
  }
};

struct MaxOf {
  template <class T>
  static __device__ float value(const Window& w, const T* image, int row, int column) {
    return wide(image[static_cast<long>(w.place_of_max(image, row, column)) * w.channels]);
  }
  template <class T>
  static __device__ float share(const Window& w, const T* image, int row, int column, int place) {
    return w.place_of_max(image, row, column) == place ? 1.0f : 0.0f;
  }
};

// Of the places inside the image.
struct MeanOf {
  template <class T>
  static __device__ float value(const Window& w, const T* image, int row, int column) {
    float sum = 0.0f;
    for (int y = w.first_row(row); y < w.end_row(row); ++y) {
      for (int x = w.first_column(column); x < w.end_column(column); ++x) {
        sum += wide(image[(static_cast<long>(y) * w.width + x) * w.channels]);
      }
    }
    return sum / w.places(row, column);
  }
  template <class T>
  static __device__ float share(const Window& w, const T*, int row, int column, int) {
    return 1.0f / w.places(row, column);
  }
};

template <class Pooling, class T>
__device__ void pool(const T* x, T* y, int images, Window w) {
  const long count = static_cast<long>(images) * w.out_height * w.out_width * w.channels;
  for (long i = first_of_thread(); i < count; i += threads()) {
    const int channel = i % w.channels, column = i / w.channels % w.out_width;
    const long rows = i / w.channels / w.out_width;
    const T* image = x + rows / w.out_height * w.height * w.width * w.channels + channel;
    y[i] = narrow<T>(Pooling::value(w, image, static_cast<int>(rows % w.out_height), column));
  }
}

// Each place gathers what the windows that hold it give it.
template <class Pooling, class T>
__device__ void pool_gradient(const T* x, const T* g, T* dx, int images, Window w) {
  const long count = static_cast<long>(images) * w.height * w.width * w.channels;
  for (long i = first_of_thread(); i < count; i += threads()) {
    const int channel = i % w.channels, column = i / w.channels % w.width, row = i / w.channels / w.width % w.height;
    const long number = i / w.channels / w.width / w.height;
    const T* image = x + number * w.height * w.width * w.channels + channel;
    const T* gradient = g + number * w.out_height * w.out_width * w.channels + channel;
    float sum = 0.0f;
    for (int y = w.first_window(row); y < w.end_window(row); ++y) {
      for (int z = w.first_window_column(column); z < w.end_window_column(column); ++z) {
        sum += Pooling::share(w, image, y, z, row * w.width + column) *
               wide(gradient[(static_cast<long>(y) * w.out_width + z) * w.channels]);
      }
    }
    dx[i] = narrow<T>(sum);
  }
}

// The mean of each channel of [images, places, channels], a thread a channel of an image.
template <class T>
__device__ void mean(const T* x, T* y, int images, int places, int channels) {
  const long count = static_cast<long>(images) * channels;
  for (long i = first_of_thread(); i < count; i += threads()) {
    const T* image = x + i / channels * places * channels + i % channels;
    float sum = 0.0f;
    for (int place = 0; place < places; ++place) sum += wide(image[static_cast<long>(place) * channels]);
    y[i] = narrow<T>(sum / places);
  }
}

template <class T>
__device__ void mean_gradient(const T* g, T* dx, int images, int places, int channels) {
  const long count = static_cast<long>(images) * places * channels;
  for (long i = first_of_thread(); i < count; i += threads()) {
    dx[i] = narrow<T>(wide(g[i / channels / places * channels + i % channels]) / places);
  }
}

#define POOL_KERNELS(NAME, T)                                                                                          \
  extern "C" __global__ void max_pool_##NAME(const T* x, T* y, int images, Window w) { pool<MaxOf>(x, y, images, w); } \
  extern "C" __global__ void average_pool_##NAME(const T* x, T* y, int images, Window w) {                             \
    pool<MeanOf>(x, y, images, w);                                                                                     \
  }                                                                                                                    \
  extern "C" __global__ void max_pool_gradient_##NAME(const T* x, const T* g, T* dx, int images, Window w) {           \
    pool_gradient<MaxOf>(x, g, dx, images, w);                                                                         \
  }                                                                                                                    \
  extern "C" __global__ void average_pool_gradient_##NAME(const T* x, const T* g, T* dx, int images, Window w) {       \
    pool_gradient<MeanOf>(x, g, dx, images, w);                                                                        \
  }                                                                                                                    \
  extern "C" __global__ void mean_##NAME(const T* x, T* y, int images, int places, int channels) {                     \
    mean(x, y, images, places, channels);                                                                              \
  }                                                                                                                    \
  extern "C" __global__ void mean_gradient_##NAME(const T* g, T* dx, int images, int places, int channels) {           \
    mean_gradient(g, dx, images, places, channels);                                                                    \
  }
FOR_EACH_TYPE(POOL_KERNELS)
