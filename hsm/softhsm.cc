#include "hsm/softhsm.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "hsm/module.h"
#include "hsm/pin.h"
#include "shared/base/files.h"
#include "shared/crypto/hash.h"

namespace sealift::hsm {
namespace {

constexpr std::size_t kLabelBytes = 32;

bool IsValidLabel(std::string_view label) {
  return !label.empty() && label.size() <= kLabelBytes && std::all_of(label.begin(), label.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '_' || c == '-';
  });
}

Status PrepareStore(const std::filesystem::path& store) {
  const auto tokens = store / "tokens";
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(tokens, 0700));
  std::error_code ignored;
  if (std::filesystem::exists(SoftHsmConfig(store), ignored)) return OkStatus();
  const std::string config = fmt::format(
      "# SoftHSM2 store of Sealift. Other tools open it with SOFTHSM2_CONF={0}\n"
      "directories.tokendir = {1}\nobjectstore.backend = file\nlog.level = ERROR\n",
      SoftHsmConfig(store).string(), tokens.string());
  return WriteFileAtomically(SoftHsmConfig(store), AsBytes(config));
}

Result<CK_SLOT_ID> FreeSlot(const Module& module, const std::string& label) {
  SEALIFT_ASSIGN_OR_RETURN(const auto slots, module.Slots(true));
  std::optional<CK_SLOT_ID> free;
  for (const CK_SLOT_ID slot : slots) {
    CK_TOKEN_INFO info{};
    if (const CK_RV rv = module.api().C_GetTokenInfo(slot, &info); rv != CKR_OK) {
      return Pkcs11Error(rv, fmt::format("create token '{}'", label), "C_GetTokenInfo");
    }
    if ((info.flags & CKF_TOKEN_INITIALIZED) == 0) {
      free = slot;
    } else if (PaddedText(info.label, sizeof(info.label)) == label) {
      return MakeError(Code::kAlreadyExists, Reason::kHsmTokenExists,
                       fmt::format("create token '{}': the store has one of this label", label));
    }
  }
  if (free.has_value()) return *free;
  return MakeError(Code::kFailedPrecondition, Reason::kHsmModuleUnusable,
                   fmt::format("create token '{}': SoftHSM offers no free slot", label));
}

// A session in which the user PIN is set by the security officer.
Status SetUserPin(const Module& module, CK_SLOT_ID slot, const std::string& label, Bytes& officer_pin,
                  const SecretBytes& pin) {
  CK_FUNCTION_LIST& api = module.api();
  const std::string object = fmt::format("create token '{}'", label);
  CK_SESSION_HANDLE session = CK_INVALID_HANDLE;
  CK_RV rv = api.C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, nullptr, nullptr, &session);
  if (rv != CKR_OK) return Pkcs11Error(rv, object, "C_OpenSession");
  const char* call = "C_Login";
  rv = api.C_Login(session, CKU_SO, officer_pin.data(), officer_pin.size());
  if (rv == CKR_OK) {
    call = "C_InitPIN";
    const ByteView user_pin = pin.ExposeSecret();
    rv = api.C_InitPIN(session, const_cast<CK_UTF8CHAR*>(user_pin.data()), user_pin.size());
  }
  // Ends the officer's login with the session, whatever happened.
  const CK_RV closed = api.C_CloseSession(session);
  if (rv != CKR_OK) return Pkcs11Error(rv, object, call);
  return closed == CKR_OK ? OkStatus() : Pkcs11Error(closed, object, "C_CloseSession");
}

Status Initialise(const Module& module, CK_SLOT_ID slot, const std::string& label, const SecretBytes& pin) {
  std::array<CK_UTF8CHAR, kLabelBytes> padded{};
  padded.fill(' ');
  std::copy(label.begin(), label.end(), padded.begin());
  Bytes officer_pin = ToBytes(HexEncode(RandomBytes(16)));
  const CK_RV rv = module.api().C_InitToken(slot, officer_pin.data(), officer_pin.size(), padded.data());
  const Status status = rv == CKR_OK
                            ? SetUserPin(module, slot, label, officer_pin, pin)
                            : Pkcs11Error(rv, fmt::format("create token '{}'", label), "C_InitToken");
  WipeMemory(officer_pin.data(), officer_pin.size());
  return status;
}

}  // namespace

Result<TokenUri> CreateSoftHsmToken(const CreateTokenOptions& options) {
  if (!IsValidLabel(options.label)) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     fmt::format("create token '{}': a label is 1 to 32 of letters, digits, '.', '_', '-'",
                                 options.label));
  }
  const auto absolute = [](const std::filesystem::path& path) {
    return std::filesystem::absolute(path).lexically_normal().string();
  };
  TokenUri uri{.token = options.label,
               .pin_file = absolute(options.pin_file),
               .softhsm_store = absolute(options.store)};
  while (uri.softhsm_store.size() > 1 && uri.softhsm_store.ends_with('/')) uri.softhsm_store.pop_back();
  SEALIFT_ASSIGN_OR_RETURN(const SecretBytes pin, ReadPinFile(uri.pin_file));
  SEALIFT_RETURN_IF_ERROR(PrepareStore(uri.softhsm_store));
  SEALIFT_ASSIGN_OR_RETURN(const std::shared_ptr<Module> module, Module::Load(uri));
  SEALIFT_ASSIGN_OR_RETURN(const CK_SLOT_ID slot, FreeSlot(*module, options.label));
  SEALIFT_RETURN_IF_ERROR(Initialise(*module, slot, options.label, pin));
  return uri;
}

}  // namespace sealift::hsm
