// Each kernel of ../src, unchanged, on the CPU, against a naive twin in double; .ci/cuda-check builds and runs it.

#include "emulation.hpp"

// In the order of SOURCE in ../src/launch.rs.
#include "../src/element.cu"
#include "../src/norm.cu"
#include "../src/pointwise.cu"
#include "../src/pool.cu"
#include "../src/step.cu"

#include "norm.hpp"
#include "pointwise.hpp"
#include "pool.hpp"
#include "step.hpp"

template <class T>
auto of_type(auto f32, auto bf16) {
  if constexpr (std::is_same_v<T, float>) return f32;
  else return bf16;
}

#define TEST_PACK(NAME, T, N)                                                                                         \
  test_norms<T, N>("_" #NAME, moments_##NAME, of_type<T>(moments_end_f32, moments_end_bf16), normalise_##NAME,        \
                   norm_gradient_##NAME, norm_input_gradient_##NAME);                                                 \
  test_pointwise<T, N>("_" #NAME, add_##NAME, clamp_gradient_##NAME);

#define TEST_TYPE(NAME, T)                                                                                      \
  test_weights<T>("_" #NAME, weights_last_##NAME, weights_first_##NAME);                                        \
  test_pools<T>("_" #NAME, max_pool_##NAME, average_pool_##NAME, max_pool_gradient_##NAME,                      \
                average_pool_gradient_##NAME);                                                                  \
  test_mean<T>("_" #NAME, mean_##NAME, mean_gradient_##NAME);

int main() {
  test_close();
  test_rounding();
  test_gradient_twin();
  test_running_statistics();
  FOR_EACH_PACK(TEST_PACK)
  FOR_EACH_TYPE(TEST_TYPE)
  test_cross_entropy();
  test_step();
  std::puts("the kernels agree with their twins");
}
