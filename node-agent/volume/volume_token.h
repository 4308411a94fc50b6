// The tokens in a volume's LUKS2 header: JSON of ours, foreign bytes until the volume has proven itself.
//
// Thread-safe functions over plain values. Bounded by the header itself (12 KiB).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "node-agent/tpm/vault.h"
#include "shared/base/status.h"
#include "shared/escrow/escrow.h"

namespace sealift::agent {

inline constexpr std::string_view kSealedTokenType = "sealift";
inline constexpr std::string_view kRecoveryTokenType = "sealift-recovery";

// Binds one slot to the TPM.
struct SealedToken {
  std::uint32_t slot = 0;
  std::string volume;
  SealPolicy policy;
  SealedObject object;
  // VolumeTag, under the object's secret.
  Sha256Digest tag;
};

struct RecoveryToken {
  std::uint32_t slot = 0;
  escrow::EscrowedKey escrowed;
  // Id of the order that asked for it; empty for the one made with the volume. At most 64 of [a-z0-9-].
  std::string order;
  // RecoveryTag, under the volume's secret: whoever has the disk alone can write a token, but not this.
  Sha256Digest tag;
};

// What RecoveryToken::order may be.
bool IsOrderId(std::string_view text);

std::string FormatSealedToken(const SealedToken& token);
// Errors: INVALID_ARGUMENT/VOLUME_FOREIGN.
Result<SealedToken> ParseSealedToken(std::string_view json);

std::string FormatRecoveryToken(const RecoveryToken& token);
// Errors: INVALID_ARGUMENT/VOLUME_FOREIGN; those of escrow::Parse.
Result<RecoveryToken> ParseRecoveryToken(std::string_view json);

}  // namespace sealift::agent
