// DSSE envelopes: a payload, its type, and signatures over both.
//
// https://github.com/secure-systems-lab/dsse, protocol version 1.0.2: what is signed is PAE(type, payload),
// so bytes of one type never pass for another. One JSON object; thread-safe functions over plain values.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/status.h"
#include "shared/crypto/public_key.h"
#include "shared/crypto/signer.h"

namespace sealift::order {

inline constexpr std::size_t kMaxEnvelopeBytes = 64 * 1024;

struct DsseSignature {
  // A hint, never believed: hex of the key id (SHA-256 of the SubjectPublicKeyInfo).
  std::string key_id;
  Bytes signature;
  bool operator==(const DsseSignature&) const = default;
};

struct DsseEnvelope {
  std::string payload_type;
  Bytes payload;
  std::vector<DsseSignature> signatures;
  bool operator==(const DsseEnvelope&) const = default;
};

// "DSSEv1" SP LEN(type) SP type SP LEN(payload) SP payload.
Bytes PreAuthenticationEncoding(std::string_view payload_type, ByteView payload);

std::string FormatEnvelope(const DsseEnvelope& envelope);
// At most kMaxEnvelopeBytes and 8 signatures. Errors: INVALID_ARGUMENT/ORDER_MALFORMED.
Result<DsseEnvelope> ParseEnvelope(std::string_view json);

// One signature, by the signer's default scheme. Errors: those of the signer.
Result<DsseEnvelope> SignEnvelope(Signer& signer, std::string payload_type, Bytes payload,
                                  std::string intent);

// Accepts when one of the signatures is by one of `keys` and the type is `payload_type`. Errors:
// INVALID_ARGUMENT/ORDER_MALFORMED for another type; UNAUTHENTICATED/ORDER_SIGNATURE_INVALID.
Status VerifyEnvelope(const DsseEnvelope& envelope, std::string_view payload_type,
                      std::span<const PublicKey> keys);

}  // namespace sealift::order
