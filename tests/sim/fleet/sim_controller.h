// A whole controller in a process of its own, for a fleet of simulated machines: real listeners, stores and
// judgement, keys in memory, and a clock that can be set back.
//
// The program starts itself again with --serve; it tells by lines on stdout, and is told by lines on stdin.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>

namespace sealift::sim {

// What the fleet needs to know of its controller; the rest lies in files in `folder`: ca.pem; operator.pem
// and operator.key of an approver; tls.pem and tls.key, the server's own.
struct ControllerAt {
  std::string fleet;
  std::string enrolment;
};

class SimController {
 public:
  // `makers`: DER certificates of TPM makers' CAs lie there. Its wall clock runs `behind` the system's.
  SimController(const std::filesystem::path& folder, std::chrono::hours behind);
  ~SimController();
  SimController(const SimController&) = delete;
  SimController& operator=(const SimController&) = delete;

  const ControllerAt& addresses() const { return addresses_; }
  // Stops serving, lets `behind` become 0, and serves again at other ports with the same state.
  void ComeBack();
  double CpuSeconds() const;
  std::uint64_t PeakMemoryKib() const;

 private:
  void AwaitReady();

  std::filesystem::path folder_;
  int pid_ = -1;
  int to_child_ = -1;
  int from_child_ = -1;
  ControllerAt addresses_;
};

// The child's main. `folder` holds makers/.
int ServeController(const std::filesystem::path& folder, std::chrono::hours behind);

}  // namespace sealift::sim
