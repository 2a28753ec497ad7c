// The vectors of a training, [rows, ROW]: each parameter begins a row, and zeros fill up its last one. A block of
// ROW / 4 threads takes one row, or one after the other, and a thread 4 values of it.
//
// Every operation on a value is rounded as on the host. Sums are in f64, and their order is always the same.

const int ROW = 1024, ROW_THREADS = ROW / 4;

typedef Pack<float, 4> Four;

struct Parameter {
  int first_row, end_row, values, prunable, penalised;
};

__device__ inline long own_place(int row) { return static_cast<long>(row) * ROW + 4 * threadIdx.x; }

// Where gradients lie, nullptr for zeros.
const int MOST_GRADIENTS = 256;
struct Gradients {
  const float* at[MOST_GRADIENTS];
};

// The vector of gradients at x, the first of which is the parameter number `first`, from row `first_row` on, plus mu x in
// prunable weights, of which zeros have none if `frozen`.
extern "C" __global__ void gather(Gradients gradients, int first, int first_row, const int* owner, const Parameter* parameters,
                                  const float* x, float mu, int frozen, float* result) {
  const int row = first_row + blockIdx.x, number = owner[row];
  const Parameter parameter = parameters[number];
  const float* from = gradients.at[number - first];
  for (int i = threadIdx.x; i < ROW; i += ROW_THREADS) {
    const long at = static_cast<long>(row) * ROW + i, place = at - static_cast<long>(parameter.first_row) * ROW;
    const bool stays = frozen && parameter.prunable && x[at] == 0.0f;
    const float gradient = from == nullptr || place >= parameter.values || stays ? 0.0f : from[place];
    result[at] = parameter.prunable ? gradient + mu * x[at] : gradient;
  }
}

// What a prunable zero does.
enum Zeros { MOVE, STAY, COAST };

// z' = z - g / sigma, x' = x + c (z' - x) and the direction sigma (y - z' - beta (x' - z')), 0 at prunable zeros that stay.
extern "C" __global__ void advance(const int* owner, const Parameter* parameters, const float* y, const float* g,
                                   const float* z, const float* x, float* direction, float* next_z, float* next_x,
                                   double sigma, double c, double beta, int zeros) {
  const long at = own_place(blockIdx.x);
  const bool stay = zeros == STAY && parameters[owner[blockIdx.x]].prunable;
  const Four ys = load<4>(y + at), gs = load<4>(g + at);
  Four zs = load<4>(z + at), xs = load<4>(x + at), vs;
  for (int i = 0; i < 4; ++i) {
    const double to = zs.v[i] - gs.v[i] / sigma, average = xs.v[i] + c * (to - xs.v[i]);
    const double v = sigma * (ys.v[i] - to - beta * (average - to));
    vs.v[i] = stay && ys.v[i] == 0.0f ? 0.0f : static_cast<float>(v);
    zs.v[i] = static_cast<float>(to);
    xs.v[i] = static_cast<float>(average);
  }
  store<4>(direction + at, vs);
  store<4>(next_z + at, zs);
  store<4>(next_x + at, xs);
}

// The average (1 - w) m + w g, or w g without an m; of prunable zeros 0 or m, as `zeros` says. And the direction
// beta average + (1 - beta) g, if there is a place for it.
extern "C" __global__ void average_gradient(const int* owner, const Parameter* parameters, const float* x, const float* g,
                                            const float* m, float* average, float* direction, float w, int zeros,
                                            float beta) {
  const long at = own_place(blockIdx.x);
  const bool prunable = parameters[owner[blockIdx.x]].prunable;
  const Four xs = load<4>(x + at), gs = load<4>(g + at);
  Four ms = {};
  if (m != nullptr) ms = load<4>(m + at);
  for (int i = 0; i < 4; ++i) {
    const float last = ms.v[i], next = m == nullptr ? w * gs.v[i] : (1.0f - w) * last + w * gs.v[i];
    const bool zero = prunable && xs.v[i] == 0.0f;
    ms.v[i] = !zero || zeros == MOVE ? next : zeros == STAY ? 0.0f : last;
  }
  store<4>(average + at, ms);
  if (direction == nullptr) return;
  for (int i = 0; i < 4; ++i) ms.v[i] = beta * ms.v[i] + (1.0f - beta) * gs.v[i];
  store<4>(direction + at, ms);
}

