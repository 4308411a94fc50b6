#include "shared/tpm/structures.h"

#include <fmt/format.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/param_build.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>

#include <algorithm>
#include <array>

namespace sealift::tpm {
namespace {

using EcdsaSigPtr = CPtr<ECDSA_SIG, ECDSA_SIG_free>;
using ParamBldPtr = CPtr<OSSL_PARAM_BLD, OSSL_PARAM_BLD_free>;
using ParamPtr = CPtr<OSSL_PARAM, OSSL_PARAM_free>;

constexpr std::uint32_t kDefaultExponent = 65537;
constexpr std::size_t kMaxPemBytes = 16384;
constexpr std::size_t kMaxSelections = 16;
constexpr std::size_t kMaxSelectBytes = 32;
constexpr std::size_t kMinRsaBytes = 128;
constexpr std::size_t kMaxRsaBytes = 512;
constexpr std::size_t kMaxEccBytes = 66;
// The largest digest and the algorithm's id before it: no name, nonce or digest in a TPM is longer.
constexpr std::size_t kMaxHashBytes = 66;

const EVP_MD* MdOf(std::uint16_t hash) {
  switch (hash) {
    case kAlgSha1:
      return EVP_sha1();
    case kAlgSha256:
      return EVP_sha256();
    case kAlgSha384:
      return EVP_sha384();
    case kAlgSha512:
      return EVP_sha512();
    case kAlgSm3:
      return EVP_sm3();
    case kAlgSha3_256:
      return EVP_sha3_256();
    case kAlgSha3_384:
      return EVP_sha3_384();
    case kAlgSha3_512:
      return EVP_sha3_512();
    default:
      return nullptr;
  }
}

ByteView TakeSized(ByteReader& reader) { return reader.Take(reader.U16()); }

Status Malformed(Reason reason, std::string_view message) {
  return MakeError(Code::kInvalidArgument, reason, message);
}

Status BadKey(std::string_view cause) {
  return Malformed(Reason::kTpmKeyMalformed, fmt::format("read TPM public area: {}", cause));
}

Result<EvpPkeyPtr> BuildKey(const char* type, OSSL_PARAM_BLD* builder) {
  const ParamPtr params(OSSL_PARAM_BLD_to_param(builder));
  const EvpPkeyCtxPtr context(EVP_PKEY_CTX_new_from_name(nullptr, type, nullptr));
  EVP_PKEY* raw = nullptr;
  if (params == nullptr || context == nullptr || EVP_PKEY_fromdata_init(context.get()) != 1 ||
      EVP_PKEY_fromdata(context.get(), &raw, EVP_PKEY_PUBLIC_KEY, params.get()) != 1) {
    return OpenSslError(Reason::kTpmKeyMalformed, "read TPM public area: not a usable key",
                        "EVP_PKEY_fromdata");
  }
  return EvpPkeyPtr(raw);
}

Result<EvpPkeyPtr> RsaKey(ByteView modulus, std::uint32_t exponent) {
  // With the exponents 1 and 2 everybody could sign.
  if (exponent < 3 || exponent % 2 == 0) return BadKey(fmt::format("exponent {} is none of RSA", exponent));
  if (modulus.size() < kMinRsaBytes || (modulus.front() & 0x80) == 0 || modulus.back() % 2 == 0) {
    return BadKey("the modulus is not that of an RSA key of its size");
  }
  const BigNumPtr n(BN_bin2bn(modulus.data(), static_cast<int>(modulus.size()), nullptr));
  const BigNumPtr e(BN_new());
  const ParamBldPtr builder(OSSL_PARAM_BLD_new());
  if (n == nullptr || e == nullptr || builder == nullptr || BN_set_word(e.get(), exponent) != 1 ||
      OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_N, n.get()) != 1 ||
      OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_E, e.get()) != 1) {
    return OpenSslError(Reason::kCryptoFailed, "read TPM public area", "OSSL_PARAM_BLD_push_BN");
  }
  return BuildKey("RSA", builder.get());
}

struct Curve {
  std::uint16_t id;
  std::size_t bytes;
  const char* group;
};
constexpr std::array<Curve, 3> kCurves{{{0x0003, 32, "P-256"}, {0x0004, 48, "P-384"}, {0x0005, 66, "P-521"}}};

