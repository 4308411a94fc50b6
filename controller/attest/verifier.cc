#include "controller/attest/verifier.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>

#include "controller/attest/quote_clock.h"
#include "controller/attest/revocations.h"
#include "shared/crypto/hash.h"

namespace sealift::controller {
namespace {

using tpm::Event;
using tpm::EventLog;
using tpm::PcrValues;

constexpr std::uint32_t kBootPcr = 4;
constexpr std::uint32_t kSecureBootPcr = 7;
constexpr std::uint32_t kImagePcr = 11;
// As shared/uki/pcr_prediction describes it.
constexpr std::string_view kInitrdEvent = "section .initrd";

std::string Short(ByteView digest) {
  return HexEncode(digest.first(std::min<std::size_t>(6, digest.size())));
}

ByteView DigestOf(const Event& event) { return event.digests.at(tpm::kAlgSha256); }

std::string InWords(const Event& event) {
  return fmt::format("{} ({})", tpm::DescribeEvent(event), Short(DigestOf(event)));
}
std::string InWords(const ExpectedEvent& event) {
  return fmt::format("{} ({})", event.description, Short(event.digest.view()));
}

// How many events of the log are the expected ones, in order from the first.
std::size_t CommonPrefix(const std::vector<const Event*>& found, const std::vector<ExpectedEvent>& expected) {
  std::size_t count = 0;
  while (count < found.size() && count < expected.size() &&
         std::ranges::equal(DigestOf(*found[count]), expected[count].digest.view())) {
    ++count;
  }
  return count;
}

std::string FirstDifference(const std::vector<const Event*>& found, const ExpectedValue& expected) {
  const std::size_t same = CommonPrefix(found, expected.events);
  if (same < found.size() && same < expected.events.size()) {
    return fmt::format("event {}: expected {}, found {}", same + 1, InWords(expected.events[same]),
                       InWords(*found[same]));
  }
  if (same < found.size()) return fmt::format("event {}: unexpected {}", same + 1, InWords(*found[same]));
  if (same < expected.events.size()) {
    return fmt::format("event {}: missing {}", same + 1, InWords(expected.events[same]));
  }
  return "every logged event is as expected; something was extended that is not in the log";
}

QuoteClock ClockOf(const tpm::VerifiedQuote& quote) {
  return {.clock_ms = quote.clock().clock_ms,
          .reset_count = quote.clock().reset_count,
          .restart_count = quote.clock().restart_count,
          .firmware_version = quote.firmware_version()};
}

// What one release makes of the registers.
struct Comparison {
  const ExpectedRelease* release = nullptr;
  std::map<std::uint32_t, const ExpectedValue*> matches;
  // PCR 11 fits a phase that the rule does not accept.
  const ExpectedValue* other_phase = nullptr;
  bool degraded = false;
  // PCR 7 is as predicted but for dbx, which firmware and systems renew.
  bool other_revocations = false;
  // The log has this release's initrd in the image: if nothing else fits, it is this release, changed.
  bool same_initrd = false;

  bool Matches(std::uint32_t pcr) const { return matches.contains(pcr); }
  bool All() const {
    return std::ranges::all_of(
        kJudgedPcrs, [&](std::uint32_t pcr) { return Matches(pcr) || (pcr == kBootPcr && degraded); });
  }
  bool Identified() const {
    return Matches(kImagePcr) || other_phase != nullptr || Matches(kBootPcr) || degraded || same_initrd;
  }
  // Larger fits better: the image first, then how it was started, then everything else.
  int Score() const {
    return (All() ? 1000 : 0) + (Matches(kImagePcr) ? 100 : 0) + (other_phase != nullptr ? 50 : 0) +
           (Matches(kBootPcr) || degraded ? 20 : 0) + (same_initrd ? 10 : 0) +
           static_cast<int>(matches.size());
  }
};

class Judgement {
 public:
  Judgement(const tpm::VerifiedQuote& quote, const EventLog& log, std::span<const ExpectedRelease> candidates,
            PhaseRule phases)
      : quoted_(quote.pcrs()),
        log_(log),
        replayed_(log.Replay()),
        candidates_(candidates),
        phases_(phases),
        clock_(ClockOf(quote)) {
    for (const ExpectedRelease& candidate : candidates) {
      for (const Sha256Digest& image : candidate.allowed_images) allowed_images_.insert(image);
    }
    calling_ = Sha256(AsBytes("Calling EFI Application from Boot Option"));
    returning_ = Sha256(AsBytes("Returning from EFI Application from Boot Option"));
    separator_ = Sha256(Bytes(4, 0));
  }

