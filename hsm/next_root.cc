#include "hsm/next_root.h"

#include <fmt/format.h>

#include <algorithm>

#include "shared/base/files.h"

namespace sealift::hsm {
namespace {

Result<tuf::Root> Follow(const std::filesystem::path& folder) {
  std::optional<tuf::Root> present;
  for (std::uint32_t version = 1; version < tuf::kMaxVersion; ++version) {
    const auto text = ReadTextFile(folder / fmt::format("{}.root.json", version), tuf::kMaxRootBytes);
    if (text.status().code() == Code::kNotFound && present.has_value()) break;
    if (!text.ok()) return text.status();
    SEALIFT_ASSIGN_OR_RETURN(const tuf::Envelope envelope, tuf::ParseEnvelope(*text, tuf::kMaxRootBytes));
    SEALIFT_ASSIGN_OR_RETURN(tuf::Root next, tuf::ParseRoot(envelope));
    if (present.has_value()) {
      SEALIFT_RETURN_IF_ERROR(tuf::VerifyThreshold(envelope, *present, tuf::Role::kRoot));
    }
    SEALIFT_RETURN_IF_ERROR(tuf::VerifyThreshold(envelope, next, tuf::Role::kRoot));
    if (next.version != version) {
      return MakeError(Code::kFailedPrecondition, Reason::kKeySetInvalid,
                       fmt::format("it says version {}, its name {}", next.version, version));
    }
    present = std::move(next);
  }
  return *std::move(present);
}

bool Lists(const tuf::Root& root, const std::string& key_id) {
  const auto& ids = root.roles.at(tuf::Role::kRoot).key_ids;
  return std::ranges::find(ids, key_id) != ids.end();
}

}  // namespace

Result<tuf::Root> PresentRoot(const std::filesystem::path& folder) {
  Result<tuf::Root> present = Follow(folder);
  if (present.ok()) return present;
  return MakeError(Code::kFailedPrecondition, Reason::kKeySetInvalid,
                   fmt::format("read TUF roots in '{}': {}", folder.string(), MessageOf(present.status())));
}

Result<NextRoot> MakeNextRoot(const std::filesystem::path& folder,
                              const std::map<tuf::Role, PublicKey>& added, UnixMillis expires,
                              const std::vector<std::shared_ptr<Signer>>& signers) {
  SEALIFT_ASSIGN_OR_RETURN(const tuf::Root present, PresentRoot(folder));
  tuf::Root next = present;
  ++next.version;
  next.expires = std::max(present.expires, expires);
  for (const auto& [role, public_key] : added) {
    tuf::Key key = tuf::Key::FromPublicKey(public_key);
    std::vector<std::string>& ids = next.roles.at(role).key_ids;
    if (std::ranges::find(ids, key.id) == ids.end()) ids.push_back(key.id);
    next.keys.insert_or_assign(key.id, std::move(key));
  }
  tuf::Envelope envelope = tuf::MakeEnvelope(next);
  for (const std::shared_ptr<Signer>& signer : signers) {
    const std::string id = tuf::Key::FromPublicKey(signer->public_key()).id;
    if (!Lists(present, id) && !Lists(next, id)) continue;
    SEALIFT_RETURN_IF_ERROR(
        tuf::SignMetadata(tuf::Role::kRoot, envelope, *signer, fmt::format("version {}", next.version)));
  }
  SEALIFT_RETURN_IF_ERROR(tuf::VerifyThreshold(envelope, present, tuf::Role::kRoot));
  SEALIFT_RETURN_IF_ERROR(tuf::VerifyThreshold(envelope, next, tuf::Role::kRoot));
  return NextRoot{.version = next.version, .json = envelope.Serialize()};
}

}  // namespace sealift::hsm
