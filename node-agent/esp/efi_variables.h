// EFI variables, as a seam: efivarfs on a node, a map in tests (tests/contract/map_efi_variables.h). Both
// pass tests/contract/efi_variables_contract.h.
//
// Thread-safe for one variable at a time per thread.
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

// UEFI 2.10 section 8.2: non-volatile, boot and runtime access. What boot options and loader settings have.
inline constexpr std::uint32_t kPlainVariable = 0x07;

class EfiVariables {
 public:
  virtual ~EfiVariables() = default;
  // The value without its attributes. nullopt where firmware has no such variable.
  // Errors: UNAVAILABLE/FIRMWARE_VARIABLE_UNREADABLE.
  virtual Result<std::optional<Bytes>> Read(std::string_view name, std::string_view vendor) = 0;
  // Creates or replaces the variable in one call of the firmware. For authenticated variables `value` is the
  // whole .auth file and what Read gives afterwards is its payload. Durable when it returns, as far as
  // firmware keeps its word: read back what matters. Errors: FAILED_PRECONDITION/FIRMWARE_REFUSED (the
  // firmware said no: signature, space, write protection); UNAVAILABLE/FIRMWARE_VARIABLE_UNREADABLE where
  // there are no variables at all.
  virtual Status Write(std::string_view name, std::string_view vendor, std::uint32_t attributes,
                       ByteView value) = 0;
  // Success where there is none. Errors: as Write.
  virtual Status Remove(std::string_view name, std::string_view vendor) = 0;

  // Writes a UTF-16 string with its terminator, as the boot loader expects. Errors: as Write.
  Status WriteText(std::string_view name, std::string_view vendor, std::string_view text);
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
  Status Write(std::string_view name, std::string_view vendor, std::uint32_t attributes,
               ByteView value) override;
  Status Remove(std::string_view name, std::string_view vendor) override;

 private:
  std::filesystem::path PathOf(std::string_view name, std::string_view vendor) const;
  Status RequireMounted(std::string_view doing, std::string_view name) const;

  std::filesystem::path mount_;
};

}  // namespace sealift::agent
