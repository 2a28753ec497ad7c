// What a training step does to whole vectors. Values are those of the host's arithmetic to the bit; only sums are in
// another order.
#pragma once

#include <set>

#include "twin.hpp"

// Error of a sum in double in another order, relative to its terms.
const double SUMMING = 1e-13;

Grid blocks_of(unsigned count) { return {{count}, {ROW_THREADS}}; }

// The parameters of a network: with full rows, one value more, few, and several rows.
struct Vectors {
  struct Flags {
    int values, prunable, penalised;
  };
  const std::vector<Flags> flags = {{1, 0, 0}, {1000, 1, 1}, {1024, 1, 0}, {1025, 1, 1}, {2900, 1, 1}, {64, 0, 1}};
  int rows = 0;
  std::vector<int> number;
  Buffer<Parameter> parameters{flags.size()};

  Vectors() {
    for (std::size_t p = 0; p < flags.size(); ++p) {
      const int first = rows;
      rows += (flags[p].values + ROW - 1) / ROW;
      number.resize(rows, p);
      parameters[p] = {first, rows, flags[p].values, flags[p].prunable, flags[p].penalised};
    }
  }
  int count() const { return rows * ROW; }
  const Parameter& of(int i) const { return parameters[number[i / ROW]]; }
  bool padding(int i) const { return i - of(i).first_row * ROW >= of(i).values; }
  bool prunable(int i) const { return of(i).prunable; }
  Buffer<int> owner() const {
    Buffer<int> result(rows);
    std::copy(number.begin(), number.end(), result.begin());
    return result;
  }
  Buffer<float> filled(auto value) const {
    Buffer<float> result(count());
    for (int i = 0; i < count(); ++i) result[i] = padding(i) ? 0.0f : static_cast<float>(value());
    return result;
  }
};

double some_zeros() { return generator() % 3 == 0 ? 0.0 : uniform(-1.0, 1.0); }

double slope() { return uniform(-1.0, 1.0); }

// That each value is `expected(i)`, to the bit but for the sign of 0.
void check_exactly(const Buffer<float>& got, auto expected) {
  Twin twin(got.size());
  for (std::size_t i = 0; i < got.size(); ++i) twin.set(i, expected(i));
  check(values(got), twin, 0.0);
}

void test_gather() {
  const Vectors vectors;
  const auto owner = vectors.owner();
  const int parameters = vectors.flags.size(), MISSING = 3, TOGETHER = 4;
  auto x = vectors.filled(some_zeros);
  std::vector<Buffer<float>> gradients;
  for (const auto& flags : vectors.flags) gradients.push_back(filled<float>(flags.values, slope));
  for (auto [frozen, mu] : {std::pair(false, 0.0f), {false, 0.25f}, {true, 0.0f}, {true, 0.25f}}) {
    set_sizes(vectors.count());
    Buffer<float> result(vectors.count());
    for (int first = 0; first < parameters; first += TOGETHER) {
      Gradients at = {};
      const int end = min(first + TOGETHER, parameters), first_row = vectors.parameters[first].first_row;
      for (int p = first; p < end; ++p) at.at[p - first] = p == MISSING ? nullptr : gradients[p].begin();
      launch("gather", blocks_of(vectors.parameters[end - 1].end_row - first_row), gather, at, first, first_row, owner,
             vectors.parameters, x, mu, frozen, result);
    }
    check_exactly(result, [&](int i) {
      const int p = vectors.number[i / ROW];
      const bool held = frozen && vectors.prunable(i) && x[i] == 0.0f;
      const bool none = vectors.padding(i) || p == MISSING || held;
      const float gradient = none ? 0.0f : gradients[p][i - vectors.of(i).first_row * ROW];
      return vectors.prunable(i) ? gradient + mu * x[i] : gradient;
    });
  }
}