  // Whether the log leads to the quoted register.
  bool Explains(std::uint32_t pcr) const { return LogLeadsTo(pcr); }

  Verdict Decide(UnixMillis now) {
    Verdict verdict;
    verdict.decided = now;
    verdict.clock = clock_;
    const std::optional<Comparison> best = Best();
    for (const auto& [pcr, value] : quoted_) verdict.findings.push_back(Find(pcr, value, best));
    verdict.reasons = Reasons(best);
    if (verdict.reasons.empty()) {
      verdict.trust = Trust::kTrusted;
      verdict.degraded_boot = best->degraded;
      if (best->degraded) verdict.notes.emplace_back(ReasonId(Reason::kBootDegraded));
    } else {
      verdict.trust = RefersToUnknown(verdict.reasons) ? Trust::kUnknown : Trust::kUntrusted;
    }
    if (best.has_value() && best->Identified()) {
      verdict.release_version = best->release->version;
      verdict.release_id = best->release->id;
    }
    return verdict;
  }

 private:
  const Sha256Digest& Quoted(std::uint32_t pcr) const { return quoted_.at(pcr); }

  bool LogLeadsTo(std::uint32_t pcr) const {
    const auto replayed = replayed_.find(pcr);
    return (replayed == replayed_.end() ? Sha256Digest{} : replayed->second) == Quoted(pcr);
  }

  Comparison Compare(const ExpectedRelease& release) const {
    Comparison comparison{.release = &release};
    for (const std::uint32_t pcr : kJudgedPcrs) {
      const auto& allowed = release.registers.at(pcr);
      for (const ExpectedValue& value : allowed) {
        if (value.value != Quoted(pcr)) continue;
        if (pcr == kImagePcr && phases_ == PhaseRule::kFinalPhase && &value != &allowed.back()) {
          comparison.other_phase = &value;
        } else {
          comparison.matches.emplace(pcr, &value);
        }
      }
    }
    comparison.other_revocations =
        !comparison.Matches(kSecureBootPcr) && HasOtherRevocations(release.registers.at(kSecureBootPcr));
    comparison.degraded = !comparison.Matches(kBootPcr) && IsDegradedBoot(release);
    comparison.same_initrd = HasInitrdOf(release);
    return comparison;
  }

  // No proof: the log of this register ends before the quote. It makes a verdict worse, never better.
  bool HasInitrdOf(const ExpectedRelease& release) const {
    const auto& expected = release.registers.at(kImagePcr).back().events;
    const auto initrd = std::ranges::find(expected, kInitrdEvent, &ExpectedEvent::description);
    return initrd != expected.end() && std::ranges::any_of(log_.EventsOf(kImagePcr), [&](const Event* event) {
             return std::ranges::equal(DigestOf(*event), initrd->digest.view());
           });
  }

  // The log leads to PCR 7 and has one of `values`' events there, with another digest for dbx alone.
  bool HasOtherRevocations(const std::vector<ExpectedValue>& values) const {
    if (!LogLeadsTo(kSecureBootPcr)) return false;
    const auto events = log_.EventsOf(kSecureBootPcr);
    return std::ranges::any_of(values, [&](const ExpectedValue& value) {
      if (value.events.size() != events.size() || events.size() <= kRevocationsEvent) return false;
      for (std::size_t i = 0; i < events.size(); ++i) {
        const bool same = std::ranges::equal(DigestOf(*events[i]), value.events[i].digest.view());
        if (!same && i != kRevocationsEvent) return false;
      }
      return true;
    });
  }

