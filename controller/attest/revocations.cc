#include "controller/attest/revocations.h"

#include <fmt/format.h>

#include <algorithm>

#include "controller/attest/evidence_file.h"

namespace sealift::controller {
namespace {

constexpr std::uint32_t kSecureBootPcr = 7;

// The value again, with another list.
ExpectedValue WithList(const ExpectedValue& value, const Sha256Digest& event) {
  ExpectedValue other = value;
  other.events[kRevocationsEvent].digest = event;
  other.label += fmt::format(", dbx {}", event.hex().substr(0, 12));
  other.value = {};
  for (const ExpectedEvent& one : other.events) other.value = tpm::Extend(other.value, one.digest);
  return other;
}

}  // namespace

std::optional<Sha256Digest> MeasuredRevocations(const tpm::EventLog& log) {
  const auto events = log.EventsOf(kSecureBootPcr);
  if (events.size() <= kRevocationsEvent) return std::nullopt;
  const auto digest = Sha256Digest::FromBytes(events[kRevocationsEvent]->digests.at(tpm::kAlgSha256));
  if (!digest.ok()) return std::nullopt;
  return *digest;
}

std::vector<ExpectedRelease> WithRevocations(const std::vector<ExpectedRelease>& candidates,
                                             const std::vector<Sha256Digest>& accepted) {
  std::vector<ExpectedRelease> more = candidates;
  for (ExpectedRelease& release : more) {
    std::vector<ExpectedValue>& values = release.registers[kSecureBootPcr];
    const std::size_t predicted = values.size();
    for (std::size_t i = 0; i < predicted; ++i) {
      if (values[i].events.size() <= kRevocationsEvent) continue;
      for (const Sha256Digest& event : accepted) {
        ExpectedValue value = WithList(values[i], event);
        const auto same = [&value](const ExpectedValue& one) { return one.value == value.value; };
        if (std::ranges::none_of(values, same)) values.push_back(std::move(value));
      }
    }
  }
  return more;
}

Result<std::shared_ptr<const std::vector<ExpectedRelease>>> RevocationExpectations::Candidates() {
  SEALIFT_ASSIGN_OR_RETURN(auto from, source_.Candidates());
  SEALIFT_ASSIGN_OR_RETURN(auto accepted, store_.Accepted(machines_));
  const std::lock_guard lock(mutex_);
  if (candidates_ != nullptr && from == from_ && accepted == accepted_) return candidates_;
  candidates_ = std::make_shared<std::vector<ExpectedRelease>>(WithRevocations(*from, accepted));
  from_ = std::move(from);
  accepted_ = std::move(accepted);
  encoded_.clear();
  return candidates_;
}

Status RevocationExpectations::Note(const NodeId& node, const Verdict& verdict, const tpm::EventLog& log,
                                    UnixMillis now) {
  const bool only_odd =
      verdict.reasons.size() == 1 && verdict.reasons.front() == ReasonId(Reason::kBaselineUnapproved);
  if (verdict.trust != Trust::kTrusted && !only_odd) return OkStatus();
  const auto event = MeasuredRevocations(log);
  if (!event) return OkStatus();
  SEALIFT_ASSIGN_OR_RETURN(const auto predicted, source_.Candidates());
  const bool ours = std::ranges::any_of(*predicted, [&](const ExpectedRelease& release) {
    return std::ranges::any_of(release.registers.at(kSecureBootPcr), [&](const ExpectedValue& value) {
      return value.events.size() > kRevocationsEvent && value.events[kRevocationsEvent].digest == *event;
    });
  });
  SEALIFT_ASSIGN_OR_RETURN(const auto shown, store_.ShownBy(node));
  if (ours) return shown ? store_.Forget(node) : OkStatus();
  return shown == event ? OkStatus() : store_.Record(node, *event, now);
}

Bytes RevocationExpectations::Encoded(const std::shared_ptr<const std::vector<ExpectedRelease>>& candidates) {
  const std::lock_guard lock(mutex_);
  if (candidates != candidates_) return EncodeExpectations(*candidates);
  if (encoded_.empty()) encoded_ = EncodeExpectations(*candidates);
  return encoded_;
}

}  // namespace sealift::controller