Result<EvpPkeyPtr> EccKey(std::uint16_t curve_id, ByteView x, ByteView y) {
  const auto* const curve = std::ranges::find(kCurves, curve_id, &Curve::id);
  if (curve == kCurves.end() || x.size() > curve->bytes || y.size() > curve->bytes || x.empty() ||
      y.empty()) {
    return BadKey(fmt::format("curve {:#06x} or its point is not one this project uses", curve_id));
  }
  Bytes point{4};
  for (const ByteView coordinate : {x, y}) {
    point.resize(point.size() + (curve->bytes - coordinate.size()));
    Append(point, coordinate);
  }
  const ParamBldPtr builder(OSSL_PARAM_BLD_new());
  if (builder == nullptr ||
      OSSL_PARAM_BLD_push_utf8_string(builder.get(), OSSL_PKEY_PARAM_GROUP_NAME, curve->group, 0) != 1 ||
      OSSL_PARAM_BLD_push_octet_string(builder.get(), OSSL_PKEY_PARAM_PUB_KEY, point.data(), point.size()) !=
          1) {
    return OpenSslError(Reason::kCryptoFailed, "read TPM public area", "OSSL_PARAM_BLD_push_octet_string");
  }
  return BuildKey("EC", builder.get());
}

// The parts of TPMT_PUBLIC before the key itself, and the key's numbers as they stand.
struct RawPublic {
  std::uint16_t type = 0, name_algorithm = 0, curve = 0, key_bits = 0;
  std::uint32_t attributes = 0, exponent = 0;
  ByteView policy, first, second;
  std::uint16_t symmetric = kAlgNull, symmetric_bits = 0, symmetric_mode = kAlgNull;
  std::uint16_t scheme = kAlgNull, scheme_hash = kAlgNull;
};

RawPublic ReadRaw(ByteReader& reader) {
  RawPublic raw;
  raw.type = reader.U16();
  raw.name_algorithm = reader.U16();
  raw.attributes = reader.U32();
  raw.policy = TakeSized(reader);
  if (raw.type != kAlgRsa && raw.type != kAlgEcc) return raw;
  raw.symmetric = reader.U16();
  if (raw.symmetric != kAlgNull) {
    raw.symmetric_bits = reader.U16();
    raw.symmetric_mode = reader.U16();
  }
  raw.scheme = reader.U16();
  if (raw.scheme != kAlgNull && raw.scheme != kAlgRsaEs) raw.scheme_hash = reader.U16();
  if (raw.scheme == kAlgEcdaa) reader.Skip(2);
  if (raw.type == kAlgRsa) {
    raw.key_bits = reader.U16();
    raw.exponent = reader.U32();
    raw.first = TakeSized(reader);
    return raw;
  }
  raw.curve = reader.U16();
  // The key derivation scheme is always TPM_ALG_NULL in TPMs of today, but may name a hash.
  if (reader.U16() != kAlgNull) reader.Skip(2);
  raw.first = TakeSized(reader);
  raw.second = TakeSized(reader);
  return raw;
}

Result<EvpPkeyPtr> KeyOf(const RawPublic& raw) {
  if (raw.type == kAlgEcc) return EccKey(raw.curve, raw.first, raw.second);
  if (raw.first.size() > kMaxRsaBytes || raw.first.size() * 8 != raw.key_bits) {
    return BadKey("the modulus is not as long as stated");
  }
  return RsaKey(raw.first, raw.exponent == 0 ? kDefaultExponent : raw.exponent);
}

Result<RawPublic> ReadWhole(ByteView tpmt_public) {
  ByteReader reader(tpmt_public, ByteReader::Endian::kBig);
  const RawPublic raw = ReadRaw(reader);
  if (raw.type != kAlgRsa && raw.type != kAlgEcc) {
    return BadKey(fmt::format("type {} is neither RSA nor ECC", AlgorithmName(raw.type)));
  }
  if (!reader.AtEnd()) return BadKey(reader.ok() ? "bytes follow it" : "it is cut short");
  return raw;
}

