#include "shared/efi/auth_variable.h"

#include <fmt/format.h>

namespace sealift::efi {
namespace {

constexpr std::size_t kMaxAuthBytes = kMaxSignatureListBytes + (1u << 20);
constexpr std::size_t kTimeBytes = 16;
// dwLength, wRevision, wCertificateType, CertType.
constexpr std::size_t kCertificateHeaderBytes = 24;
constexpr std::uint16_t kRevision = 0x0200;
constexpr std::uint16_t kTypeEfiGuid = 0x0ef1;
constexpr std::array<std::uint8_t, 9> kPkcs7DataOid = {0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01};

Status Malformed(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                   fmt::format("read authenticated variable: {}", what));
}

Bytes SerializeTime(const EfiTime& time) {
  ByteWriter writer(ByteWriter::Endian::kLittle);
  writer.U16(time.year);
  for (const std::uint8_t field : {time.month, time.day, time.hour, time.minute, time.second})
    writer.U8(field);
  writer.Zeros(kTimeBytes - writer.size());
  return std::move(writer).Finish();
}

// What comes before the payload under the signature.
Bytes SignedPrefix(const VariableTarget& target, const EfiTime& time) {
  ByteWriter writer(ByteWriter::Endian::kLittle);
  writer.Raw(Utf16Le(target.name));
  writer.Raw(target.vendor.view());
  writer.U32(target.attributes);
  writer.Raw(SerializeTime(time));
  return std::move(writer).Finish();
}

Result<EfiTime> ReadTime(ByteReader& reader) {
  EfiTime time;
  time.year = reader.U16();
  time.month = reader.U8();
  time.day = reader.U8();
  time.hour = reader.U8();
  time.minute = reader.U8();
  time.second = reader.U8();
  const ByteView zeros = reader.Take(kTimeBytes - 7);
  if (!reader.ok()) return Malformed("it ends inside its time");
  for (const std::uint8_t byte : zeros)
    if (byte != 0) return Malformed("a time with parts that must be zero");
  if (time.month < 1 || time.month > 12 || time.day < 1 || time.day > 31 || time.hour > 23 ||
      time.minute > 59 || time.second > 59)
    return Malformed("a time that does not exist");
  return time;
}

}  // namespace

EfiTime ToEfiTime(UnixMillis time) {
  const auto day = std::chrono::floor<std::chrono::days>(time);
  const std::chrono::year_month_day date(day);
  const std::chrono::hh_mm_ss clock(std::chrono::floor<std::chrono::seconds>(time - day));
  return {.year = static_cast<std::uint16_t>(static_cast<int>(date.year())),
          .month = static_cast<std::uint8_t>(static_cast<unsigned>(date.month())),
          .day = static_cast<std::uint8_t>(static_cast<unsigned>(date.day())),
          .hour = static_cast<std::uint8_t>(clock.hours().count()),
          .minute = static_cast<std::uint8_t>(clock.minutes().count()),
          .second = static_cast<std::uint8_t>(clock.seconds().count())};
}

Result<VariableTarget> SecureBootVariable(std::string_view name, std::uint32_t attributes) {
  if (name == "PK" || name == "KEK")
    return VariableTarget{.name = std::string(name), .vendor = kGlobalVariable, .attributes = attributes};
  if (name == "db" || name == "dbx" || name == "dbt")
    return VariableTarget{
        .name = std::string(name), .vendor = kImageSecurityDatabase, .attributes = attributes};
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                   fmt::format("name Secure Boot variable '{}': it is none of PK, KEK, db, dbx, dbt", name));
}

