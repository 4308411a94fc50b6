// TPM structures made in memory with software keys, for tests of what verifies them: every field can be
// wrong. What a real TPM writes is compared in the integration tests.
#pragma once

#include <openssl/core_names.h>
#include <openssl/ecdsa.h>

#include <array>
#include <memory>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/crypto/hash.h"
#include "shared/crypto/signer.h"
#include "shared/tpm/event_log.h"
#include "shared/tpm/quote.h"
#include "shared/tpm/structures.h"

namespace sealift::test {

inline constexpr std::uint32_t kAkAttributes = tpm::kAttrFixedTpm | tpm::kAttrFixedParent |
                                               tpm::kAttrSensitiveDataOrigin | tpm::kAttrUserWithAuth |
                                               tpm::kAttrNoDa | tpm::kAttrRestricted | tpm::kAttrSign;
inline constexpr std::uint32_t kTlsAttributes = kAkAttributes & ~tpm::kAttrRestricted;
inline constexpr std::uint32_t kEkAttributes = tpm::kAttrFixedTpm | tpm::kAttrFixedParent |
                                               tpm::kAttrSensitiveDataOrigin | tpm::kAttrAdminWithPolicy |
                                               tpm::kAttrRestricted | tpm::kAttrDecrypt;

inline void WriteSized(ByteWriter& writer, ByteView bytes) {
  writer.U16(static_cast<std::uint16_t>(bytes.size()));
  writer.Raw(bytes);
}

inline Bytes NumberOf(const PublicKey& key, const char* parameter) {
  BIGNUM* raw = nullptr;
  SEALIFT_CHECK(EVP_PKEY_get_bn_param(key.evp(), parameter, &raw) == 1);
  const BigNumPtr number(raw);
  Bytes bytes(static_cast<std::size_t>(BN_num_bytes(number.get())));
  BN_bn2bin(number.get(), bytes.data());
  return bytes;
}

// TPMT_PUBLIC of a software key, as a TPM would describe it: a signing key, or an EK when kAttrDecrypt is
// set.
inline Bytes PublicAreaOf(const PublicKey& key, std::uint32_t attributes) {
  const bool rsa = key.type() == KeyType::kRsa;
  const bool storage = (attributes & tpm::kAttrDecrypt) != 0;
  ByteWriter area(ByteWriter::Endian::kBig);
  area.U16(rsa ? tpm::kAlgRsa : tpm::kAlgEcc);
  area.U16(tpm::kAlgSha256);
  area.U32(attributes);
  WriteSized(area, storage ? Bytes(32, 7) : Bytes());
  if (storage) {
    for (const std::uint16_t part : {tpm::kAlgAes, std::uint16_t{128}, tpm::kAlgCfb, tpm::kAlgNull}) {
      area.U16(part);
    }
  } else {
    for (const std::uint16_t part :
         {tpm::kAlgNull, rsa ? tpm::kAlgRsaSsa : tpm::kAlgEcdsa, tpm::kAlgSha256}) {
      area.U16(part);
    }
  }
  if (rsa) {
    area.U16(static_cast<std::uint16_t>(key.bits()));
    area.U32(0);
    WriteSized(area, NumberOf(key, OSSL_PKEY_PARAM_RSA_N));
  } else {
    area.U16(key.type() == KeyType::kEcP256 ? 3 : 4);
    area.U16(tpm::kAlgNull);
    WriteSized(area, NumberOf(key, OSSL_PKEY_PARAM_EC_PUB_X));
    WriteSized(area, NumberOf(key, OSSL_PKEY_PARAM_EC_PUB_Y));
  }
  return std::move(area).Finish();
}

inline Bytes Sized(ByteView bytes) {
  ByteWriter writer(ByteWriter::Endian::kBig);
  WriteSized(writer, bytes);
  return std::move(writer).Finish();
}

// Everything in a TPMS_ATTEST, to be changed one by one.
struct AttestFields {
  std::uint32_t magic = tpm::kGeneratedValue;
  std::uint16_t type = tpm::kStAttestQuote;
  Bytes qualified_signer = Bytes(34, 1);
  Bytes extra_data;
  std::uint64_t clock = 123456;
  std::uint32_t reset_count = 7;
  std::uint32_t restart_count = 0;
  std::uint8_t safe = 1;
  std::uint64_t firmware_version = 0x20230101;
  // Of a quote.
  std::uint16_t bank = tpm::kAlgSha256;
  std::vector<std::uint32_t> pcrs;
  Bytes pcr_digest;
  // Of a certification.
  Bytes name;
  Bytes qualified_name = Bytes(34, 2);