// The mean square r + w (g^2 - r), from 0 without an r, and the metric sqrt(mean square) + delta.
extern "C" __global__ void average_square(const float* g, const float* r, float* next, float* metric, float w,
                                          float delta) {
  const long at = own_place(blockIdx.x);
  const Four gs = load<4>(g + at);
  Four rs = {}, ds;
  if (r != nullptr) rs = load<4>(r + at);
  for (int i = 0; i < 4; ++i) {
    rs.v[i] += w * (gs.v[i] * gs.v[i] - rs.v[i]);
    ds.v[i] = sqrtf(rs.v[i]) + delta;
  }
  store<4>(next + at, rs);
  store<4>(metric + at, ds);
}

struct Channel {
  int start, length;
};

// Zeros in the direction of channels whose weights are all zero, a block a channel.
extern "C" __global__ void hold_empty(const Channel* channels, const float* x, float* direction) {
  __shared__ int full;
  const Channel channel = channels[blockIdx.x];
  if (threadIdx.x == 0) full = 0;
  __syncthreads();
  bool found = false;
  for (int i = threadIdx.x; i < channel.length && !found; i += blockDim.x) found = x[channel.start + i] != 0.0f;
  if (found) atomicOr(&full, 1);
  __syncthreads();
  if (full) return;
  for (int i = threadIdx.x; i < channel.length; i += blockDim.x) direction[channel.start + i] = 0.0f;
}

enum Penalty { L0, L1, L0_BALL };

// The metric d is sigma, times a diagonal if there is one.
struct Model {
  const float *x, *v, *diagonal;
  double sigma;
  int penalty;

  __device__ Four metric(long at) const {
    Four ones = {{1.0f, 1.0f, 1.0f, 1.0f}};
    return diagonal != nullptr ? load<4>(diagonal + at) : ones;
  }
  __device__ double d(float scale) const { return diagonal != nullptr ? scale * sigma : sigma; }

  // The least lambda at which the weight goes that the gradient would bring to z.
  __device__ double critical(double z, double d) const { return penalty == L1 ? fabs(z) * d : z * d * z * 0.5; }
  __device__ double critical(float x, float v, float scale) const { return critical(x - v / d(scale), d(scale)); }

  __device__ double value(double x) const {
    return penalty == L0 ? (x != 0.0 ? 1.0 : 0.0) : penalty == L1 ? fabs(x) : 0.0;
  }
};

// Sums over a block of ROW_THREADS; thread k < N gets the k-th. To be called once in a kernel.
template <int N>
__device__ double add_up(const double (&own)[N]) {
  const int PARTS = 16;
  __shared__ double all[N][ROW_THREADS];
  const int thread = threadIdx.x, k = thread / PARTS, part = thread % PARTS;
  for (int i = 0; i < N; ++i) all[i][thread] = own[i];
  __syncthreads();
  double sum = 0.0;
  if (k < N) {
    for (int i = part; i < ROW_THREADS; i += PARTS) sum += all[k][i];
    all[k][part] = sum;
  }
  __syncthreads();
  sum = 0.0;
  if (thread < N) {
    for (int i = 0; i < PARTS; ++i) sum += all[thread][i];
  }
  return sum;
}

// Zeros in the gradient of channels whose squares add up to more than `steepest`, a block a channel.
extern "C" __global__ void hold_steep(const Channel* channels, float* gradient, double steepest) {
  __shared__ int stays;
  const Channel channel = channels[blockIdx.x];
  double square[1] = {};
  for (int i = threadIdx.x; i < channel.length; i += ROW_THREADS) {
    const double g = gradient[channel.start + i];
    square[0] += g * g;
  }
  const double sum = add_up(square);
  if (threadIdx.x == 0) stays = sum > steepest;
  __syncthreads();
  if (!stays) return;
  for (int i = threadIdx.x; i < channel.length; i += ROW_THREADS) gradient[channel.start + i] = 0.0f;
}

const int SUMS = 7;

