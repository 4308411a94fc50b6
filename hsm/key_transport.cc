#include "hsm/key_transport.h"

#include <fmt/format.h>
#include <openssl/core_names.h>

#include <array>

#include "hsm/objects.h"
#include "hsm/token_signer.h"
#include "shared/base/log.h"
#include "shared/crypto/hash.h"

namespace sealift::hsm {
namespace {

constexpr std::size_t kMaxWrappedBytes = 8192;
constexpr CK_ULONG kAesBytes = 32;

TokenView View(SessionPool& pool, const SessionPool::Lease& lease) {
  return {.api = &pool.api(), .session = lease.handle(), .token = pool.Name()};
}

// A token may change what it is given, so each call gets its own.
struct Oaep {
  CK_RSA_PKCS_OAEP_PARAMS parameters{CKM_SHA_1, CKG_MGF1_SHA1, CKZ_DATA_SPECIFIED, nullptr, 0};
  CK_MECHANISM mechanism{CKM_RSA_PKCS_OAEP, &parameters, sizeof(parameters)};
};

CK_MECHANISM KeyWrap() { return {CKM_AES_KEY_WRAP_PAD, nullptr, 0}; }

Bytes BigNumber(const PublicKey& key, const char* name) {
  BIGNUM* raw = nullptr;
  SEALIFT_CHECK(EVP_PKEY_get_bn_param(key.evp(), name, &raw) == 1);
  const BigNumPtr number(raw);
  Bytes bytes(static_cast<std::size_t>(BN_num_bytes(number.get())));
  BN_bn2bin(number.get(), bytes.data());
  return bytes;
}

// The point in a DER OCTET STRING, as CKA_EC_POINT wants it; below 128 bytes for both curves.
Bytes PointOf(const PublicKey& key) {
  std::array<std::uint8_t, 128> point{};
  std::size_t size = 0;
  SEALIFT_CHECK(EVP_PKEY_get_octet_string_param(key.evp(), OSSL_PKEY_PARAM_PUB_KEY, point.data(),
                                                point.size(), &size) == 1);
  SEALIFT_CHECK(size < 128);
  Bytes der = {0x04, static_cast<std::uint8_t>(size)};
  Append(der, ByteView(point).first(size));
  return der;
}

void AddPublicParts(Template& wanted, const PublicKey& key) {
  if (key.type() == KeyType::kRsa) {
    wanted.Number(CKA_KEY_TYPE, CKK_RSA)
        .Data(CKA_MODULUS, BigNumber(key, OSSL_PKEY_PARAM_RSA_N))
        .Data(CKA_PUBLIC_EXPONENT, BigNumber(key, OSSL_PKEY_PARAM_RSA_E));
  } else {
    wanted.Number(CKA_KEY_TYPE, CKK_EC)
        .Data(CKA_EC_PARAMS, CurveParameters(static_cast<unsigned>(key.bits())))
        .Data(CKA_EC_POINT, PointOf(key));
  }
}

Result<CK_OBJECT_HANDLE> Create(const TokenView& view, Template wanted, std::string_view what) {
  CK_OBJECT_HANDLE object = CK_INVALID_HANDLE;
  const CK_RV rv = view.api->C_CreateObject(view.session, wanted.data(), wanted.size(), &object);
  if (rv == CKR_OK) return object;
  return CannotMake(rv, fmt::format("place {} on {}", what, view.token), "C_CreateObject");
}

// For this session.
Result<CK_OBJECT_HANDLE> MakeAesKey(const TokenView& view) {
  Template wanted;
  wanted.Flag(CKA_TOKEN, false)
      .Flag(CKA_PRIVATE, true)
      .Flag(CKA_SENSITIVE, true)
      .Flag(CKA_EXTRACTABLE, true)
      .Flag(CKA_WRAP, true)
      .Number(CKA_VALUE_LEN, kAesBytes);
  CK_MECHANISM mechanism{CKM_AES_KEY_GEN, nullptr, 0};
  CK_OBJECT_HANDLE key = CK_INVALID_HANDLE;
  const CK_RV rv = view.api->C_GenerateKey(view.session, &mechanism, wanted.data(), wanted.size(), &key);
  if (rv == CKR_OK) return key;
  return Pkcs11Error(rv, fmt::format("make wrapping key on {}", view.token), "C_GenerateKey");
}

Result<Bytes> Wrap(const TokenView& view, CK_MECHANISM& mechanism, CK_OBJECT_HANDLE by, CK_OBJECT_HANDLE key,
                   const std::string& what) {
  Bytes wrapped(kMaxWrappedBytes);
  CK_ULONG size = wrapped.size();
  const CK_RV rv = view.api->C_WrapKey(view.session, &mechanism, by, key, wrapped.data(), &size);
  if (rv == CKR_KEY_UNEXTRACTABLE || rv == CKR_KEY_NOT_WRAPPABLE) {
    return MakeError(Code::kFailedPrecondition, Reason::kKeyNotWrappable,
                     fmt::format("wrap {} on {}: the token keeps it to itself (C_WrapKey: {})", what,
                                 view.token, RvName(rv)));
  }
  if (rv != CKR_OK) return Pkcs11Error(rv, fmt::format("wrap {} on {}", what, view.token), "C_WrapKey");
  wrapped.resize(size);
  return wrapped;
}

Status Damaged(CK_RV rv, std::string_view what, std::string_view token) {
  return MakeError(
      Code::kFailedPrecondition, Reason::kKeyBackupInvalid,
      fmt::format("unwrap {} on {}: it does not come out whole (C_UnwrapKey: {})", what, token, RvName(rv)));
}

Result<CK_OBJECT_HANDLE> UnwrapAes(const TokenView& view, CK_OBJECT_HANDLE transport, ByteView wrapped) {
  Template wanted;
  wanted.Number(CKA_CLASS, CKO_SECRET_KEY)
      .Number(CKA_KEY_TYPE, CKK_AES)
      .Flag(CKA_TOKEN, false)
      .Flag(CKA_PRIVATE, true)
      .Flag(CKA_SENSITIVE, true)
      .Flag(CKA_EXTRACTABLE, false)
      .Flag(CKA_UNWRAP, true);
  Oaep oaep;
  Bytes bytes = ToBytes(wrapped);
  CK_OBJECT_HANDLE key = CK_INVALID_HANDLE;
  const CK_RV rv = view.api->C_UnwrapKey(view.session, &oaep.mechanism, transport, bytes.data(), bytes.size(),
                                         wanted.data(), wanted.size(), &key);
  if (rv == CKR_OK) return key;
  return Damaged(rv, "the key of the backup", view.token);
}

// How much of what a restored key is to be a token is asked for, beside what it must be. Older ones do not
// know all of it, as when keys are generated.
enum class Asked { kEverything, kNoMechanisms, kLeast };

Template PrivateTemplate(const RestoredKey& key, Leaving leaving, Asked asked) {
  const bool rsa = key.public_key.type() == KeyType::kRsa;
  const Sha256Digest id = key.public_key.key_id();
  Template wanted;
  wanted.Number(CKA_CLASS, CKO_PRIVATE_KEY)
      .Number(CKA_KEY_TYPE, rsa ? CKK_RSA : CKK_EC)
      .Flag(CKA_TOKEN, true)
      .Flag(CKA_PRIVATE, true)
      .Flag(CKA_SENSITIVE, true)
      .Flag(CKA_EXTRACTABLE, leaving == Leaving::kWrapped)
      .Flag(CKA_SIGN, key.use == KeyUse::kSign)
      .Flag(CKA_DECRYPT, key.use == KeyUse::kDecrypt)
      .Flag(CKA_UNWRAP, false)
      .Data(CKA_ID, id.view())
      .Data(CKA_LABEL, AsBytes(key.label));
  if (asked == Asked::kEverything) wanted.Number(CKA_ALLOWED_MECHANISMS, MechanismFor(!rsa, key.use));
  // It stays removable: it has not proven itself yet.
  if (asked != Asked::kLeast) wanted.Flag(CKA_COPYABLE, false).Flag(CKA_MODIFIABLE, false);
  return wanted;
}

bool IsAboutTemplate(CK_RV rv) {
  return rv == CKR_ATTRIBUTE_TYPE_INVALID || rv == CKR_ATTRIBUTE_VALUE_INVALID ||
         rv == CKR_ATTRIBUTE_READ_ONLY || rv == CKR_TEMPLATE_INCONSISTENT;
}

Status UnwrapPrivate(const TokenView& view, CK_OBJECT_HANDLE aes, ByteView wrapped, const RestoredKey& key,
                     Leaving leaving) {
  CK_RV rv = CKR_OK;
  for (const Asked asked : {Asked::kEverything, Asked::kNoMechanisms, Asked::kLeast}) {
    Template wanted = PrivateTemplate(key, leaving, asked);
    CK_MECHANISM mechanism = KeyWrap();
    Bytes bytes = ToBytes(wrapped);
    CK_OBJECT_HANDLE made = CK_INVALID_HANDLE;
    rv = view.api->C_UnwrapKey(view.session, &mechanism, aes, bytes.data(), bytes.size(), wanted.data(),
                               wanted.size(), &made);
    if (rv == CKR_OK) return OkStatus();
    if (!IsAboutTemplate(rv)) break;
  }
  const Status error = CannotMake(rv, fmt::format("unwrap '{}' on {}", key.label, view.token), "C_UnwrapKey");
  const bool of_token = ReasonOf(error) == Reason::kHsmTokenFull || LossOf(error) != Loss::kNone ||
                        ReasonOf(error) == Reason::kHsmMechanismMissing;
  return of_token ? error : Damaged(rv, fmt::format("'{}'", key.label), view.token);
}

Status Place(Token& token, const Sha256Digest& transport, ByteView wrapped_aes, ByteView wrapped_key,
             const RestoredKey& key, Leaving leaving) {
  SessionPool& pool = *token.pool();
  SEALIFT_ASSIGN_OR_RETURN(const SessionPool::Lease lease, pool.AcquireReadWrite());
  const TokenView view = View(pool, lease);
  SEALIFT_ASSIGN_OR_RETURN(const CK_OBJECT_HANDLE by, FindKey(view, CKO_PRIVATE_KEY, transport.view()));
  SEALIFT_ASSIGN_OR_RETURN(const CK_OBJECT_HANDLE aes, UnwrapAes(view, by, wrapped_aes));
  return UnwrapPrivate(view, aes, wrapped_key, key, leaving);
}

Status PlacePublicHalf(const TokenView& view, const RestoredKey& key) {
  Result<CK_OBJECT_HANDLE> made = CK_INVALID_HANDLE;
  for (const bool for_ever : {true, false}) {
    Template wanted;
    wanted.Number(CKA_CLASS, CKO_PUBLIC_KEY)
        .Flag(CKA_TOKEN, true)
        .Flag(CKA_PRIVATE, false)
        .Flag(CKA_VERIFY, key.use == KeyUse::kSign)
        .Flag(CKA_ENCRYPT, key.use == KeyUse::kDecrypt)
        .Flag(CKA_WRAP, false)
        .Data(CKA_ID, key.public_key.key_id().view())
        .Data(CKA_LABEL, AsBytes(key.label));
    AddPublicParts(wanted, key.public_key);
    if (for_ever) wanted.Flag(CKA_MODIFIABLE, false);
    made = Create(view, std::move(wanted), fmt::format("public half of '{}'", key.label));
    if (made.ok() || ReasonOf(made.status()) == Reason::kHsmTokenFull || LossOf(made.status()) != Loss::kNone)
      break;
  }
  return made.status();
}

// The private key is there: it is to be the one that is meant, and to have its public half beside it.
Status Complete(Token& token, const RestoredKey& key) {
  SessionPool& pool = *token.pool();
  SEALIFT_ASSIGN_OR_RETURN(const SessionPool::Lease lease, pool.AcquireReadWrite());
  const TokenView view = View(pool, lease);
  const auto another = [&] {
    return MakeError(Code::kFailedPrecondition, Reason::kKeyBackupInvalid,
                     fmt::format("unwrap '{}' on {}: another key came out", key.label, view.token));
  };
  const Sha256Digest id = key.public_key.key_id();
  SEALIFT_ASSIGN_OR_RETURN(const CK_OBJECT_HANDLE made, FindKey(view, CKO_PRIVATE_KEY, id.view()));
  if (key.public_key.type() == KeyType::kRsa) {
    const auto inside = ReadPublicKey(view, made);
    if (!inside.ok() || !(*inside == key.public_key)) return another();
  }
  const auto beside = FindKey(view, CKO_PUBLIC_KEY, id.view());
  if (!beside.ok() && ReasonOf(beside.status()) == Reason::kHsmKeyMissing) return PlacePublicHalf(view, key);
  if (!beside.ok()) return beside.status();
  SEALIFT_ASSIGN_OR_RETURN(const PublicKey public_key, ReadPublicKey(view, *beside));
  return public_key == key.public_key ? OkStatus() : another();
}

// The signer verifies what the token gave with the public half.
Status ProveBySigning(const std::shared_ptr<Token>& token, const RestoredKey& key) {
  if (key.use != KeyUse::kSign) return OkStatus();
  SEALIFT_ASSIGN_OR_RETURN(const auto signer, TokenSigner::Open(token, key.public_key.key_id()));
  const Bytes random = RandomBytes(32);
  const auto proof = signer->SignMessage(random, fmt::format("proof of the restored key '{}'", key.label));
  if (proof.ok() || ReasonOf(proof.status()) != Reason::kKeyMismatch) return proof.status();
  return MakeError(Code::kFailedPrecondition, Reason::kKeyBackupInvalid,
                   fmt::format("unwrap '{}': another key came out", key.label));
}

}  // namespace

Result<PublicKey> MakeTransportKey(Token& token, const std::string& label) {
  SEALIFT_ASSIGN_OR_RETURN(const auto taken, token.keys().FindByLabel(label));
  if (taken.size() == 1) {
    SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest id, Sha256Digest::FromBytes(taken.front().id));
    SEALIFT_ASSIGN_OR_RETURN(const KeyCustody custody, token.keys().ReadCustody(id));
    const bool only_unwraps = custody.unwrap == true && custody.sign == false && custody.decrypt == false;
    if (only_unwraps && custody.born_in_token()) return token.keys().ReadPublicHalf(id);
  }
  return token.keys().Generate(KeyAlgorithm::kRsa3072, KeyUse::kUnwrap, label);
}

