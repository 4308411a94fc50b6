#include "hsm/slot.h"

#include <fmt/format.h>

#include <string>
#include <utility>
#include <vector>

namespace sealift::hsm {
namespace {

bool Fits(const std::string& wanted, const std::string& actual) { return wanted.empty() || wanted == actual; }

bool Matches(const TokenUri& actual, const TokenUri& wanted) {
  return Fits(wanted.token, actual.token) && Fits(wanted.serial, actual.serial) &&
         Fits(wanted.model, actual.model) && Fits(wanted.manufacturer, actual.manufacturer);
}

}  // namespace

TokenUri IdentityOf(const CK_TOKEN_INFO& info) {
  return {.token = PaddedText(info.label, sizeof(info.label)),
          .serial = PaddedText(info.serialNumber, sizeof(info.serialNumber)),
          .model = PaddedText(info.model, sizeof(info.model)),
          .manufacturer = PaddedText(info.manufacturerID, sizeof(info.manufacturerID))};
}

Result<FoundToken> FindToken(const Module& module, const TokenUri& uri) {
  SEALIFT_ASSIGN_OR_RETURN(const auto slots, module.Slots(true));
  if (slots.empty()) {
    return LostError(CKR_TOKEN_NOT_PRESENT,
                     fmt::format("open token {}: '{}' shows no token at all", uri.Name(), module.key()));
  }
  std::vector<FoundToken> found;
  std::vector<std::string> serials;
  for (const CK_SLOT_ID slot : slots) {
    CK_TOKEN_INFO info{};
    const CK_RV rv = module.api().C_GetTokenInfo(slot, &info);
    // A token that goes away while we look is no match.
    if (rv == CKR_TOKEN_NOT_PRESENT || rv == CKR_SLOT_ID_INVALID) continue;
    if (rv != CKR_OK) return Pkcs11Error(rv, fmt::format("open token {}", uri.Name()), "C_GetTokenInfo");
    if ((info.flags & CKF_TOKEN_INITIALIZED) == 0) continue;
    FoundToken token{.slot = slot, .identity = IdentityOf(info)};
    if (!Matches(token.identity, uri)) continue;
    serials.push_back(token.identity.serial);
    found.push_back(std::move(token));
  }
  if (found.size() == 1) return found.front();
  if (found.empty()) {
    return MakeError(Code::kNotFound, Reason::kHsmTokenMissing,
                     fmt::format("open token {}: '{}' shows no such token", uri.Name(), module.key()));
  }
  return MakeError(Code::kInvalidArgument, Reason::kHsmTokenAmbiguous,
                   fmt::format("open token {}: {} tokens fit, with the serial numbers {}; add serial= to its "
                               "URI",
                               uri.Name(), found.size(), fmt::join(serials, ", ")));
}

}  // namespace sealift::hsm
