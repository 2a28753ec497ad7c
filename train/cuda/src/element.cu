// f32 and bf16 values, alone and in packs that a thread reads and writes at once. There is no #include: NVRTC compiles
// this on machines that have no headers.

struct bf16 {
  unsigned short bits;
};

__device__ inline float wide(float x) { return x; }

__device__ inline float wide(bf16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }

// Rounds to nearest, ties to even; NaN stays NaN.
template <class T>
__device__ inline T narrow(float x);

template <>
__device__ inline float narrow<float>(float x) {
  return x;
}

template <>
__device__ inline bf16 narrow<bf16>(float x) {
  const unsigned bits = __float_as_uint(x);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  const unsigned rounded = nan ? bits | 0x400000u : bits + 0x7fffu + ((bits >> 16) & 1u);
  return bf16{static_cast<unsigned short>(rounded >> 16)};
}

template <class T, int N>
struct __align__(sizeof(T) * N) Pack {
  T v[N];
};

template <int N, class T>
__device__ inline Pack<T, N> load(const T* from) {
  return *reinterpret_cast<const Pack<T, N>*>(from);
}

template <int N, class T>
__device__ inline void store(T* to, const Pack<T, N>& values) {
  *reinterpret_cast<Pack<T, N>*>(to) = values;
}

// Bounds of an activation: max(low, min(x, high)), NaN where x is. Its gradient is 0 at and beyond them.
struct Clamp {
  float low, high;
  __device__ float operator()(float x) const { return x < low ? low : x > high ? high : x; }
  __device__ float gradient(float y, float g) const { return y <= low || y >= high ? 0.0f : g; }
};

// A kernel for each type of element and number of them in a pack: NAME_f32_1, NAME_f32_4, NAME_bf16_1, NAME_bf16_8.
#define FOR_EACH_PACK(KERNEL) KERNEL(f32_1, float, 1) KERNEL(f32_4, float, 4) KERNEL(bf16_1, bf16, 1) KERNEL(bf16_8, bf16, 8)

// The same for kernels that work on single elements: NAME_f32, NAME_bf16.
#define FOR_EACH_TYPE(KERNEL) KERNEL(f32, float) KERNEL(bf16, bf16)