bool ReadSelections(ByteReader& reader, std::vector<PcrSelection>& selections) {
  const std::uint32_t count = reader.U32();
  if (count > kMaxSelections) return false;
  for (std::uint32_t i = 0; i < count; ++i) {
    PcrSelection selection{.hash = reader.U16(), .pcrs = {}};
    const std::size_t size = reader.U8();
    if (size > kMaxSelectBytes) return false;
    const ByteView bits = reader.Take(size);
    for (std::uint32_t pcr = 0; pcr < bits.size() * 8; ++pcr) {
      if ((bits[pcr / 8] >> (pcr % 8) & 1) != 0) selection.pcrs.push_back(pcr);
    }
    selections.push_back(std::move(selection));
  }
  return reader.ok();
}

Result<Bytes> EcdsaToDer(ByteView r, ByteView s, Reason malformed) {
  const EcdsaSigPtr signature(ECDSA_SIG_new());
  BigNumPtr r_number(BN_bin2bn(r.data(), static_cast<int>(r.size()), nullptr));
  BigNumPtr s_number(BN_bin2bn(s.data(), static_cast<int>(s.size()), nullptr));
  if (signature == nullptr || r_number == nullptr || s_number == nullptr ||
      ECDSA_SIG_set0(signature.get(), r_number.get(), s_number.get()) != 1) {
    return OpenSslError(malformed, "read TPM signature", "ECDSA_SIG_set0");
  }
  static_cast<void>(r_number.release());
  static_cast<void>(s_number.release());
  unsigned char* der = nullptr;
  const int size = i2d_ECDSA_SIG(signature.get(), &der);
  if (size <= 0) return OpenSslError(malformed, "read TPM signature", "i2d_ECDSA_SIG");
  Bytes bytes(der, der + size);
  OPENSSL_free(der);
  return bytes;
}

}  // namespace

std::string AlgorithmName(std::uint16_t algorithm) {
  switch (algorithm) {
    case kAlgRsa:
      return "rsa";
    case kAlgSm3:
      return "sm3_256";
    case kAlgSha3_256:
      return "sha3_256";
    case kAlgSha3_384:
      return "sha3_384";
    case kAlgSha3_512:
      return "sha3_512";
    case kAlgSha1:
      return "sha1";
    case kAlgSha256:
      return "sha256";
    case kAlgSha384:
      return "sha384";
    case kAlgSha512:
      return "sha512";
    case kAlgNull:
      return "null";
    case kAlgRsaSsa:
      return "rsassa";
    case kAlgRsaPss:
      return "rsapss";
    case kAlgEcdsa:
      return "ecdsa";
    case kAlgEcc:
      return "ecc";
    default:
      return fmt::format("{:#06x}", algorithm);
  }
}

std::uint16_t HashNamed(std::string_view name) {
  for (const std::uint16_t hash :
       {kAlgSha1, kAlgSha256, kAlgSha384, kAlgSha512, kAlgSm3, kAlgSha3_256, kAlgSha3_384, kAlgSha3_512}) {
    if (AlgorithmName(hash) == name) return hash;
  }
  return kAlgNull;
}

std::size_t DigestSize(std::uint16_t hash_algorithm) {
  const EVP_MD* md = MdOf(hash_algorithm);
  return md == nullptr ? 0 : static_cast<std::size_t>(EVP_MD_get_size(md));
}

Bytes HashWith(std::uint16_t hash_algorithm, ByteView message) {
  const EVP_MD* md = MdOf(hash_algorithm);
  SEALIFT_CHECK(md != nullptr);
  Bytes digest(DigestSize(hash_algorithm));
  SEALIFT_CHECK(EVP_Digest(message.data(), message.size(), digest.data(), nullptr, md, nullptr) == 1);
  return digest;
}

