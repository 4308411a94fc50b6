#include "hsm/firmware_export.h"

#include <fmt/format.h>

#include <algorithm>

#include "shared/crypto/certificate.h"
#include "shared/efi/auth_variable.h"

namespace sealift::hsm {
namespace {

constexpr std::size_t kAttributeBytes = 4;
constexpr std::string_view kPemMark = "-----BEGIN CERTIFICATE-----";
constexpr std::uint8_t kDerSequence = 0x30;
constexpr std::size_t kAuthTypeOffset = 22;  // wCertificateType behind EFI_TIME, dwLength and wRevision

bool StartsWithListType(ByteView bytes) {
  if (bytes.size() < 16) return false;
  const efi::Guid type = efi::Guid::FromBytes(bytes.first(16)).value();
  return efi::SignatureTypeName(type) != "unknown";
}

// Attributes of variables are small numbers; a signature list begins with a GUID, whose first four bytes are
// not.
bool StartsWithAttributes(ByteView bytes) {
  return bytes.size() >= kAttributeBytes && bytes[0] != 0 && bytes[0] < 0x80 && bytes[1] == 0 &&
         bytes[2] == 0 && bytes[3] == 0;
}

bool LooksAuthenticated(ByteView bytes) {
  return bytes.size() > kAuthTypeOffset + 1 && bytes[kAuthTypeOffset] == 0xf1 &&
         bytes[kAuthTypeOffset + 1] == 0x0e;
}

Result<FirmwareExport> FromCertificates(std::string_view form, const std::vector<Bytes>& certificates) {
  FirmwareExport result{.form = form, .lists = {}};
  for (const Bytes& der : certificates) result.lists.push_back(efi::X509SignatureList({}, der));
  return result;
}

Result<FirmwareExport> FromPem(ByteView bytes) {
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<Certificate> chain, Certificate::ChainFromPem(AsText(bytes)));
  std::vector<Bytes> certificates;
  for (const Certificate& certificate : chain) certificates.push_back(certificate.der());
  return FromCertificates("certificates (PEM)", certificates);
}

Result<FirmwareExport> FromLists(std::string_view form, ByteView bytes) {
  SEALIFT_ASSIGN_OR_RETURN(efi::SignatureLists lists, efi::ParseSignatureLists(bytes));
  return FirmwareExport{.form = form, .lists = std::move(lists)};
}

}  // namespace

Result<FirmwareExport> ParseFirmwareExport(ByteView bytes) {
  if (bytes.empty()) return FirmwareExport{.form = "empty", .lists = {}};
  if (AsText(bytes).find(kPemMark) != std::string_view::npos) return FromPem(bytes);
  if (LooksAuthenticated(bytes) && !StartsWithListType(bytes)) {
    SEALIFT_ASSIGN_OR_RETURN(const efi::AuthenticatedVariable variable,
                             efi::ParseAuthenticatedVariable(bytes));
    return FromLists("authenticated variable", variable.payload);
  }
  if (bytes[0] == kDerSequence && !StartsWithListType(bytes)) {
    SEALIFT_RETURN_IF_ERROR(efi::ParseCertificate(bytes).status());
    return FromCertificates("certificate", {ToBytes(bytes)});
  }
  if (StartsWithAttributes(bytes)) return FromLists("efivarfs dump", bytes.subspan(kAttributeBytes));
  return FromLists("signature lists", bytes);
}

}  // namespace sealift::hsm