// The trial point prox(x - v / d) with the lambda of each parameter, or the first for all with `common`, and for each row
// of it the sums of v s, g s, s d s, the rounding to f32, weights that are not zero, by how much the penalty falls, and
// the penalty; s is the step.
extern "C" __global__ void attempt(const int* owner, const Parameter* parameters, const float* x, const float* v,
                                   const float* g, const float* diagonal, double sigma, int penalty,
                                   const double* lambdas, int common, float* trial, double* partial) {
  const double HALF_ULP = 0x1p-24, TINY = 0x1p-126;
  const Model model = {x, v, diagonal, sigma, penalty};
  const int number = owner[blockIdx.x];
  const double lambda = parameters[number].penalised ? lambdas[common ? 0 : number] : -1.0;
  const long at = own_place(blockIdx.x);
  const Four xs = load<4>(x + at), vs = load<4>(v + at), gs = load<4>(g + at), scales = model.metric(at);
  Four moved;
  double sums[SUMS] = {};
  for (int i = 0; i < 4; ++i) {
    const double from = xs.v[i], slope = vs.v[i], d = model.d(scales.v[i]), z = from - slope / d;
    const double pull = penalty == L1 && lambda > 0.0 ? lambda / d : 0.0;
    const double exact = model.critical(z, d) <= lambda ? 0.0 : z > 0.0 ? z - pull : z + pull;
    moved.v[i] = static_cast<float>(exact);
    const double to = moved.v[i], s = to - from, value = model.value(to);
    sums[0] += slope * s;
    sums[1] += gs.v[i] * s;
    sums[2] += s * d * s;
    sums[3] += (fabs(exact) * HALF_ULP + TINY) * fabs(slope);
    sums[4] += to != 0.0 ? 1.0 : 0.0;
    sums[5] += model.value(from) - value;
    sums[6] += value;
  }
  store<4>(trial + at, moved);
  const double sum = add_up(sums);
  if (threadIdx.x < SUMS) partial[static_cast<long>(blockIdx.x) * SUMS + threadIdx.x] = sum;
}

