// Lists of revoked images (dbx) other than the key set's: where they show, and what is predicted with them.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "controller/attest/expectation.h"
#include "controller/fleet/revocations.h"

namespace sealift::controller {

// Of a log that leads to a PCR 7 in which nothing but dbx is not as predicted: its event. Firmware measures
// SecureBoot, PK, KEK, db, dbx, in this order (PFP 3.3.4.8).
inline constexpr std::size_t kRevocationsEvent = 4;
std::optional<Sha256Digest> MeasuredRevocations(const tpm::EventLog& log);

// `candidates` with more values of PCR 7: each of theirs with each list of `accepted` in it.
std::vector<ExpectedRelease> WithRevocations(const std::vector<ExpectedRelease>& candidates,
                                             const std::vector<Sha256Digest>& accepted);

// Another source's candidates, with the lists that are accepted now. Computed once per set of both.
// Thread-safe; borrows both.
class RevocationExpectations final : public ExpectationSource {
 public:
  RevocationExpectations(ExpectationSource& source, RevocationsStore& store, std::uint32_t machines)
      : source_(source), store_(store), machines_(machines) {}
  Result<std::shared_ptr<const std::vector<ExpectedRelease>>> Candidates() override;
  Bytes Encoded(const std::shared_ptr<const std::vector<ExpectedRelease>>& candidates) override;
  // A running node's verdict and log: remembers the list that it shows, where nothing but that may be odd.
  Status Note(const NodeId& node, const Verdict& verdict, const tpm::EventLog& log, UnixMillis now);

 private:
  ExpectationSource& source_;
  RevocationsStore& store_;
  const std::uint32_t machines_;
  std::mutex mutex_;
  // What candidates_ was made of.
  std::shared_ptr<const std::vector<ExpectedRelease>> from_;
  std::vector<Sha256Digest> accepted_;
  std::shared_ptr<const std::vector<ExpectedRelease>> candidates_;
  // Of candidates_; empty until asked for.
  Bytes encoded_;
};

}  // namespace sealift::controller
