#include "shared/base/status.h"

#include <absl/strings/cord.h>
#include <fmt/format.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <system_error>

namespace sealift {
namespace {

constexpr char kReasonUrl[] = "sealift/reason";
constexpr char kNativeUrl[] = "sealift/native";

struct ReasonRow {
  std::string_view id;
  std::string_view advice;
};

constexpr auto kReasons = std::to_array<ReasonRow>({
#define SEALIFT_REASON(name, id, advice) {id, advice},
#include "shared/base/reasons.inc"
#undef SEALIFT_REASON
});

Status WithReason(Code code, std::string_view reason_id, std::string_view message) {
  Status status(code, {message.data(), message.size()});
  status.SetPayload(kReasonUrl, absl::Cord(absl::string_view(reason_id.data(), reason_id.size())));
  return status;
}

}  // namespace

std::string_view ReasonId(Reason reason) { return kReasons.at(static_cast<std::size_t>(reason)).id; }
std::string_view ReasonAdvice(Reason reason) { return kReasons.at(static_cast<std::size_t>(reason)).advice; }

Reason ReasonFromId(std::string_view id) {
  for (std::size_t i = 0; i < kReasons.size(); ++i) {
    if (kReasons.at(i).id == id) return static_cast<Reason>(i);
  }
  return Reason::kInternal;
}

std::vector<Reason> AllReasons() {
  std::vector<Reason> all;
  for (std::size_t i = 0; i < kReasons.size(); ++i) all.push_back(static_cast<Reason>(i));
  return all;
}

Status MakeError(Code code, Reason reason, std::string_view message) {
  return WithReason(code, ReasonId(reason), message);
}

Status MakeError(Code code, Reason reason, std::string_view message, const NativeError& native) {
  Status status =
      WithReason(code, ReasonId(reason),
                 fmt::format("{} ({}: {} {:#x})", message, native.call, native.name, native.code));
  status.SetPayload(kNativeUrl, absl::Cord(fmt::format("{} {:#x}", native.call, native.code)));
  return status;
}

Status ErrnoError(Code code, Reason reason, std::string_view message, std::string_view call,
                  int error_number) {
  if (error_number == ENOSPC) {
    code = Code::kResourceExhausted;
    reason = Reason::kDiskFull;
  }
  return MakeError(code, reason, message,
                   NativeError{.call = std::string(call),
                               .code = static_cast<std::uint64_t>(error_number),
                               .name = std::system_category().message(error_number)});
}

std::string ReasonIdOf(const Status& status) {
  if (status.ok()) return std::string(ReasonId(Reason::kNone));
  const auto payload = status.GetPayload(kReasonUrl);
  if (!payload.has_value()) return std::string(ReasonId(Reason::kInternal));
  return std::string(*payload);
}

Reason ReasonOf(const Status& status) { return ReasonFromId(ReasonIdOf(status)); }

std::string MessageOf(const Status& status) {
  return std::string(status.message().data(), status.message().size());
}

Status Annotate(const Status& status, std::string_view context) {
  if (status.ok()) return status;
  Status annotated(status.code(), fmt::format("{}: {}", context, MessageOf(status)));
  status.ForEachPayload(
      [&](absl::string_view url, const absl::Cord& payload) { annotated.SetPayload(url, payload); });
  return annotated;
}

Status FromWire(Code code, std::string_view reason_id, std::string_view message) {
  return WithReason(code, reason_id, message);
}

std::string Describe(const Status& status) {
  if (status.ok()) return "OK";
  return fmt::format("{}: {}", ReasonIdOf(status), MessageOf(status));
}

void CheckFailed(const char* expression, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: check failed: %s\n", file, line, expression);
  std::abort();
}

}  // namespace sealift
