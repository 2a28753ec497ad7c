// Runs CUDA kernels on the CPU, for tests of their logic where there is no GPU. Blocks run one after the other. The
// threads of a block are fibers that take turns only at barriers, each time in another random order, so that a missing
// barrier gives wrong sums. There are no warps.
#pragma once

#include <float.h>
#include <math.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <bit>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __shared__ static
#define __align__(bytes) alignas(bytes)

using std::max;
using std::min;

inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }

inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long bits) { return std::bit_cast<double>(bits); }

template <class T>
T atomicAdd(T* to, T value) {
  return std::exchange(*to, *to + value);
}

template <class T>
T atomicOr(T* to, T value) {
  return std::exchange(*to, *to | value);
}

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

inline dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace emulation {

// Of data and of the order of threads, with its default seed.
inline std::mt19937 generator;

// Kernel and sizes of the launch under test.
inline std::string kernel, sizes;

[[noreturn, gnu::format(printf, 1, 2)]] inline void fail(const char* format, ...) {
  va_list values;
  va_start(values, format);
  std::printf("%s of %s: ", kernel.c_str(), sizes.c_str());
  std::vprintf(format, values);
  std::puts("");
  std::fflush(stdout);
  std::_Exit(1);
}

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(1 << 16);
};

inline ucontext_t scheduler;
inline std::vector<std::unique_ptr<Fiber>> fibers;
inline std::vector<Fiber*> idle, waiting;
inline Fiber* running;

// Threads of the block, of which `begun` have begun to run `body`.
inline std::vector<dim3> block;
inline std::size_t begun;
inline std::function<void()> body;

// What a fiber does: a thread that meets no barrier leaves it to the next.
inline void run_threads() {
  for (;;) {
    while (begun < block.size()) {
      threadIdx = block[begun++];
      body();
    }
    idle.push_back(running);
    swapcontext(&running->context, &scheduler);
  }
}

inline Fiber* idle_fiber() {
  if (idle.empty()) {
    Fiber* fiber = fibers.emplace_back(std::make_unique<Fiber>()).get();
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack.data();
    fiber->context.uc_stack.ss_size = fiber->stack.size();
    makecontext(&fiber->context, run_threads, 0);
    idle.push_back(fiber);
  }
  Fiber* fiber = idle.back();
  idle.pop_back();
  return fiber;
}

inline void resume(Fiber* fiber) {
  running = fiber;
  swapcontext(&scheduler, &fiber->context);
}

inline void run_block() {
  std::shuffle(block.begin(), block.end(), generator);
  begun = 0;
  while (begun < block.size()) resume(idle_fiber());
  while (!waiting.empty()) {
    if (waiting.size() != block.size()) fail("a barrier that not every thread reaches");
    std::vector<Fiber*> turn = std::exchange(waiting, {});
    std::shuffle(turn.begin(), turn.end(), generator);
    for (Fiber* fiber : turn) resume(fiber);
  }
}

struct Grid {
  dim3 blocks, threads;
};

template <class... Parameters, class... Arguments>
void launch(const std::string& name, Grid grid, void (*function)(Parameters...), Arguments&&... arguments) {
  kernel = name;
  gridDim = grid.blocks;
  blockDim = grid.threads;
  block.clear();
  for (dim3 at{0, 0, 0}; at.y < blockDim.y; ++at.y) {
    for (at.x = 0; at.x < blockDim.x; ++at.x) block.push_back(at);
  }
  body = [&] { function(arguments...); };
  signal(SIGSEGV, [](int) { fail("touches memory that is not its own"); });
  for (unsigned y = 0; y < gridDim.y; ++y) {
    for (unsigned x = 0; x < gridDim.x; ++x) {
      blockIdx = {x, y, 0};
      run_block();
    }
  }
}

// What a kernel gets a pointer to, all bits set as long as nothing is written. Behind it comes a page that no one may
// touch; the bytes before it, down to another such page, are to stay as they are.
template <class T>
class Buffer {
 public:
  explicit Buffer(std::size_t count) : count(count), pages((count * sizeof(T) / PAGE + 1) * PAGE) {
    void* memory = mmap(nullptr, pages + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    before = static_cast<unsigned char*>(memory) + PAGE;
    if (memory == MAP_FAILED || mprotect(before, pages, PROT_READ | PROT_WRITE) != 0) fail("no memory");
    std::memset(before, 0xff, pages);
  }
  Buffer(const Buffer& other) : Buffer(other.count) { std::copy(other.begin(), other.end(), begin()); }
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
    if (changed(before, begin())) fail("a value before the first is written");
    munmap(before - PAGE, pages + 2 * PAGE);
  }
  std::size_t size() const { return count; }
  T* begin() const { return reinterpret_cast<T*>(before + pages) - count; }
  T* end() const { return begin() + count; }
  operator T*() const { return begin(); }
  bool written(std::size_t i) const { return changed(begin() + i, begin() + i + 1); }

 private:
  static bool changed(const void* from, const void* to) {
    const auto first = static_cast<const unsigned char*>(from), last = static_cast<const unsigned char*>(to);
    return std::any_of(first, last, [](unsigned char byte) { return byte != 0xff; });
  }
  static constexpr std::size_t PAGE = 1 << 12;
  std::size_t count, pages;
  unsigned char* before;
};

}  // namespace emulation

inline void __syncthreads() {
  using namespace emulation;
  const dim3 thread = threadIdx;
  waiting.push_back(running);
  swapcontext(&running->context, &scheduler);
  threadIdx = thread;
}
