// Reading EFI variables, as a seam: efivarfs on a node, a map in tests (tests/contract/map_efi_variables.h).
//
// Thread-safe. Reads only: nothing the agent does needs to write one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "shared/base/bytes.h"
#include "shared/base/status.h"

namespace sealift::agent {

// Vendor GUIDs in the text form that efivarfs uses.
inline constexpr std::string_view kGlobalVendor = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
inline constexpr std::string_view kImageSecurityVendor = "d719b2cb-3d3a-4596-a3bc-dad00e67656f";
inline constexpr std::string_view kLoaderVendor = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

class EfiVariables {
 public:
  virtual ~EfiVariables() = default;
  // The value without its attributes. nullopt where firmware has no such variable.
  // Errors: UNAVAILABLE/FIRMWARE_VARIABLE_UNREADABLE.
  virtual Result<std::optional<Bytes>> Read(std::string_view name, std::string_view vendor) = 0;

  // A UTF-16 string of the boot loader, without its terminator; empty where there is none.
  Result<std::string> ReadText(std::string_view name, std::string_view vendor);
  // A one-byte flag such as SecureBoot; false where there is none.
  Result<bool> ReadFlag(std::string_view name, std::string_view vendor);
};

class EfivarfsVariables final : public EfiVariables {
 public:
  explicit EfivarfsVariables(std::filesystem::path mount = "/sys/firmware/efi/efivars")
      : mount_(std::move(mount)) {}
  Result<std::optional<Bytes>> Read(std::string_view name, std::string_view vendor) override;

 private:
  std::filesystem::path mount_;
};

}  // namespace sealift::agent
