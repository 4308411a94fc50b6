// The variable store of EDK2 firmware as it lies in flash: an "OVMF_VARS.fd" file, from which the
// certificates that a distribution enrols can be taken. Format: MdeModulePkg/Include/Guid/VariableFormat.h of
// EDK2, authenticated variables, inside one firmware volume (PI 1.7 volume 3 section 3.2.1).
//
// Plain values; thread-safe function over foreign bytes.
#pragma once

#include <string>
#include <vector>

#include "shared/efi/guid.h"

namespace sealift::efi {

struct StoredVariable {
  std::string name;
  Guid vendor;
  std::uint32_t attributes = 0;
  Bytes data;
};

// Largest file that is looked at; OVMF's are below 1 MiB.
inline constexpr std::size_t kMaxVariableStoreBytes = 16u << 20;

// Variables that are in force, in the order of the store; deleted and half-written ones are passed over.
// Errors: INVALID_ARGUMENT/MALFORMED: not such a file, or sizes in it that contradict each other.
Result<std::vector<StoredVariable>> ParseVariableStore(ByteView file);

}  // namespace sealift::efi
