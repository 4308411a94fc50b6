// How controller, orders and escrowed keys name a machine.
#pragma once

#include "node-agent/tpm/tpm.h"

namespace sealift::agent {

// SHA-256 of the endorsement key's SubjectPublicKeyInfo. Errors: those of ReadEndorsementKey and ParsePublic.
Result<Sha256Digest> EndorsementKeyDigest(Tpm& tpm);

}  // namespace sealift::agent