  // Firmware tried several boot options, but started allowed images only, this release's last. The event
  // types are free text; the digests are not.
  bool IsDegradedBoot(const ExpectedRelease& release) const {
    if (!LogLeadsTo(kBootPcr)) return false;
    bool returned = false;
    const Sha256Digest* last_image = nullptr;
    for (const Event* event : log_.EventsOf(kBootPcr)) {
      const auto digest = Sha256Digest::FromBytes(DigestOf(*event));
      if (!digest.ok()) return false;
      if (*digest == returning_) returned = true;
      if (*digest == calling_ || *digest == returning_ || *digest == separator_) continue;
      const auto image = allowed_images_.find(*digest);
      if (image == allowed_images_.end()) return false;
      last_image = &*image;
    }
    return returned && last_image != nullptr && *last_image == release.uki;
  }

  std::optional<Comparison> Best() const {
    std::optional<Comparison> best;
    for (const ExpectedRelease& candidate : candidates_) {
      Comparison comparison = Compare(candidate);
      if (!best.has_value() || comparison.Score() > best->Score()) best = std::move(comparison);
    }
    return best;
  }

  // Firmware's registers must follow from the log; of the others the log holds the part before the OS.
  bool LogExplains(std::uint32_t pcr, const Comparison& comparison) const {
    if (pcr == kBootPcr || pcr == kSecureBootPcr) return LogLeadsTo(pcr);
    const auto match = comparison.matches.find(pcr);
    if (match == comparison.matches.end()) return true;
    const auto events = log_.EventsOf(pcr);
    return CommonPrefix(events, match->second->events) == events.size();
  }

  std::vector<std::string> Reasons(const std::optional<Comparison>& best) const {
    std::set<std::string_view> reasons;
    if (!best.has_value()) return {std::string(ReasonId(Reason::kReleaseUnknown))};
    bool log_explains = true;
    for (const std::uint32_t pcr : kJudgedPcrs) log_explains = log_explains && LogExplains(pcr, *best);
    if (!log_explains) reasons.insert(ReasonId(Reason::kEventLogMismatch));
    if (OnlyRevocationsDiffer(*best)) {
      reasons.insert(ReasonId(Reason::kBaselineUnapproved));
    } else if (!best->All()) {
      const bool unknown = !best->Identified() && best->Matches(kSecureBootPcr) && log_explains;
      reasons.insert(ReasonId(unknown ? Reason::kReleaseUnknown : Reason::kQuotePcrMismatch));
    }
    std::vector<std::string> found(reasons.begin(), reasons.end());
    if (reasons.contains(ReasonId(Reason::kQuotePcrMismatch)) && HasForeignEvent(*best)) {
      found.emplace_back(ReasonId(Reason::kEventNotAllowed));
    }
    return found;
  }

  static bool OnlyRevocationsDiffer(const Comparison& best) {
    return best.other_revocations && std::ranges::all_of(kJudgedPcrs, [&](std::uint32_t pcr) {
             return pcr == kSecureBootPcr || best.Matches(pcr) || (pcr == kBootPcr && best.degraded);
           });
  }

  // An event in a register that does not match, which the log leads to, and that no candidate has there.
  bool HasForeignEvent(const Comparison& best) const {
    return std::ranges::any_of(kJudgedPcrs, [&](std::uint32_t pcr) {
      if (best.Matches(pcr) || best.other_phase != nullptr || (pcr == kBootPcr && best.degraded))
        return false;
      return LogLeadsTo(pcr) && ForeignEvent(pcr) != nullptr;
    });
  }

  const Event* ForeignEvent(std::uint32_t pcr) const {
    for (const Event* event : log_.EventsOf(pcr)) {
      const auto digest = Sha256Digest::FromBytes(DigestOf(*event));
      if (!digest.ok() || !Allows(pcr, *digest)) return event;
    }
    return nullptr;
  }