void test_directions() {
  const Vectors vectors;
  const auto owner = vectors.owner();
  const int count = vectors.count();
  const Grid grid = blocks_of(vectors.rows);
  auto x = vectors.filled(some_zeros), g = vectors.filled(slope), m = vectors.filled(slope), z = vectors.filled(slope);
  g[1030] = NAN, g[1031] = INFINITY, g[1032] = -0.0f;
  set_sizes(count);
  for (int zeros : {MOVE, STAY}) {
    const double sigma = 1.7, c = 0.03, beta = 0.9;
    Buffer<float> direction(count), next_z(count), next_m(count);
    launch("advance", grid, advance, owner, vectors.parameters, x, g, z, m, direction, next_z, next_m, sigma, c, beta, zeros);
    const auto to = [&](int i) { return z[i] - double(g[i]) / sigma; };
    const auto average = [&](int i) { return m[i] + c * (to(i) - m[i]); };
    check_exactly(next_z, [&](int i) { return float(to(i)); });
    check_exactly(next_m, [&](int i) { return float(average(i)); });
    check_exactly(direction, [&](int i) {
      const bool held = zeros == STAY && vectors.prunable(i) && x[i] == 0.0f;
      return held ? 0.0f : float(sigma * (double(x[i]) - to(i) - beta * (average(i) - to(i))));
    });
  }
  for (int zeros : {MOVE, STAY, COAST}) {
    for (bool begun : {false, true}) {
      for (bool ahead : {false, true}) {
        if (zeros == COAST && !begun) continue;
        const float w = 0.1f, beta = 0.9f;
        Buffer<float> average(count), direction(count);
        float *past = begun ? m.begin() : nullptr, *place = ahead ? direction.begin() : nullptr;
        launch("average_gradient", grid, average_gradient, owner, vectors.parameters, x, g, past, average, place, w, zeros,
               beta);
        check_exactly(average, [&](int i) {
          const float next = begun ? (1.0f - w) * m[i] + w * g[i] : w * g[i];
          const bool zero = vectors.prunable(i) && x[i] == 0.0f;
          return !zero || zeros == MOVE ? next : zeros == STAY ? 0.0f : m[i];
        });
        if (ahead) check_exactly(direction, [&](int i) { return beta * average[i] + (1.0f - beta) * g[i]; });
      }
    }
  }
  for (bool begun : {false, true}) {
    const float w = 0.001f, delta = 1e-8f;
    auto r = vectors.filled([] { return uniform(0.0, 1.0); });
    Buffer<float> next(count), metric(count);
    launch("average_square", grid, average_square, g, begun ? r.begin() : nullptr, next, metric, w, delta);
    check_exactly(next, [&](int i) {
      const float last = begun ? r[i] : 0.0f;
      return last + w * (g[i] * g[i] - last);
    });
    check_exactly(metric, [&](int i) { return sqrtf(next[i]) + delta; });
  }
}

// Channels of one value and of several rows, that end and begin within a row, with a single weight at an end or none.
void test_hold_empty() {
  const int count = 5000;
  const std::vector<Channel> channels = {{0, 1}, {1, 1}, {2, 9}, {11, 300}, {400, 600}, {1024, 2500}, {3600, 1300}};
  Buffer<Channel> table(channels.size());
  std::copy(channels.begin(), channels.end(), table.begin());
  set_sizes(count);
  Buffer<float> x(count), direction(count);
  for (int i = 0; i < count; ++i) x[i] = 0.0f, direction[i] = i + 1.0f;
  x[1] = -1.0f, x[310] = 0x1p-149f, x[1024 + 2499] = NAN;
  launch("hold_empty", blocks_of(channels.size()), hold_empty, table, x, direction);
  check_exactly(direction, [&](int i) {
    for (Channel channel : channels) {
      if (i < channel.start || i >= channel.start + channel.length) continue;
      const bool full = channel.start == 1 || channel.start == 11 || channel.start == 1024;
      return full ? i + 1.0f : 0.0f;
    }
    return i + 1.0f;
  });
}

// Channels of one value and of several rows, that end and begin within a row, at and above the bound.
void test_hold_steep() {
  const int count = 5000;
  const std::vector<Channel> channels = {{0, 1}, {1, 1}, {2, 16}, {18, 17}, {400, 600}, {1024, 2500}, {3600, 1300}};
  Buffer<Channel> table(channels.size());
  std::copy(channels.begin(), channels.end(), table.begin());
  set_sizes(count);
  Buffer<float> gradient(count);
  for (int i = 0; i < count; ++i) gradient[i] = i < 2000 ? 0.5f : 1e-3f;
  gradient[1] = -2.5f, gradient[4899] = 2.0f, gradient[3600] = NAN;
  const auto before = gradient;
  launch("hold_steep", blocks_of(channels.size()), hold_steep, table, gradient, 4.0);
  check_exactly(gradient, [&](int i) {
    const bool stays = i == 1 || (i >= 18 && i < 35) || (i >= 400 && i < 1000) || (i >= 1024 && i < 3524);
    return stays ? 0.0f : before[i];
  });
}

