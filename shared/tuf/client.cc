#include "shared/tuf/client.h"

#include <fmt/format.h>

#include <algorithm>

#include "shared/tuf/cycle.h"

namespace sealift::tuf {
namespace {

Status NoKnownDigest(std::string_view target_path) {
  return MakeError(Code::kNotFound, Reason::kTufTargetUnknown,
                   fmt::format("find target '{}': the metadata lists no SHA-256 of it", target_path));
}

}  // namespace

Result<Target> VerifiedTargets::Find(std::string_view name) const {
  const auto found = targets_.targets.find(std::string(name));
  if (found != targets_.targets.end()) {
    if (found->second.foreign_digests) return NoKnownDigest(name);
    return found->second;
  }
  return MakeError(
      Code::kNotFound, Reason::kTufTargetUnknown,
      fmt::format("find target '{}': targets version {} do not list it", name, targets_.version));
}

TufClient::TufClient(std::string trusted_root, MetadataSource& source, TrustedMetadataStore& store,
                     const Clock& clock, TufClientOptions options)
    : trusted_root_(std::move(trusted_root)),
      source_(source),
      store_(store),
      clock_(clock),
      options_(options) {}

Status TufClient::Run(Cycle& cycle) const {
  SEALIFT_RETURN_IF_ERROR(cycle.LoadRoot(trusted_root_));
  SEALIFT_RETURN_IF_ERROR(cycle.UpdateRoot());
  SEALIFT_RETURN_IF_ERROR(cycle.UpdateTimestamp());
  SEALIFT_RETURN_IF_ERROR(cycle.UpdateSnapshot());
  return cycle.UpdateTargets();
}

Result<FoundTarget> TufClient::Find(std::string_view target_path) {
  Cycle cycle(source_, store_, clock_.Now(), options_);
  SEALIFT_RETURN_IF_ERROR(Run(cycle));
  SEALIFT_ASSIGN_OR_RETURN(const Target target, cycle.Search(target_path));
  if (target.foreign_digests) return NoKnownDigest(target_path);
  return FoundTarget{.target = target, .consistent_snapshot = cycle.root.consistent_snapshot};
}

Result<VerifiedTargets> TufClient::Refresh() {
  Cycle cycle(source_, store_, clock_.Now(), options_);  // 5.1
  SEALIFT_RETURN_IF_ERROR(Run(cycle));
  const UnixMillis expires = std::min(
      {cycle.root.expires, cycle.timestamp->expires, cycle.snapshot->expires, cycle.targets->expires});
  return VerifiedTargets(*std::move(cycle.targets), *std::move(cycle.timestamp), cycle.snapshot->version,
                         cycle.root.version, expires);
}

UnixMillis TufClient::ProvenTime() {
  Cycle cycle(source_, store_, clock_.Now(), options_);
  if (!cycle.LoadRoot(trusted_root_).ok()) return {};
  return cycle.StoredTime().value_or(UnixMillis{});
}

}  // namespace sealift::tuf
