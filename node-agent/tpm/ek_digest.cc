#include "node-agent/tpm/ek_digest.h"

#include "shared/tpm/structures.h"

namespace sealift::agent {

Result<Sha256Digest> EndorsementKeyDigest(Tpm& tpm) {
  SEALIFT_ASSIGN_OR_RETURN(const EndorsementKey key, tpm.ReadEndorsementKey());
  SEALIFT_ASSIGN_OR_RETURN(const tpm::PublicArea area, tpm::ParsePublic(key.public_area));
  return area.key.key_id();
}

}  // namespace sealift::agent
