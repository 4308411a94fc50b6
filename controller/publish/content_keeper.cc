#include "controller/publish/content_keeper.h"

#include <fmt/format.h>

#include "shared/base/files.h"
#include "shared/base/log.h"
#include "shared/crypto/hash.h"

namespace sealift::controller {
namespace {

namespace fs = std::filesystem;

Status Damaged(std::string_view name, std::string_view cause) {
  return MakeError(Code::kDataLoss, Reason::kRepositoryDamaged,
                   fmt::format("read published metadata '{}': {}", name, cause));
}

Result<tuf::Envelope> ReadListed(const fs::path& directory, const tuf::MetaFile& listed,
                                 std::string_view role, std::size_t max_bytes) {
  const std::string name = fmt::format("{}.{}.json", listed.version, role);
  const Result<std::string> text = ReadTextFile(directory / name, max_bytes);
  if (!text.ok()) return Damaged(name, Describe(text.status()));
  if (listed.sha256 != Sha256(AsBytes(*text))) return Damaged(name, "it is not the file that is listed");
  Result<tuf::Envelope> envelope = tuf::ParseEnvelope(*text, max_bytes);
  if (!envelope.ok()) return Damaged(name, Describe(envelope.status()));
  return envelope;
}

}  // namespace

Result<tuf::Targets> ServedTargets(const fs::path& directory) {
  const Result<std::string> text = ReadTextFile(directory / "timestamp.json", tuf::kMaxTimestampBytes);
  if (text.status().code() == Code::kNotFound) {
    return MakeError(Code::kNotFound, Reason::kRepositoryEmpty,
                     fmt::format("read published metadata in '{}': there is none yet", directory.string()));
  }
  SEALIFT_RETURN_IF_ERROR(text.status());
  SEALIFT_ASSIGN_OR_RETURN(const tuf::Envelope first, tuf::ParseEnvelope(*text, tuf::kMaxTimestampBytes));
  SEALIFT_ASSIGN_OR_RETURN(const tuf::Timestamp timestamp, tuf::ParseTimestamp(first));
  SEALIFT_ASSIGN_OR_RETURN(const tuf::Envelope second,
                           ReadListed(directory, timestamp.snapshot, "snapshot", tuf::kMaxSnapshotBytes));
  SEALIFT_ASSIGN_OR_RETURN(const tuf::Snapshot snapshot, tuf::ParseSnapshot(second));
  const auto listed = snapshot.meta.find("targets.json");
  if (listed == snapshot.meta.end()) return Damaged("snapshot", "it lists no targets");
  SEALIFT_ASSIGN_OR_RETURN(const tuf::Envelope third,
                           ReadListed(directory, listed->second, "targets", tuf::kMaxTargetsBytes));
  return tuf::ParseTargets(third);
}

Result<Collected> ContentKeeper::Collect(bool dry_run) {
  const std::lock_guard lock(collecting_);
  SEALIFT_ASSIGN_OR_RETURN(tuf::Targets targets, ServedTargets(metadata_directory_));
  SEALIFT_ASSIGN_OR_RETURN(const auto reachable, ReachableContent({std::move(targets)}, store_));
  SEALIFT_ASSIGN_OR_RETURN(const Collected collected,
                           CollectContent(content_directory_, reachable, grace_, dry_run));
  log::Info("collected content", {{"bytes", std::to_string(collected.bytes)},
                                  {"state", fmt::format("{} objects{}, {} kept for now", collected.objects,
                                                        dry_run ? " would go" : "", collected.kept)}});
  return collected;
}

}  // namespace sealift::controller