  Bytes Encode() const {
    ByteWriter out(ByteWriter::Endian::kBig);
    out.U32(magic);
    out.U16(type);
    WriteSized(out, qualified_signer);
    WriteSized(out, extra_data);
    out.U64(clock);
    out.U32(reset_count);
    out.U32(restart_count);
    out.U8(safe);
    out.U64(firmware_version);
    if (type == tpm::kStAttestCertify) {
      WriteSized(out, name);
      WriteSized(out, qualified_name);
      return std::move(out).Finish();
    }
    std::array<std::uint8_t, 3> bits{};
    for (const std::uint32_t pcr : pcrs)
      bits.at(pcr / 8) = static_cast<std::uint8_t>(bits.at(pcr / 8) | 1u << pcr % 8);
    out.U32(1);
    out.U16(bank);
    out.U8(bits.size());
    out.Raw(bits);
    WriteSized(out, pcr_digest);
    return std::move(out).Finish();
  }
};

// TPMT_SIGNATURE by a software key over `message`.
inline Bytes TpmSign(SoftwareSigner& key, ByteView message) {
  const Bytes signature = key.SignMessage(message, "test").value();
  ByteWriter out(ByteWriter::Endian::kBig);
  if (key.public_key().type() == KeyType::kRsa) {
    out.U16(tpm::kAlgRsaSsa);
    out.U16(tpm::kAlgSha256);
    WriteSized(out, signature);
    return std::move(out).Finish();
  }
  out.U16(tpm::kAlgEcdsa);
  out.U16(tpm::kAlgSha256);
  const unsigned char* at = signature.data();
  const CPtr<ECDSA_SIG, ECDSA_SIG_free> parsed(
      d2i_ECDSA_SIG(nullptr, &at, static_cast<long>(signature.size())));
  for (const BIGNUM* number : {ECDSA_SIG_get0_r(parsed.get()), ECDSA_SIG_get0_s(parsed.get())}) {
    Bytes bytes(static_cast<std::size_t>(BN_num_bytes(number)));
    BN_bn2bin(number, bytes.data());
    WriteSized(out, bytes);
  }
  return std::move(out).Finish();
}

// An attestation key in memory, and the quotes it makes.
class SoftwareAk {
 public:
  explicit SoftwareAk(KeyType type = KeyType::kEcP256)
      : key_(SoftwareSigner::Generate(type).value()),
        area_(tpm::ParsePublicArea(PublicAreaOf(key_->public_key(), kAkAttributes)).value()) {}

  const tpm::PublicArea& area() const { return area_; }
  SoftwareSigner& key() { return *key_; }
  Bytes Public() const { return Sized(PublicAreaOf(key_->public_key(), kAkAttributes)); }

  static AttestFields FieldsFor(const tpm::PcrValues& values, ByteView nonce) {
    AttestFields fields;
    fields.extra_data = ToBytes(nonce);
    Bytes concatenated;
    for (const auto& [pcr, value] : values) {
      fields.pcrs.push_back(pcr);
      Append(concatenated, value.view());
    }
    fields.pcr_digest = ToBytes(Sha256(concatenated).view());
    return fields;
  }
  tpm::QuoteEvidence Quote(const tpm::PcrValues& values, const AttestFields& fields) {
    const Bytes attest = fields.Encode();
    return {.attest = attest, .signature = TpmSign(*key_, attest), .pcrs = values};
  }
  tpm::QuoteEvidence Quote(const tpm::PcrValues& values, ByteView nonce) {
    return Quote(values, FieldsFor(values, nonce));
  }

 private:
  std::unique_ptr<SoftwareSigner> key_;
  tpm::PublicArea area_;
};

// Writes crypto-agile event logs of one SHA-256 bank.
class EventLogWriter {
 public:
  // Algorithm, digest size.
  using Banks = std::vector<std::pair<std::uint16_t, std::uint16_t>>;
  explicit EventLogWriter(const Banks& banks = {{tpm::kAlgSha256, 32}}) {
    ByteWriter spec(ByteWriter::Endian::kLittle);
    spec.Raw(AsBytes(std::string_view("Spec ID Event03\0", 16)));
    spec.U32(0);
    spec.U32(0x02000200);
    spec.U32(static_cast<std::uint32_t>(banks.size()));
    for (const auto& [algorithm, size] : banks) {
      spec.U16(algorithm);
      spec.U16(size);
    }
    spec.U8(0);
    Header(spec.bytes());
  }
  void Event(std::uint32_t pcr, std::uint32_t type, ByteView digest, ByteView data) {
    out_.U32(pcr);
    out_.U32(type);
    out_.U32(1);
    out_.U16(tpm::kAlgSha256);
    out_.Raw(digest);
    out_.U32(static_cast<std::uint32_t>(data.size()));
    out_.Raw(data);
  }
  void Event(std::uint32_t pcr, std::uint32_t type, std::string_view data) {
    Event(pcr, type, Sha256(AsBytes(data)).view(), AsBytes(data));
  }
  Bytes bytes() const { return out_.bytes(); }

 private:
  void Header(ByteView spec) {
    out_.U32(0);
    out_.U32(tpm::kEvNoAction);
    out_.Zeros(20);
    out_.U32(static_cast<std::uint32_t>(spec.size()));
    out_.Raw(spec);
  }
  ByteWriter out_{ByteWriter::Endian::kLittle};
};

}  // namespace sealift::test
