// The endorsement key, opened for use. Included by esys_*.cc only; called with the device's mutex held.
#pragma once

#include "node-agent/tpm/esys_support.h"

namespace sealift::agent {

// TCG EK Credential Profile 2.5, 2.2.1.4 and 2.2.1.5: where the certificate of each kind of key lies.
struct EndorsementKind {
  TPM2_HANDLE certificate;
  TPM2B_PUBLIC (*make_template)();
  bool high_range;
};

struct EndorsementHandle {
  Transient object;
  // TPM2B_PUBLIC.
  Bytes public_area;
  const EndorsementKind* kind = nullptr;
};

// The key that ReadEndorsementKey tells of. May take seconds.
Result<EndorsementHandle> OpenEndorsementKey(ESYS_CONTEXT* context);
// A session that satisfies the key's policy, for one command.
Result<Transient> EndorsementPolicySession(ESYS_CONTEXT* context, const EndorsementKind& kind);

}  // namespace sealift::agent