void test_ends() {
  const Vectors vectors;
  const auto owner = vectors.owner();
  const int count = vectors.count();
  const Grid grid = blocks_of(vectors.rows);
  auto old = vectors.filled(some_zeros), next = vectors.filled(some_zeros), z = vectors.filled(slope),
       x = vectors.filled(slope);
  Buffer<float> next_z(count), next_x(count), decayed(count);
  set_sizes(count);
  launch("follow", grid, follow, owner, vectors.parameters, old, next, z, x, next_z, next_x);
  const auto anew = [&](int i) { return vectors.prunable(i) && (old[i] == 0.0f || next[i] == 0.0f); };
  check_exactly(next_z, [&](int i) { return anew(i) ? next[i] : z[i]; });
  check_exactly(next_x, [&](int i) { return anew(i) ? next[i] : x[i]; });
  launch("decay", grid, decay, owner, vectors.parameters, x, decayed, 0.999f);
  check_exactly(decayed, [&](int i) { return vectors.prunable(i) ? x[i] * 0.999f : x[i]; });
  for (bool begun : {false, true}) {
    Buffer<float> result(count);
    launch("average_point", grid, average_point, x, begun ? z.begin() : nullptr, result, 0.1f);
    check_exactly(result, [&](int i) {
      const float last = begun ? z[i] : 0.0f;
      return last + 0.1f * (x[i] - last);
    });
  }
}

// The model of one step, value by value.
struct ModelTwin {
  const Vectors& vectors;
  Buffer<float> x, v, diagonal;
  double sigma;
  int penalty;
  bool scaled;

  const float* metric() const { return scaled ? diagonal.begin() : nullptr; }
  double d(int i) const { return scaled ? double(diagonal[i]) * sigma : sigma; }
  double z(int i) const { return double(x[i]) - double(v[i]) / d(i); }
  double critical(int i) const { return penalty == L1 ? fabs(z(i)) * d(i) : z(i) * d(i) * z(i) * 0.5; }
  double value(double x) const { return penalty == L0 ? double(x != 0.0) : penalty == L1 ? fabs(x) : 0.0; }

  // With a lambda below 0 outside the penalty.
  double prox(int i, double lambda) const {
    if (critical(i) <= lambda) return 0.0;
    const double sign = (z(i) > 0.0) - (z(i) < 0.0);
    return penalty == L1 ? z(i) - sign * (max(lambda, 0.0) / d(i)) : z(i);
  }
};

void test_attempt(const ModelTwin& model, bool common) {
  const Vectors& vectors = model.vectors;
  const auto owner = vectors.owner();
  const int count = vectors.count(), parameters = vectors.flags.size();
  auto g = vectors.filled(slope);
  Buffer<double> lambdas(common ? 1 : parameters), partial(vectors.rows * SUMS), sums(SUMS * parameters);
  for (std::size_t p = 0; p < lambdas.size(); ++p) {
    // At which one value goes just so.
    const double critical = model.critical(vectors.parameters[common ? 4 : p].first_row * ROW + 60);
    lambdas[p] = isfinite(critical) ? critical : 0.1;
  }
  Buffer<float> trial(count);
  launch("attempt", blocks_of(vectors.rows), attempt, owner, vectors.parameters, model.x, model.v, g, model.metric(),
         model.sigma, model.penalty, lambdas, common, trial, partial);
  launch("add_rows_of_sums", blocks_of(parameters), add_rows_of_sums, vectors.parameters, partial, sums);
  const auto lambda_of = [&](int p) { return vectors.flags[p].penalised ? lambdas[common ? 0 : p] : -1.0; };
  check_exactly(trial, [&](int i) { return float(model.prox(i, lambda_of(vectors.number[i / ROW]))); });
  Twin twin(SUMS * parameters);
  for (int i = 0; i < count; ++i) {
    const int p = vectors.number[i / ROW];
    const double from = model.x[i], v = model.v[i], exact = model.prox(i, lambda_of(p)), to = trial[i], s = to - from;
    const double rounding = (fabs(exact) * 0x1p-24 + FLT_MIN) * fabs(v), value = model.value(to);
    const double terms[] = {v * s, g[i] * s, s * model.d(i) * s, rounding, double(to != 0.0), model.value(from) - value, value};
    for (int k = 0; k < SUMS; ++k) twin.add(k * parameters + p, terms[k]);
  }
  for (int i = 0; i < SUMS * parameters; ++i) {
    if (!close(sums[i], twin.value[i], SUMMING * twin.terms[i])) {
      fail("sum %d of parameter %d is %.17g, not %.17g", i / parameters, i % parameters, sums[i], twin.value[i]);
    }
  }
}