  bool Allows(std::uint32_t pcr, const Sha256Digest& digest) const {
    if (pcr == kBootPcr && (digest == calling_ || digest == returning_ || allowed_images_.contains(digest))) {
      return true;
    }
    return std::ranges::any_of(candidates_, [&](const ExpectedRelease& release) {
      return std::ranges::any_of(release.registers.at(pcr), [&](const ExpectedValue& value) {
        return std::ranges::find(value.events, digest, &ExpectedEvent::digest) != value.events.end();
      });
    });
  }

  static bool RefersToUnknown(const std::vector<std::string>& reasons) {
    return reasons.size() == 1 && (reasons.front() == ReasonId(Reason::kReleaseUnknown) ||
                                   reasons.front() == ReasonId(Reason::kBaselineUnapproved));
  }

  PcrFinding Find(std::uint32_t pcr, const Sha256Digest& value, const std::optional<Comparison>& best) const {
    PcrFinding finding{
        .pcr = pcr, .outcome = "unpredicted", .expected = {}, .found = value, .first_difference = ""};
    const bool judged = std::ranges::find(kJudgedPcrs, pcr) != kJudgedPcrs.end();
    if (!judged || !best.has_value()) return finding;
    const auto& allowed = best->release->registers.at(pcr);
    const bool final_only = pcr == kImagePcr && phases_ == PhaseRule::kFinalPhase;
    for (const ExpectedValue& one : allowed) {
      if (!final_only || &one == &allowed.back()) finding.expected.push_back(one.value);
    }
    const bool degraded = pcr == kBootPcr && best->degraded;
    finding.outcome = best->Matches(pcr) || degraded ? "match" : "mismatch";
    if (degraded) finding.first_difference = DegradedText();
    if (finding.outcome == "mismatch") finding.first_difference = DifferenceText(pcr, *best);
    if (pcr == kSecureBootPcr && OnlyRevocationsDiffer(*best)) finding.outcome = "unknown";
    if (finding.outcome == "match" && !LogExplains(pcr, *best)) {
      finding.first_difference = "the event log tells another story than the register";
    }
    return finding;
  }

  std::string DegradedText() const {
    return fmt::format("firmware tried more than one boot option: {} events, all of allowed images",
                       log_.EventsOf(kBootPcr).size());
  }

  std::string DifferenceText(std::uint32_t pcr, const Comparison& best) const {
    const auto& allowed = best.release->registers.at(pcr);
    if (pcr == kImagePcr && best.other_phase != nullptr) {
      return fmt::format("the machine is at {} instead of {}", best.other_phase->label, allowed.back().label);
    }
    if ((pcr == kBootPcr || pcr == kSecureBootPcr) && !LogLeadsTo(pcr)) {
      const auto replayed = replayed_.find(pcr);
      return fmt::format("the event log leads to {}, not to the quoted value",
                         replayed == replayed_.end() ? "zeros" : Short(replayed->second.view()));
    }
    const auto events = log_.EventsOf(pcr);
    const auto closest = std::ranges::max_element(
        allowed, {}, [&](const ExpectedValue& value) { return CommonPrefix(events, value.events); });
    // The log of a running machine ends before the OS: if all of it fits, what followed does not.
    if (pcr == kImagePcr && !events.empty() && CommonPrefix(events, closest->events) == events.size()) {
      return fmt::format("the image is as expected; what the system extended after event {} is not",
                         events.size());
    }
    const std::string difference = FirstDifference(events, *closest);
    const Event* const foreign = LogLeadsTo(pcr) ? ForeignEvent(pcr) : nullptr;
    const std::string named = foreign == nullptr ? "" : InWords(*foreign);
    if (named.empty() || difference.find(named) != std::string::npos) return difference;
    return fmt::format("{}; not allowed in this register: {}", difference, named);
  }