Result<PublicArea> ParsePublicArea(ByteView tpmt_public) {
  SEALIFT_ASSIGN_OR_RETURN(const RawPublic raw, ReadWhole(tpmt_public));
  if (raw.name_algorithm != kAlgSha256 && raw.name_algorithm != kAlgSha384) {
    return BadKey(
        fmt::format("name algorithm {} is neither SHA-256 nor SHA-384", AlgorithmName(raw.name_algorithm)));
  }
  SEALIFT_ASSIGN_OR_RETURN(const EvpPkeyPtr evp, KeyOf(raw));
  auto key = PublicKey::FromEvp(evp.get());
  if (!key.ok()) return BadKey(MessageOf(key.status()));
  ByteWriter name(ByteWriter::Endian::kBig);
  name.U16(raw.name_algorithm);
  name.Raw(HashWith(raw.name_algorithm, tpmt_public));
  return PublicArea{.type = raw.type,
                    .name_algorithm = raw.name_algorithm,
                    .attributes = raw.attributes,
                    .policy = ToBytes(raw.policy),
                    .symmetric = raw.symmetric,
                    .symmetric_bits = raw.symmetric_bits,
                    .symmetric_mode = raw.symmetric_mode,
                    .scheme = raw.scheme,
                    .scheme_hash = raw.scheme_hash,
                    .key = *std::move(key),
                    .name = std::move(name).Finish()};
}

Result<PublicArea> ParsePublic(ByteView tpm2b_public) {
  ByteReader reader(tpm2b_public, ByteReader::Endian::kBig);
  const ByteView area = TakeSized(reader);
  if (!reader.AtEnd()) return BadKey("its stated size is not the size of the bytes");
  return ParsePublicArea(area);
}

Result<EvpPkeyPtr> ReadVerificationKey(ByteView file) {
  if (AsText(file).find("-----BEGIN") != std::string_view::npos) {
    const BioPtr bio(BIO_new_mem_buf(file.data(), static_cast<int>(std::min(file.size(), kMaxPemBytes))));
    EvpPkeyPtr key(PEM_read_bio_PUBKEY(bio.get(), nullptr, nullptr, nullptr));
    if (key == nullptr) {
      return OpenSslError(Reason::kTpmKeyMalformed, "read attestation key: not a PEM PUBLIC KEY",
                          "PEM_read_bio_PUBKEY");
    }
    return key;
  }
  // The type that TPMT_PUBLIC begins with is never the size of what follows it.
  ByteReader reader(file, ByteReader::Endian::kBig);
  const std::size_t size = reader.U16();
  const bool sized = reader.ok() && size == reader.remaining();
  SEALIFT_ASSIGN_OR_RETURN(const RawPublic raw, ReadWhole(sized ? file.subspan(2) : file));
  return KeyOf(raw);
}

Result<Attest> ParseAttest(ByteView tpms_attest, std::uint16_t expected_type, const AttestReasons& reasons) {
  ByteReader reader(tpms_attest, ByteReader::Endian::kBig);
  const std::uint32_t magic = reader.U32();
  const std::uint16_t type = reader.U16();
  if (!reader.ok()) return Malformed(reasons.malformed, "read attestation: it is cut short");
  if (magic != kGeneratedValue) {
    return Malformed(reasons.magic,
                     fmt::format("read attestation: magic {:#010x} is not that of a TPM", magic));
  }
  if (type != expected_type) {
    return Malformed(reasons.type,
                     fmt::format("read attestation: type {:#06x} instead of {:#06x}", type, expected_type));
  }
  Attest attest;
  attest.qualified_signer = ToBytes(TakeSized(reader));
  attest.extra_data = ToBytes(TakeSized(reader));
  attest.clock.clock_ms = reader.U64();
  attest.clock.reset_count = reader.U32();
  attest.clock.restart_count = reader.U32();
  const std::uint8_t safe = reader.U8();
  attest.clock.safe = safe == 1;
  attest.firmware_version = reader.U64();
  bool fits = safe <= 1 && attest.qualified_signer.size() <= kMaxHashBytes &&
              attest.extra_data.size() <= kMaxHashBytes;
  if (type == kStAttestQuote) {
    QuoteInfo quote;
    fits = ReadSelections(reader, quote.selections) && fits;
    quote.pcr_digest = ToBytes(TakeSized(reader));
    fits = fits && quote.pcr_digest.size() <= kMaxHashBytes;
    attest.info = std::move(quote);
  } else if (type == kStAttestNv) {
    NvInfo nv;
    nv.index_name = ToBytes(TakeSized(reader));
    nv.offset = reader.U16();
    nv.contents = ToBytes(TakeSized(reader));
    attest.info = std::move(nv);
  } else {
    CertifyInfo certify;
    certify.name = ToBytes(TakeSized(reader));
    certify.qualified_name = ToBytes(TakeSized(reader));
    attest.info = std::move(certify);
  }
  if (!fits || !reader.AtEnd()) {
    return Malformed(reasons.malformed, "read attestation: its lengths do not fit its bytes");
  }
  return attest;
}

