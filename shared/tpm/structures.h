// TPM 2.0 structures as bytes: public areas, attestation structures, signatures.
//
// Pure functions over plain values, thread-safe. Every parser is bounded by its input, and refuses bytes
// after the structure. Big-endian, as TPM 2.0 Library Part 2 (revision 1.59) has them; sections are named at
// each.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/status.h"
#include "shared/crypto/openssl.h"
#include "shared/crypto/public_key.h"

namespace sealift::tpm {

// TPM_ALG_ID (6.3), as far as anything here understands it.
inline constexpr std::uint16_t kAlgRsa = 0x0001;
inline constexpr std::uint16_t kAlgSha1 = 0x0004;
inline constexpr std::uint16_t kAlgAes = 0x0006;
inline constexpr std::uint16_t kAlgSha256 = 0x000B;
inline constexpr std::uint16_t kAlgSha384 = 0x000C;
inline constexpr std::uint16_t kAlgSha512 = 0x000D;
inline constexpr std::uint16_t kAlgNull = 0x0010;
inline constexpr std::uint16_t kAlgSm3 = 0x0012;
inline constexpr std::uint16_t kAlgRsaSsa = 0x0014;
inline constexpr std::uint16_t kAlgRsaEs = 0x0015;
inline constexpr std::uint16_t kAlgRsaPss = 0x0016;
inline constexpr std::uint16_t kAlgEcdsa = 0x0018;
inline constexpr std::uint16_t kAlgEcdaa = 0x001A;
inline constexpr std::uint16_t kAlgEcc = 0x0023;
inline constexpr std::uint16_t kAlgSha3_256 = 0x0027;
inline constexpr std::uint16_t kAlgSha3_384 = 0x0028;
inline constexpr std::uint16_t kAlgSha3_512 = 0x0029;
inline constexpr std::uint16_t kAlgCfb = 0x0043;

// TPMA_OBJECT (8.3).
inline constexpr std::uint32_t kAttrFixedTpm = 1u << 1;
inline constexpr std::uint32_t kAttrStClear = 1u << 2;
inline constexpr std::uint32_t kAttrFixedParent = 1u << 4;
inline constexpr std::uint32_t kAttrSensitiveDataOrigin = 1u << 5;
inline constexpr std::uint32_t kAttrUserWithAuth = 1u << 6;
inline constexpr std::uint32_t kAttrAdminWithPolicy = 1u << 7;
inline constexpr std::uint32_t kAttrNoDa = 1u << 10;
inline constexpr std::uint32_t kAttrRestricted = 1u << 16;
inline constexpr std::uint32_t kAttrDecrypt = 1u << 17;
inline constexpr std::uint32_t kAttrSign = 1u << 18;

// TPM_GENERATED_VALUE and the attestation types (6.9).
inline constexpr std::uint32_t kGeneratedValue = 0xFF544347;
inline constexpr std::uint16_t kStAttestNv = 0x8014;
inline constexpr std::uint16_t kStAttestCertify = 0x8017;
inline constexpr std::uint16_t kStAttestQuote = 0x8018;

// "sha256", "sm3_256", or "0x0099" for what has no name here.
std::string AlgorithmName(std::uint16_t algorithm);
// The hash of that name; kAlgNull when there is none.
std::uint16_t HashNamed(std::string_view name);
// 0 for what is no hash known here.
std::size_t DigestSize(std::uint16_t hash_algorithm);

// A key's public area (TPMT_PUBLIC, 12.2.4): an RSA or ECC key and what its TPM lets it do.
struct PublicArea {
  std::uint16_t type = kAlgNull;
  std::uint16_t name_algorithm = kAlgNull;
  std::uint32_t attributes = 0;
  Bytes policy;
  // Of a storage key, else kAlgNull.
  std::uint16_t symmetric = kAlgNull;
  std::uint16_t symmetric_bits = 0;
  std::uint16_t symmetric_mode = kAlgNull;
  std::uint16_t scheme = kAlgNull;
  std::uint16_t scheme_hash = kAlgNull;
  PublicKey key;
  // nameAlg || H_nameAlg(TPMT_PUBLIC): what certifications and credentials name (Part 1, 16).
  Bytes name;