  const PcrValues& quoted_;
  const EventLog& log_;
  const PcrValues replayed_;
  const std::span<const ExpectedRelease> candidates_;
  const PhaseRule phases_;
  const QuoteClock clock_;
  std::set<Sha256Digest> allowed_images_;
  Sha256Digest calling_, returning_, separator_;
};

}  // namespace

Verdict Judge(const tpm::VerifiedQuote& quote, const tpm::EventLog& log,
              std::span<const ExpectedRelease> candidates, PhaseRule phases, UnixMillis now) {
  for (const std::uint32_t pcr : kJudgedPcrs) SEALIFT_CHECK(quote.pcrs().contains(pcr));
  return Judgement(quote, log, candidates, phases).Decide(now);
}

Result<JudgedMachine> ExamineEvidence(const Evidence& evidence, const tpm::PublicArea& attestation_key,
                                      ByteView nonce, std::span<const ExpectedRelease> candidates,
                                      PhaseRule phases, UnixMillis now) {
  SEALIFT_ASSIGN_OR_RETURN(const tpm::VerifiedQuote quote,
                           tpm::VerifyQuote(evidence.quote, attestation_key, nonce, kJudgedPcrs));
  auto log = tpm::EventLog::Parse(evidence.event_log);
  JudgedMachine judged;
  if (!log.ok()) {
    judged.verdict = RefusedEvidence(log.status(), now);
    judged.verdict.clock = ClockOf(quote);
    return judged;
  }
  Judgement judgement(quote, *log, candidates, phases);
  judged.verdict = judgement.Decide(now);
  FirmwareMeasurement firmware{.registers = {}, .explained = {}, .log = *std::move(log)};
  for (const std::uint32_t pcr : kFirmwarePcrs) {
    const auto quoted = quote.pcrs().find(pcr);
    if (quoted == quote.pcrs().end()) continue;
    firmware.registers.insert(*quoted);
    if (judgement.Explains(pcr)) firmware.explained.insert(pcr);
  }
  judged.firmware = std::move(firmware);
  return judged;
}

Result<Verdict> JudgeEvidence(const Evidence& evidence, const tpm::PublicArea& attestation_key,
                              ByteView nonce, std::span<const ExpectedRelease> candidates, PhaseRule phases,
                              UnixMillis now) {
  SEALIFT_ASSIGN_OR_RETURN(JudgedMachine judged,
                           ExamineEvidence(evidence, attestation_key, nonce, candidates, phases, now));
  return std::move(judged.verdict);
}

JudgedMachine ExamineMachine(const Evidence& evidence, const tpm::PublicArea& attestation_key, ByteView nonce,
                             std::span<const ExpectedRelease> candidates, PhaseRule phases,
                             const std::optional<QuoteClock>& before, UnixMillis now) {
  auto examined = ExamineEvidence(evidence, attestation_key, nonce, candidates, phases, now);
  JudgedMachine judged;
  if (examined.ok()) {
    judged = *std::move(examined);
  } else {
    judged.verdict = RefusedEvidence(examined.status(), now);
  }
  Verdict& verdict = judged.verdict;
  const std::optional<QuoteClock> quoted = verdict.clock;
  if (!quoted) verdict.clock = before;
  if (!quoted || !before) return judged;
  if (RunsBackwards(*quoted, *before)) {
    verdict.trust = Trust::kUntrusted;
    verdict.reasons.emplace_back(ReasonId(Reason::kQuoteClockBackwards));
    verdict.clock = before;
  } else if (quoted->firmware_version != before->firmware_version) {
    verdict.notes.emplace_back(ReasonId(Reason::kFirmwareChanged));
  }
  return judged;
}

Verdict JudgeMachine(const Evidence& evidence, const tpm::PublicArea& attestation_key, ByteView nonce,
                     std::span<const ExpectedRelease> candidates, PhaseRule phases,
                     const std::optional<QuoteClock>& before, UnixMillis now) {
  return ExamineMachine(evidence, attestation_key, nonce, candidates, phases, before, now).verdict;
}

Verdict RefusedEvidence(const Status& error, UnixMillis now) {
  Verdict verdict;
  verdict.trust = Trust::kUntrusted;
  verdict.reasons = {ReasonIdOf(error)};
  verdict.decided = now;
  return verdict;
}

}  // namespace sealift::controller