// The search among these parameters, with from none to all of them left.
void test_search(const ModelTwin& model, const std::vector<unsigned>& choice) {
  const Vectors& vectors = model.vectors;
  const auto owner = vectors.owner();
  const int parameters = vectors.flags.size();
  Values all;
  for (int i = 0; i < vectors.count(); ++i) {
    if (choice[vectors.number[i / ROW]] && model.critical(i) > 0.0) all.push_back(model.critical(i));
  }
  std::sort(all.rbegin(), all.rend());
  Buffer<unsigned> chosen(parameters), counts(BINS);
  std::copy(choice.begin(), choice.end(), chosen.begin());
  const std::size_t size = all.size();
  for (std::size_t left : std::set{min<std::size_t>(size, 5), size / 2, size - (size > 0), size}) {
    const double expected = left < all.size() ? all[left] : 0.0;
    Buffer<double> answer(4), near(BINS);
    std::fill(answer.begin(), answer.end(), 0.0);
    int known = 63;
    for (int shift : {50, 37, 24, 11, 0}) {
      std::fill(counts.begin(), counts.end(), 0);
      double* some = known > 37 ? nullptr : near.begin();
      // Fewer blocks than rows.
      launch("count_bits", blocks_of(2), count_bits, owner, chosen, model.x, model.v, model.metric(), model.sigma,
             model.penalty, answer, known, shift, counts, some, vectors.rows);
      launch("choose_bits", blocks_of(1), choose_bits, counts, answer, some, double(left), shift);
      known = shift;
    }
    if (answer[0] != expected) fail("of %zu, %zu left: %.17g, not %.17g", all.size(), left, answer[0], expected);
    const double above = std::count_if(all.begin(), all.end(), [&](double value) { return value > expected; });
    const double equal = std::count(all.begin(), all.end(), expected);
    if (expected > 0.0 && (answer[1] != above || answer[2] != above + equal)) {
      fail("%g above and %g not below, not %g and %g", answer[1], answer[2], above, above + equal);
    }
  }
}

void test_count_above(const ModelTwin& model, double lambda) {
  const Vectors& vectors = model.vectors;
  const int parameters = vectors.flags.size();
  Buffer<double> partial(vectors.rows), result(parameters);
  launch("count_above", blocks_of(vectors.rows), count_above, model.x, model.v, model.metric(), model.sigma, model.penalty,
         lambda, partial);
  launch("add_rows_of_counts", blocks_of(parameters), add_rows_of_counts, vectors.parameters, partial, result);
  Values expected(parameters);
  for (int i = 0; i < vectors.count(); ++i) expected[vectors.number[i / ROW]] += model.critical(i) > lambda;
  for (int p = 0; p < parameters; ++p) {
    if (result[p] != expected[p]) fail("%g are above in parameter %d, not %g", result[p], p, expected[p]);
  }
}

void test_model() {
  const Vectors vectors;
  const std::vector<unsigned> penalised = {0, 1, 0, 1, 1, 1}, one = {0, 0, 0, 1, 0, 0}, none(6, 0);
  const auto value = [](auto function) { return std::function<double()>(function); };
  const auto nothing = value([] { return 0.0; });
  struct Case {
    std::function<double()> x, v;
  };
  const std::vector<Case> cases = {
      {some_zeros, slope},
      {halves, nothing},                                                                      // Ties.
      {value([] { return generator() % 500 == 0 ? slope() : 0.0; }), nothing},                // Few.
      {value([] { return 1.0; }), value([] { return (generator() % (1 << 20)) * 0x1p-50; })}, // Down to the last bits.
      {value([] { return (generator() % 3) * 0x1p-149; }), nothing},                          // Subnormal.
      {some_zeros, value([] { return generator() % 9 == 0 ? NAN : slope(); })},
      {some_zeros, value([] { return generator() % 9 == 0 ? INFINITY : slope(); })},
      {nothing, nothing},
  };
  for (int penalty : {L0, L1, L0_BALL}) {
    for (bool scaled : {false, true}) {
      for (std::size_t number = 0; number < cases.size(); ++number) {
        // Otherwise as l0.
        if (penalty == L0_BALL && number > 0) continue;
        auto x = vectors.filled(cases[number].x), v = vectors.filled(cases[number].v);
        auto diagonal = filled<float>(vectors.count(), [] { return uniform(0.01, 2.0); });
        const ModelTwin model = {vectors, x, v, diagonal, 1.7, penalty, scaled};
        sizes = "case " + std::to_string(number) + ", penalty " + std::to_string(penalty) + (scaled ? ", scaled" : "");
        for (bool common : {false, true}) test_attempt(model, common);
        for (const auto& choice : {penalised, one, none}) test_search(model, choice);
        test_count_above(model, model.critical(2048));
      }
    }
  }
}

void test_step() {
  test_gather();
  test_directions();
  test_hold_empty();
  test_hold_steep();
  test_ends();
  test_model();
}