Result<Signature> ParseSignature(ByteView tpmt_signature, Reason malformed, SignatureHashes hashes) {
  ByteReader reader(tpmt_signature, ByteReader::Endian::kBig);
  Signature signature{.scheme = reader.U16(), .hash = reader.U16(), .bytes = {}};
  if (signature.scheme != kAlgRsaSsa && signature.scheme != kAlgRsaPss && signature.scheme != kAlgEcdsa) {
    return Malformed(malformed, fmt::format("read TPM signature: scheme {} is not RSASSA, RSAPSS or ECDSA",
                                            AlgorithmName(signature.scheme)));
  }
  const bool strong = signature.hash == kAlgSha256 || signature.hash == kAlgSha384;
  if (!strong && (hashes == SignatureHashes::kStrong || DigestSize(signature.hash) == 0)) {
    return Malformed(malformed, fmt::format("read TPM signature: hash {} is not one used here",
                                            AlgorithmName(signature.hash)));
  }
  const ByteView first = TakeSized(reader);
  const ByteView second = signature.scheme == kAlgEcdsa ? TakeSized(reader) : ByteView();
  const std::size_t limit = signature.scheme == kAlgEcdsa ? kMaxEccBytes : kMaxRsaBytes;
  if (!reader.AtEnd() || first.size() > limit || second.size() > limit) {
    return Malformed(malformed, "read TPM signature: its lengths do not fit its bytes");
  }
  if (signature.scheme == kAlgEcdsa) {
    SEALIFT_ASSIGN_OR_RETURN(signature.bytes, EcdsaToDer(first, second, malformed));
  } else {
    signature.bytes = ToBytes(first);
  }
  return signature;
}

Status VerifySignature(const PublicKey& key, ByteView message, const Signature& signature, Reason invalid) {
  return VerifySignature(key.evp(), message, signature, invalid);
}

Status VerifySignature(EVP_PKEY* key, ByteView message, const Signature& signature, Reason invalid) {
  const auto refuse = [&](std::string_view cause) {
    ERR_clear_error();
    return MakeError(Code::kUnauthenticated, invalid, fmt::format("verify TPM signature: {}", cause));
  };
  const bool rsa = EVP_PKEY_is_a(key, "RSA") == 1;
  const bool fits = signature.scheme == kAlgEcdsa ? EVP_PKEY_is_a(key, "EC") == 1 : rsa;
  const EVP_MD* md = MdOf(signature.hash);
  if (md == nullptr || !fits) return refuse("its scheme does not fit the key");
  const EvpMdCtxPtr context(EVP_MD_CTX_new());
  EVP_PKEY_CTX* key_context = nullptr;
  const int padding = signature.scheme == kAlgRsaPss ? RSA_PKCS1_PSS_PADDING : RSA_PKCS1_PADDING;
  // Part 1, B.7: a TPM takes the largest salt that fits; the verifier learns its length from the signature.
  const bool ready = context != nullptr &&
                     EVP_DigestVerifyInit(context.get(), &key_context, md, nullptr, key) == 1 &&
                     (!rsa || EVP_PKEY_CTX_set_rsa_padding(key_context, padding) == 1) &&
                     (padding != RSA_PKCS1_PSS_PADDING || !rsa ||
                      EVP_PKEY_CTX_set_rsa_pss_saltlen(key_context, RSA_PSS_SALTLEN_AUTO) == 1);
  if (!ready) return OpenSslError(Reason::kCryptoFailed, "verify TPM signature", "EVP_DigestVerifyInit");
  if (EVP_DigestVerify(context.get(), signature.bytes.data(), signature.bytes.size(), message.data(),
                       message.size()) != 1) {
    return refuse("it does not fit key and content");
  }
  return OkStatus();
}

}  // namespace sealift::tpm