// For each row the weights whose critical lambda is above `lambda`.
extern "C" __global__ void count_above(const float* x, const float* v, const float* diagonal, double sigma, int penalty,
                                       double lambda, double* partial) {
  const Model model = {x, v, diagonal, sigma, penalty};
  const long at = own_place(blockIdx.x);
  const Four xs = load<4>(x + at), vs = load<4>(v + at), scales = model.metric(at);
  double count[1] = {};
  for (int i = 0; i < 4; ++i) count[0] += model.critical(xs.v[i], vs.v[i], scales.v[i]) > lambda ? 1.0 : 0.0;
  const double sum = add_up(count);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// Sums [N, parameters] of sums of rows [rows, N], a block a parameter.
template <int N>
__device__ void add_rows(const Parameter* parameters, const double* partial, double* result) {
  const Parameter parameter = parameters[blockIdx.x];
  double sums[N] = {};
  for (int row = parameter.first_row + threadIdx.x; row < parameter.end_row; row += ROW_THREADS) {
    for (int k = 0; k < N; ++k) sums[k] += partial[static_cast<long>(row) * N + k];
  }
  const double sum = add_up(sums);
  if (threadIdx.x < N) result[static_cast<long>(threadIdx.x) * gridDim.x + blockIdx.x] = sum;
}

extern "C" __global__ void add_rows_of_sums(const Parameter* parameters, const double* partial, double* result) {
  add_rows<SUMS>(parameters, partial, result);
}

extern "C" __global__ void add_rows_of_counts(const Parameter* parameters, const double* partial, double* result) {
  add_rows<1>(parameters, partial, result);
}

// The search for the (left + 1)-th largest critical lambda goes from its upper bits down, BINS at a time: the bits of
// numbers above 0 are in the numbers' order. Others, NaN too, do not count.
const int BINS = 1 << 13;

// Adds to `counts` how many critical lambdas of the `chosen` parameters have each of BINS values in the bits from `shift`
// on, among those whose bits from `known` on are those of answer[0]. With `near`, where they should be few, one of each.
extern "C" __global__ void count_bits(const int* owner, const unsigned* chosen, const float* x, const float* v,
                                      const float* diagonal, double sigma, int penalty, const double* answer,
                                      int known, int shift, unsigned* counts, double* near, int rows) {
  if (answer[3] != 0.0) return;
  __shared__ unsigned bins[BINS];
  for (int bin = threadIdx.x; bin < BINS; bin += ROW_THREADS) bins[bin] = 0;
  __syncthreads();
  const Model model = {x, v, diagonal, sigma, penalty};
  const unsigned long long found = __double_as_longlong(answer[0]);
  for (int row = blockIdx.x; row < rows; row += gridDim.x) {
    if (!chosen[owner[row]]) continue;
    const long at = own_place(row);
    const Four xs = load<4>(x + at), vs = load<4>(v + at), scales = model.metric(at);
    for (int i = 0; i < 4; ++i) {
      const double critical = model.critical(xs.v[i], vs.v[i], scales.v[i]);
      const unsigned long long bits = __double_as_longlong(critical);
      if (!(critical > 0.0) || ((bits ^ found) >> known) != 0) continue;
      const int bin = (bits >> shift) % BINS;
      atomicAdd(&bins[bin], 1u);
      if (near != nullptr) near[bin] = critical;
    }
  }
  __syncthreads();
  for (int bin = threadIdx.x; bin < BINS; bin += ROW_THREADS) {
    if (bins[bin] > 0) atomicAdd(&counts[bin], bins[bin]);
  }
}

// Puts those bits into the answer: the number so far, and how many are above it, and not below it. It stays 0 where there
// are not more than `left`. Where it is the only one of its bin, it is near[bin], and 1 as the fourth value says that nothing
// is left to do. One block; each thread takes some bins, the first those of the largest numbers.
extern "C" __global__ void choose_bits(const unsigned* counts, double* answer, const double* near, double left, int shift) {
  const int OWN = BINS / ROW_THREADS;
  __shared__ double sums[ROW_THREADS];
  const int last = BINS - 1 - OWN * threadIdx.x;
  double sum = 0.0, above = answer[1];
  for (int bin = last; bin > last - OWN; --bin) sum += counts[bin];
  sums[threadIdx.x] = sum;
  __syncthreads();
  for (unsigned thread = 0; thread < threadIdx.x; ++thread) above += sums[thread];
  if (above > left || above + sum <= left) return;
  int bin = last;
  for (; above + counts[bin] <= left; --bin) above += counts[bin];
  const unsigned long long bits = static_cast<unsigned long long>(bin) << shift;
  const bool only = near != nullptr && counts[bin] == 1;
  answer[0] = only ? near[bin] : __longlong_as_double(__double_as_longlong(answer[0]) | bits);
  answer[1] = above;
  answer[2] = above + counts[bin];
  answer[3] = only;
}

// The sequences z and x after a step from `old` to `next`: prunable weights that went or came back begin with all three
// alike.
extern "C" __global__ void follow(const int* owner, const Parameter* parameters, const float* old, const float* next,
                                  const float* z, const float* x, float* next_z, float* next_x) {
  const long at = own_place(blockIdx.x);
  const bool prunable = parameters[owner[blockIdx.x]].prunable;
  const Four olds = load<4>(old + at), nexts = load<4>(next + at);
  Four zs = load<4>(z + at), xs = load<4>(x + at);
  for (int i = 0; i < 4; ++i) {
    if (prunable && (nexts.v[i] == 0.0f || olds.v[i] == 0.0f)) zs.v[i] = xs.v[i] = nexts.v[i];
  }
  store<4>(next_z + at, zs);
  store<4>(next_x + at, xs);
}

// Prunable weights times `kept`.
extern "C" __global__ void decay(const int* owner, const Parameter* parameters, const float* x, float* result, float kept) {
  const long at = own_place(blockIdx.x);
  const float factor = parameters[owner[blockIdx.x]].prunable ? kept : 1.0f;
  Four xs = load<4>(x + at);
  for (int i = 0; i < 4; ++i) xs.v[i] *= factor;
  store<4>(result + at, xs);
}

// average + w (x - average), from 0 without an average.
extern "C" __global__ void average_point(const float* x, const float* average, float* result, float w) {
  const long at = own_place(blockIdx.x);
  const Four xs = load<4>(x + at);
  Four averages = {};
  if (average != nullptr) averages = load<4>(average + at);
  for (int i = 0; i < 4; ++i) averages.v[i] += w * (xs.v[i] - averages.v[i]);
  store<4>(result + at, averages);
}