  bool Has(std::uint32_t all_of) const { return (attributes & all_of) == all_of; }
  bool HasAny(std::uint32_t any_of) const { return (attributes & any_of) != 0; }
};

// TPM2B_PUBLIC (12.2.5). Errors: INVALID_ARGUMENT/TPM_KEY_MALFORMED, also for key types and sizes outside
// PublicKey's.
Result<PublicArea> ParsePublic(ByteView tpm2b_public);
// The same without the leading size.
Result<PublicArea> ParsePublicArea(ByteView tpmt_public);
// The bare key of TPMT_PUBLIC, TPM2B_PUBLIC or a PEM public key: for looking at what others made, so also
// with P-521, RSA from 1024 bits, any name algorithm. Nothing is said about what its TPM lets it do. Errors:
// INVALID_ARGUMENT/TPM_KEY_MALFORMED.
Result<EvpPkeyPtr> ReadVerificationKey(ByteView file);

// TPMS_CLOCK_INFO (10.11.1). A reboot raises reset_count; TPM2_Clear sets it back.
struct ClockInfo {
  std::uint64_t clock_ms = 0;
  std::uint32_t reset_count = 0;
  std::uint32_t restart_count = 0;
  bool safe = false;
};

// One bank's part of TPML_PCR_SELECTION (10.9.7), ascending.
struct PcrSelection {
  std::uint16_t hash = kAlgNull;
  std::vector<std::uint32_t> pcrs;
  bool operator==(const PcrSelection&) const = default;
};

struct QuoteInfo {
  std::vector<PcrSelection> selections;
  Bytes pcr_digest;
};

struct CertifyInfo {
  Bytes name;
  Bytes qualified_name;
};

// Of TPM2_NV_Certify.
struct NvInfo {
  Bytes index_name;
  std::uint16_t offset = 0;
  Bytes contents;
};

// TPMS_ATTEST (10.12.12) of a quote or a certification. Says nothing about who signed it.
struct Attest {
  Bytes qualified_signer;
  Bytes extra_data;
  ClockInfo clock;
  std::uint64_t firmware_version = 0;
  std::variant<QuoteInfo, CertifyInfo, NvInfo> info;
};

// Which ids a parser of a TPMS_ATTEST reports with.
struct AttestReasons {
  Reason malformed;
  Reason magic;
  Reason type;
};
inline constexpr AttestReasons kQuoteReasons{Reason::kQuoteMalformed, Reason::kQuoteMagicWrong,
                                             Reason::kQuoteTypeWrong};
inline constexpr AttestReasons kCertifyReasons{Reason::kCertifyMalformed, Reason::kCertifyMalformed,
                                               Reason::kCertifyMalformed};

// Errors: INVALID_ARGUMENT with one of `reasons`; magic and type are looked at before anything else.
Result<Attest> ParseAttest(ByteView tpms_attest, std::uint16_t expected_type, const AttestReasons& reasons);

// TPMT_SIGNATURE (11.3.4) by an RSA or ECC key.
struct Signature {
  std::uint16_t scheme = kAlgNull;
  std::uint16_t hash = kAlgNull;
  // RSA: as long as the modulus. ECDSA: DER, as PublicKey takes it.
  Bytes bytes;
};

// kStrong: SHA-256 and SHA-384 only, what this project's nodes sign with. kAny: every hash known here.
enum class SignatureHashes { kStrong, kAny };
// Errors: INVALID_ARGUMENT with `malformed`.
Result<Signature> ParseSignature(ByteView tpmt_signature, Reason malformed,
                                 SignatureHashes hashes = SignatureHashes::kStrong);
// Errors: UNAUTHENTICATED with `invalid`; also when the signature's scheme does not fit the key.
Status VerifySignature(const PublicKey& key, ByteView message, const Signature& signature, Reason invalid);
Status VerifySignature(EVP_PKEY* key, ByteView message, const Signature& signature, Reason invalid);

// The hash of `message` by a hash algorithm for which DigestSize is not 0.
Bytes HashWith(std::uint16_t hash_algorithm, ByteView message);

}  // namespace sealift::tpm
