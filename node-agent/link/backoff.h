// How long to wait after a failure: doubling, bounded, and spread so that a thousand nodes that lost their
// controller in one moment do not come back in one moment.
#pragma once

#include <chrono>
#include <functional>

namespace sealift::agent {

// A number in [0, 1).
using RandomFraction = std::function<double()>;
// From the cryptographic generator: two machines booted from one image must not agree.
RandomFraction SystemRandom();

// Not thread-safe.
class Backoff {
 public:
  Backoff(std::chrono::milliseconds first, std::chrono::milliseconds most, RandomFraction random)
      : first_(first), most_(most), next_(first), random_(std::move(random)) {}

  // Between half of the current step and all of it; the step doubles up to `most`.
  std::chrono::milliseconds Next();
  void Reset() { next_ = first_; }

 private:
  std::chrono::milliseconds first_;
  std::chrono::milliseconds most_;
  std::chrono::milliseconds next_;
  RandomFraction random_;
};

// `interval`, up to a tenth shorter or longer.
std::chrono::milliseconds Spread(std::chrono::milliseconds interval, const RandomFraction& random);

// The longer of `own` and what the peer `asked` for; of that up to a quarter more, so that those who were
// sent away together do not come back together.
std::chrono::milliseconds Patiently(std::chrono::milliseconds own, std::chrono::milliseconds asked,
                                    const RandomFraction& random);

}  // namespace sealift::agent
