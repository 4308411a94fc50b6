#include "hsm/key_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "hsm/objects.h"
#include "shared/base/log.h"

namespace sealift::hsm {
namespace {

TokenView View(SessionPool& pool, const SessionPool::Lease& lease) {
  return {.api = &pool.api(), .session = lease.handle(), .token = pool.Name()};
}

struct KeyPair {
  CK_OBJECT_HANDLE public_key = CK_INVALID_HANDLE;
  CK_OBJECT_HANDLE private_key = CK_INVALID_HANDLE;
};

// In the token, or only for the session that makes it.
enum class Where { kToken, kSession };

Template PublicTemplate(KeyAlgorithm algorithm, KeyUse use, std::string_view label, Where where) {
  Template wanted;
  wanted.Flag(CKA_TOKEN, where == Where::kToken)
      .Flag(CKA_VERIFY, use == KeyUse::kSign)
      .Flag(CKA_ENCRYPT, use == KeyUse::kDecrypt)
      .Flag(CKA_WRAP, use == KeyUse::kUnwrap)
      .Data(CKA_LABEL, AsBytes(label));
  if (IsEc(algorithm)) {
    wanted.Data(CKA_EC_PARAMS, CurveParameters(BitsOf(algorithm)));
  } else {
    constexpr auto kExponent = std::to_array<std::uint8_t>({0x01, 0x00, 0x01});
    wanted.Number(CKA_MODULUS_BITS, BitsOf(algorithm)).Data(CKA_PUBLIC_EXPONENT, kExponent);
  }
  return wanted;
}

// How much of what we want in a template a token is asked for. Older tokens do not know all of it.
enum class Asked {
  kEverything,
  // Without CKA_ALLOWED_MECHANISMS.
  kNoMechanisms,
  // Without CKA_DESTROYABLE either (PKCS#11 before 2.40).
  kLeast,
};

Template PrivateTemplate(KeyAlgorithm algorithm, KeyUse use, std::string_view label, Where where, Asked asked,
                         Leaving leaving) {
  Template wanted;
  wanted.Flag(CKA_TOKEN, where == Where::kToken)
      .Flag(CKA_PRIVATE, true)
      .Flag(CKA_SENSITIVE, true)
      .Flag(CKA_EXTRACTABLE, leaving == Leaving::kWrapped)
      .Flag(CKA_SIGN, use == KeyUse::kSign)
      .Flag(CKA_DECRYPT, use == KeyUse::kDecrypt)
      .Flag(CKA_UNWRAP, use == KeyUse::kUnwrap)
      .Data(CKA_LABEL, AsBytes(label));
  if (asked == Asked::kEverything) wanted.Number(CKA_ALLOWED_MECHANISMS, MechanismFor(IsEc(algorithm), use));
  // The copy in the token inherits it. A key that is placed otherwise must stay removable until it has its
  // id.
  // A transport key is to go when it has served.
  if (where == Where::kSession && asked != Asked::kLeast && use != KeyUse::kUnwrap) {
    wanted.Flag(CKA_DESTROYABLE, false);
  }
  return wanted;
}

Result<KeyPair> GeneratePair(const TokenView& view, KeyAlgorithm algorithm, KeyUse use,
                             const std::string& label, Where where, Leaving leaving) {
  CK_MECHANISM mechanism{IsEc(algorithm) ? CKM_EC_KEY_PAIR_GEN : CKM_RSA_PKCS_KEY_PAIR_GEN, nullptr, 0};
  CK_RV rv = CKR_OK;
  for (const Asked asked : {Asked::kEverything, Asked::kNoMechanisms, Asked::kLeast}) {
    Template public_template = PublicTemplate(algorithm, use, label, where);
    Template private_template = PrivateTemplate(algorithm, use, label, where, asked, leaving);
    KeyPair pair;
    rv = view.api->C_GenerateKeyPair(view.session, &mechanism, public_template.data(), public_template.size(),
                                     private_template.data(), private_template.size(), &pair.public_key,
                                     &pair.private_key);
    if (rv == CKR_OK) return pair;
    if (rv != CKR_ATTRIBUTE_TYPE_INVALID && rv != CKR_ATTRIBUTE_VALUE_INVALID &&
        rv != CKR_TEMPLATE_INCONSISTENT) {
      break;
    }
  }
  return CannotMake(rv, fmt::format("generate key '{}' on {}", label, view.token), "C_GenerateKeyPair");
}

void Destroy(const TokenView& view, CK_OBJECT_HANDLE object) {
  const CK_RV rv = view.api->C_DestroyObject(view.session, object);
  if (rv != CKR_OK) {
    log::Warning("a half-made key stays in the token", {{"token", view.token}, {"error", RvName(rv)}});
  }
}

// The copy is the object that stays; the session's own one vanishes with the session. What more is in
// `changes` than the token knows is left out at a second try.
Result<CK_OBJECT_HANDLE> CopyIntoToken(const TokenView& view, CK_OBJECT_HANDLE object, ByteView id,
                                       bool for_ever) {
  CK_OBJECT_HANDLE copy = CK_INVALID_HANDLE;
  CK_RV rv = CKR_TEMPLATE_INCONSISTENT;
  for (const bool everything : {for_ever, false}) {
    Template changes;
    changes.Flag(CKA_TOKEN, true).Data(CKA_ID, id);
    if (everything) changes.Flag(CKA_COPYABLE, false);
    changes.Flag(CKA_MODIFIABLE, false);  // last: a token may apply the list in order
    rv = view.api->C_CopyObject(view.session, object, changes.data(), changes.size(), &copy);
    if (rv == CKR_OK) return copy;
  }
  return CannotMake(rv, fmt::format("place key on {}", view.token), "C_CopyObject");
}

// The public half first: it can be taken away again when the private one does not follow.
Status PlaceCopy(const TokenView& view, const KeyPair& pair, ByteView id) {
  SEALIFT_ASSIGN_OR_RETURN(const CK_OBJECT_HANDLE public_copy,
                           CopyIntoToken(view, pair.public_key, id, false));
  const auto private_copy = CopyIntoToken(view, pair.private_key, id, true);
  if (!private_copy.ok()) Destroy(view, public_copy);
  return private_copy.status();
}

Status PlaceInPlace(const TokenView& view, const KeyPair& pair, ByteView id) {
  for (const CK_OBJECT_HANDLE object : {pair.private_key, pair.public_key}) {
    Template changes;
    changes.Data(CKA_ID, id);
    const CK_RV rv = view.api->C_SetAttributeValue(view.session, object, changes.data(), changes.size());
    if (rv != CKR_OK) {
      return Pkcs11Error(rv, fmt::format("name key on {}", view.token), "C_SetAttributeValue");
    }
  }
  return OkStatus();
}

Result<PublicKey> GenerateByCopy(const TokenView& view, KeyAlgorithm algorithm, KeyUse use,
                                 const std::string& label, Leaving leaving) {
  SEALIFT_ASSIGN_OR_RETURN(const KeyPair pair,
                           GeneratePair(view, algorithm, use, label, Where::kSession, leaving));
  SEALIFT_ASSIGN_OR_RETURN(PublicKey public_key, ReadPublicKey(view, pair.public_key));
  SEALIFT_RETURN_IF_ERROR(PlaceCopy(view, pair, public_key.key_id().view()));
  return public_key;
}

Result<PublicKey> GenerateInPlace(const TokenView& view, KeyAlgorithm algorithm, KeyUse use,
                                  const std::string& label, Leaving leaving) {
  SEALIFT_ASSIGN_OR_RETURN(const KeyPair pair,
                           GeneratePair(view, algorithm, use, label, Where::kToken, leaving));
  auto public_key = ReadPublicKey(view, pair.public_key);
  Status status = public_key.status();
  if (status.ok()) status = PlaceInPlace(view, pair, public_key->key_id().view());
  if (status.ok()) return public_key;
  Destroy(view, pair.private_key);
  Destroy(view, pair.public_key);
  return status;
}

}  // namespace

template <typename T>
Result<T> KeyStore::OnToken(const std::function<Result<T>(const TokenView& view)>& read) {
  std::optional<Result<T>> answer;
  SEALIFT_RETURN_IF_ERROR(pool_->Run([&](const SessionPool::Lease& lease) {
    answer.emplace(read(View(*pool_, lease)));
    return answer->status();
  }));
  return *std::move(answer);
}

Result<PublicKey> KeyStore::GenerateOnce(KeyAlgorithm algorithm, KeyUse use, const std::string& label,
                                         Placement placement, Leaving leaving) {
  SEALIFT_ASSIGN_OR_RETURN(const SessionPool::Lease lease, pool_->AcquireReadWrite());
  const TokenView view = View(*pool_, lease);
  Result<PublicKey> made = placement == Placement::kInPlace
                               ? GenerateInPlace(view, algorithm, use, label, leaving)
                               : GenerateByCopy(view, algorithm, use, label, leaving);
  if (!made.ok() && placement == Placement::kBest && LossOf(made.status()) == Loss::kNone &&
      ReasonOf(made.status()) != Reason::kHsmTokenFull) {
    log::Info("token does not copy keys into place; they stay modifiable",
              {{"token", pool_->token_label()}, {"error", MessageOf(made.status())}});
    made = GenerateInPlace(view, algorithm, use, label, leaving);
  }
  return made;
}

Result<PublicKey> KeyStore::Generate(KeyAlgorithm algorithm, KeyUse use, const std::string& label,
                                     Placement placement, Leaving leaving) {
  SEALIFT_ASSIGN_OR_RETURN(const auto taken, FindByLabel(label));
  if (!taken.empty()) {
    return MakeError(Code::kAlreadyExists, Reason::kHsmKeyExists,
                     fmt::format("generate key '{}' on {}: it is already there", label, pool_->Name()));
  }
  Result<PublicKey> made = GenerateOnce(algorithm, use, label, placement, leaving);
  if (!made.ok()) return made;
  SEALIFT_ASSIGN_OR_RETURN(const KeyCustody custody, ReadCustody(made->key_id()));
  if (custody.sensitive != true || custody.extractable != (leaving == Leaving::kWrapped)) {
    return MakeError(Code::kFailedPrecondition, Reason::kHsmFailed,
                     fmt::format("generate key '{}' on {}: the token made a key that it would give out",
                                 label, pool_->Name()));
  }
  return made;
}

Result<std::vector<StoredKey>> KeyStore::List() {
  return OnToken<std::vector<StoredKey>>([](const TokenView& view) -> Result<std::vector<StoredKey>> {
    SEALIFT_ASSIGN_OR_RETURN(
        const auto objects,
        FindObjects(view, Template().Number(CKA_CLASS, CKO_PRIVATE_KEY).Flag(CKA_TOKEN, true)));
    if (objects.empty()) SEALIFT_RETURN_IF_ERROR(CheckLoggedIn(view));
    std::vector<StoredKey> keys;
    for (const CK_OBJECT_HANDLE object : objects) {
      SEALIFT_ASSIGN_OR_RETURN(Bytes id, ReadAttribute(view, object, CKA_ID));
      SEALIFT_ASSIGN_OR_RETURN(const Bytes label, ReadAttribute(view, object, CKA_LABEL));
      keys.push_back({std::move(id), ToText(label)});
    }
    return keys;
  });
}

Result<bool> KeyStore::HoldsPrivateKey(const Sha256Digest& id) {
  const auto found = OnToken<CK_OBJECT_HANDLE>(
      [&](const TokenView& view) { return FindKey(view, CKO_PRIVATE_KEY, id.view()); });
  if (found.ok()) return true;
  if (ReasonOf(found.status()) == Reason::kHsmKeyMissing) return false;
  return found.status();
}

Result<std::vector<StoredKey>> KeyStore::FindByLabel(std::string_view label) {
  SEALIFT_ASSIGN_OR_RETURN(std::vector<StoredKey> keys, List());
  std::erase_if(keys, [&](const StoredKey& key) { return key.label != label; });
  return keys;
}

Result<PublicKey> KeyStore::ReadPublicHalf(const Sha256Digest& id) {
  SEALIFT_ASSIGN_OR_RETURN(PublicKey key, OnToken<PublicKey>([&](const TokenView& view) -> Result<PublicKey> {
                             SEALIFT_ASSIGN_OR_RETURN(const CK_OBJECT_HANDLE object,
                                                      FindKey(view, CKO_PUBLIC_KEY, id.view()));
                             return ReadPublicKey(view, object);
                           }));
  if (key.key_id() != id) {
    return MakeError(Code::kFailedPrecondition, Reason::kKeyMismatch,
                     fmt::format("read key {} on {}: the public half there belongs to another key",
                                 id.hex().substr(0, 16), pool_->Name()));
  }
  return key;
}

Result<KeyCustody> KeyStore::ReadCustody(const Sha256Digest& id) {
  return OnToken<KeyCustody>([&](const TokenView& view) -> Result<KeyCustody> {
    SEALIFT_ASSIGN_OR_RETURN(const CK_OBJECT_HANDLE object, FindKey(view, CKO_PRIVATE_KEY, id.view()));
    const auto flag = [&](CK_ATTRIBUTE_TYPE type) { return ReadFlag(view, object, type); };
    return KeyCustody{.sensitive = flag(CKA_SENSITIVE),
                      .always_sensitive = flag(CKA_ALWAYS_SENSITIVE),
                      .extractable = flag(CKA_EXTRACTABLE),
                      .never_extractable = flag(CKA_NEVER_EXTRACTABLE),
                      .local = flag(CKA_LOCAL),
                      .modifiable = flag(CKA_MODIFIABLE),
                      .copyable = flag(CKA_COPYABLE),
                      .destroyable = flag(CKA_DESTROYABLE),
                      .sign = flag(CKA_SIGN),
                      .decrypt = flag(CKA_DECRYPT),
                      .unwrap = flag(CKA_UNWRAP)};
  });
}

Result<bool> KeyStore::HasEc() {
  CK_MECHANISM_INFO info{};
  const CK_RV rv = pool_->api().C_GetMechanismInfo(pool_->slot(), CKM_EC_KEY_PAIR_GEN, &info);
  if (rv == CKR_OK) return true;
  if (rv == CKR_MECHANISM_INVALID) return false;
  return Pkcs11Error(rv, fmt::format("ask {} for EC keys", pool_->Name()), "C_GetMechanismInfo");
}

Status KeyStore::CheckMechanism(CK_MECHANISM_TYPE mechanism, std::string_view name, CK_FLAGS flag,
                                CK_ULONG bits) {
  return pool_->Run([&](const SessionPool::Lease& /*lease*/) -> Status {
    CK_MECHANISM_INFO info{};
    const CK_RV rv = pool_->api().C_GetMechanismInfo(pool_->slot(), mechanism, &info);
    const std::string asked = fmt::format("ask {} for {}", pool_->Name(), name);
    if (rv != CKR_OK) return Pkcs11Error(rv, asked, "C_GetMechanismInfo");
    if ((info.flags & flag) == 0) {
      return MakeError(Code::kFailedPrecondition, Reason::kHsmMechanismMissing,
                       fmt::format("{}: the token has it for other uses only", asked));
    }
    // Some tokens give no sizes; both zero.
    if (info.ulMaxKeySize != 0 && (bits < info.ulMinKeySize || bits > info.ulMaxKeySize)) {
      return MakeError(Code::kFailedPrecondition, Reason::kHsmMechanismMissing,
                       fmt::format("{}: {} bits are not within its {} to {}", asked, bits, info.ulMinKeySize,
                                   info.ulMaxKeySize));
    }
    return OkStatus();
  });
}

Status KeyStore::CheckMechanisms(KeyAlgorithm algorithm, KeyUse use) {
  const CK_ULONG bits = BitsOf(algorithm);
  if (IsEc(algorithm)) {
    SEALIFT_RETURN_IF_ERROR(
        CheckMechanism(CKM_EC_KEY_PAIR_GEN, "CKM_EC_KEY_PAIR_GEN", CKF_GENERATE_KEY_PAIR, bits));
    return CheckMechanism(CKM_ECDSA, "CKM_ECDSA", CKF_SIGN, bits);
  }
  SEALIFT_RETURN_IF_ERROR(
      CheckMechanism(CKM_RSA_PKCS_KEY_PAIR_GEN, "CKM_RSA_PKCS_KEY_PAIR_GEN", CKF_GENERATE_KEY_PAIR, bits));
  if (use == KeyUse::kSign) return CheckMechanism(CKM_RSA_PKCS, "CKM_RSA_PKCS", CKF_SIGN, bits);
  return CheckMechanism(CKM_RSA_PKCS_OAEP, "CKM_RSA_PKCS_OAEP", CKF_DECRYPT, bits);
}

Result<bool> KeyStore::Destroy(const Sha256Digest& id) {
  SEALIFT_ASSIGN_OR_RETURN(const SessionPool::Lease lease, pool_->AcquireReadWrite());
  const TokenView view = View(*pool_, lease);
  // The private half first: where it stays, so does the other.
  for (const CK_OBJECT_CLASS half : {CKO_PRIVATE_KEY, CKO_PUBLIC_KEY}) {
    SEALIFT_ASSIGN_OR_RETURN(
        const auto objects,
        FindObjects(view, Template().Number(CKA_CLASS, half).Flag(CKA_TOKEN, true).Data(CKA_ID, id.view())));
    for (const CK_OBJECT_HANDLE object : objects) {
      const CK_RV rv = view.api->C_DestroyObject(view.session, object);
      if (rv == CKR_ACTION_PROHIBITED || rv == CKR_ATTRIBUTE_READ_ONLY) return false;
      if (rv != CKR_OK) {
        return Pkcs11Error(rv, fmt::format("destroy key {} on {}", id.hex().substr(0, 16), view.token),
                           "C_DestroyObject");
      }
    }
  }
  return true;
}

}  // namespace sealift::hsm