Result<WrappedKeys> WrapKeys(Token& token, const PublicKey& transport, const std::vector<Sha256Digest>& ids) {
  if (transport.type() != KeyType::kRsa) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     "wrap keys: the transport key is no RSA key");
  }
  SessionPool& pool = *token.pool();
  SEALIFT_ASSIGN_OR_RETURN(const SessionPool::Lease lease, pool.AcquireReadWrite());
  const TokenView view = View(pool, lease);
  Template wanted;
  wanted.Number(CKA_CLASS, CKO_PUBLIC_KEY)
      .Flag(CKA_TOKEN, false)
      .Flag(CKA_PRIVATE, false)
      .Flag(CKA_WRAP, true);
  AddPublicParts(wanted, transport);
  SEALIFT_ASSIGN_OR_RETURN(const CK_OBJECT_HANDLE to, Create(view, std::move(wanted), "transport key"));
  SEALIFT_ASSIGN_OR_RETURN(const CK_OBJECT_HANDLE aes, MakeAesKey(view));
  WrappedKeys wrapped;
  Oaep oaep;
  SEALIFT_ASSIGN_OR_RETURN(wrapped.wrapped_aes, Wrap(view, oaep.mechanism, to, aes, "the key of the backup"));
  for (const Sha256Digest& id : ids) {
    SEALIFT_ASSIGN_OR_RETURN(const CK_OBJECT_HANDLE key, FindKey(view, CKO_PRIVATE_KEY, id.view()));
    CK_MECHANISM mechanism = KeyWrap();
    SEALIFT_ASSIGN_OR_RETURN(Bytes one,
                             Wrap(view, mechanism, aes, key, fmt::format("key {}", id.hex().substr(0, 16))));
    wrapped.wrapped_keys.push_back(std::move(one));
  }
  return wrapped;
}

Status UnwrapKey(const std::shared_ptr<Token>& token, const Sha256Digest& transport, ByteView wrapped_aes,
                 ByteView wrapped_key, const RestoredKey& key, Leaving leaving) {
  const Sha256Digest id = key.public_key.key_id();
  SEALIFT_ASSIGN_OR_RETURN(const bool there, token->keys().HoldsPrivateKey(id));
  Status placed = there ? OkStatus() : Place(*token, transport, wrapped_aes, wrapped_key, key, leaving);
  if (placed.ok()) placed = Complete(*token, key);
  if (placed.ok()) placed = ProveBySigning(token, key);
  if (placed.ok()) return OkStatus();
  if (there) return Annotate(placed, fmt::format("use '{}', which the token held already", key.label));
  if (const auto gone = token->keys().Destroy(id); !gone.ok() || !*gone) {
    log::Error("a key that does not belong here stays in a token",
               {{"token", token->label()}, {"label", key.label}});
  }
  return placed;
}

}  // namespace sealift::hsm
