#include "node-agent/esp/staging.h"

namespace sealift::agent {

std::string_view BootRoleName(BootRole role) {
  switch (role) {
    case BootRole::kUnknown:
      return "unknown";
    case BootRole::kActive:
      return "active";
    case BootRole::kPassive:
      return "passive";
    case BootRole::kRecovery:
      return "recovery";
    case BootRole::kMedia:
      return "media";
  }
  return "unknown";
}

const RoleEntry* BootInventory::Trial() const {
  for (const RoleEntry& entry : entries) {
    if (entry.role == BootRole::kActive && entry.on_trial()) return &entry;
  }
  return nullptr;
}

VerifiedImage Stager::VouchForImage(ImageFacts facts) {
  VerifiedImage image;
  image.file_ = std::move(facts.file);
  image.version_ = std::move(facts.version);
  image.digest_ = facts.digest;
  image.size_ = facts.size;
  image.authenticode_ = facts.authenticode;
  image.signer_ = facts.signer;
  image.pcr_key_ = facts.pcr_key;
  image.companions_ = std::move(facts.companions);
  image.boot_loader_ = std::move(facts.boot_loader);
  return image;
}

StagedImage Stager::VouchForStaged(std::string version, const Sha256Digest& digest, std::string image_path,
                                   std::optional<Sha256Digest> boot_loader) {
  StagedImage staged;
  staged.version_ = std::move(version);
  staged.digest_ = digest;
  staged.image_path_ = std::move(image_path);
  staged.boot_loader_ = boot_loader;
  return staged;
}

}  // namespace sealift::agent