Result<Bytes> BuildAuthenticatedVariable(const VariableTarget& target, UnixMillis time, ByteView payload,
                                         Signer& signer, ByteView certificate_der) {
  const EfiTime efi_time = ToEfiTime(time);
  const Bytes prefix = SignedPrefix(target, efi_time);
  const std::array<ByteView, 2> message = {prefix, payload};
  SEALIFT_ASSIGN_OR_RETURN(const Bytes signed_data,
                           BuildSignedData({.content_type = kPkcs7DataOid,
                                            .message = message,
                                            .certificate = certificate_der,
                                            .intent = fmt::format("authenticated variable {} at {}",
                                                                  target.name, FormatRfc3339(time))},
                                           signer));
  ByteWriter writer(ByteWriter::Endian::kLittle);
  writer.Raw(SerializeTime(efi_time));
  writer.U32(static_cast<std::uint32_t>(kCertificateHeaderBytes + signed_data.size()));
  writer.U16(kRevision);
  writer.U16(kTypeEfiGuid);
  writer.Raw(kCertTypePkcs7.view());
  writer.Raw(signed_data);
  writer.Raw(payload);
  return std::move(writer).Finish();
}

Result<AuthenticatedVariable> ParseAuthenticatedVariable(ByteView auth) {
  if (auth.size() > kMaxAuthBytes) return Malformed(fmt::format("{} bytes", auth.size()));
  ByteReader reader(auth, ByteReader::Endian::kLittle);
  AuthenticatedVariable variable;
  SEALIFT_ASSIGN_OR_RETURN(variable.time, ReadTime(reader));
  const std::uint32_t length = reader.U32();
  const std::uint16_t revision = reader.U16();
  const std::uint16_t type = reader.U16();
  const ByteView guid = reader.Take(16);
  if (!reader.ok()) return Malformed("it ends inside its certificate header");
  if (revision != kRevision || type != kTypeEfiGuid ||
      !std::equal(guid.begin(), guid.end(), kCertTypePkcs7.bytes.begin()))
    return Malformed("its certificate is not PKCS#7");
  if (length < kCertificateHeaderBytes || length - kCertificateHeaderBytes > reader.remaining())
    return Malformed("its certificate's length does not fit");
  variable.signed_data = ToBytes(reader.Take(length - kCertificateHeaderBytes));
  variable.payload = ToBytes(reader.Take(reader.remaining()));
  return variable;
}

Result<CheckedSignedData> CheckAuthenticatedVariable(const AuthenticatedVariable& variable,
                                                     const VariableTarget& target) {
  SEALIFT_ASSIGN_OR_RETURN(const SignedData data, SignedData::Parse(variable.signed_data));
  const Bytes prefix = SignedPrefix(target, variable.time);
  const std::array<ByteView, 2> message = {prefix, variable.payload};
  Result<CheckedSignedData> checked = data.Check(message);
  if (!checked.ok()) return Annotate(checked.status(), fmt::format("verify write of {}", target.name));
  return checked;
}

Result<VerifiedVariable> VerifyAuthenticatedVariable(ByteView auth, const VariableTarget& target,
                                                     std::span<const SignatureList> trusted) {
  SEALIFT_ASSIGN_OR_RETURN(const AuthenticatedVariable variable, ParseAuthenticatedVariable(auth));
  const Result<CheckedSignedData> checked = CheckAuthenticatedVariable(variable, target);
  if (!checked.ok()) return checked.status();
  const std::vector<const SignatureEntry*> entries = EntriesOfType(trusted, kCertX509);
  std::vector<ByteView> anchors;
  for (const SignatureEntry* entry : entries) anchors.emplace_back(entry->data);
  const int anchor = FindAnchor(*checked, anchors);
  if (anchor < 0) {
    return MakeError(
        Code::kUnauthenticated, Reason::kCertificateInvalid,
        fmt::format("verify write of {}: its signer is not one the machine trusts", target.name));
  }
  SEALIFT_ASSIGN_OR_RETURN(SignatureLists content, ParseSignatureLists(variable.payload));
  return VerifiedVariable{.time = variable.time,
                          .content = std::move(content),
                          .signer_certificate = checked->signer_certificate,
                          .authority = *entries[static_cast<std::size_t>(anchor)]};
}

}  // namespace sealift::efi
