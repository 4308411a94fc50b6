#include "hsm/enrolment_content.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <set>

#include "hsm/firmware_export.h"
#include "hsm/microsoft_certificates.h"
#include "shared/base/files.h"
#include "shared/crypto/hash.h"

namespace sealift::hsm {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 4> kVariables = {"PK", "KEK", "db", "dbx"};
constexpr std::size_t kMaxExports = 256;

std::string Describe(const efi::Guid& type, ByteView data) {
  const ByteView hash = efi::HashOfEntry(type, data);
  if (!hash.empty()) return HexEncode(hash);
  if (type != efi::kCertX509) return {};
  const auto certificate = Certificate::FromDer(data);
  if (!certificate.ok()) return "a certificate of a kind that this program does not read";
  return fmt::format("{}, until {}", certificate->SubjectText(), FormatRfc3339(certificate->not_after()));
}

// Fills a content with every entry once.
class Collector {
 public:
  // Lists keep their shape, so that what a vendor put into one list stays in one.
  void Add(std::string_view variable, std::string_view origin, const efi::SignatureLists& lists) {
    for (const efi::SignatureList& list : lists) {
      efi::SignatureList kept{.type = list.type, .header = list.header, .entries = {}};
      for (const efi::SignatureEntry& entry : list.entries) {
        const Sha256Digest digest = Sha256(entry.data);
        if (!seen_.insert(fmt::format("{} {} {}", variable, list.type.text(), digest.hex())).second) continue;
        kept.entries.push_back(entry);
        content.entries.push_back({.variable = std::string(variable),
                                   .origin = std::string(origin),
                                   .type = std::string(efi::SignatureTypeName(list.type)),
                                   .sha256 = digest.hex(),
                                   .text = Describe(list.type, entry.data)});
      }
      if (!kept.entries.empty()) content.lists[std::string(variable)].push_back(std::move(kept));
    }
  }

  EnrolmentContent content;

 private:
  // Variable, type and digest of each entry.
  std::set<std::string> seen_;
};

// The variable that a file is named after; empty for other files.
std::string_view VariableOf(const std::string& file_name) {
  const auto same = [](char a, char b) {
    return std::tolower(static_cast<unsigned char>(a)) == std::tolower(static_cast<unsigned char>(b));
  };
  for (const std::string_view variable : kVariables) {
    if (file_name.size() < variable.size() ||
        !std::equal(variable.begin(), variable.end(), file_name.begin(), same))
      continue;
    if (file_name.size() == variable.size()) return variable;
    const char next = file_name[variable.size()];
    if (next == '.' || next == '-' || next == '_' || std::isdigit(static_cast<unsigned char>(next)) != 0)
      return variable;
  }
  return {};
}

Status AddCustomFile(const fs::path& file, Collector& collector) {
  std::vector<std::string>& warnings = collector.content.warnings;
  const std::string_view variable = VariableOf(file.filename().string());
  if (variable.empty()) {
    warnings.push_back(
        fmt::format("passed over '{}': it is not named after PK, KEK, db or dbx", file.string()));
    return OkStatus();
  }
  SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, ReadFile(file, efi::kMaxSignatureListBytes * 2));
  const auto parsed = ParseFirmwareExport(bytes);
  if (!parsed.ok()) {
    return Annotate(parsed.status(), fmt::format("take over {} from '{}'", variable, file.string()));
  }
  if (variable == "PK") {
    warnings.push_back(fmt::format("'{}' is not enrolled: PK holds one certificate, which is this set's own",
                                   file.string()));
  } else if (parsed->lists.empty()) {
    warnings.push_back(fmt::format("'{}' has no entries", file.string()));
  } else {
    collector.Add(variable, "custom", parsed->lists);
  }
  return OkStatus();
}

Status AddCustomFolder(const fs::path& folder, Collector& collector) {
  std::vector<fs::path> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  if (error) {
    return MakeError(Code::kNotFound, Reason::kFileUnreadable,
                     fmt::format("read folder '{}': {}", folder.string(), error.message()));
  }
  std::sort(files.begin(), files.end());
  const bool any = std::any_of(files.begin(), files.end(), [](const fs::path& file) {
    return !VariableOf(file.filename().string()).empty();
  });
  if (!any || files.size() > kMaxExports) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     fmt::format("take over keys from '{}': {}", folder.string(),
                                 any ? "too many files" : "no file in it is named PK, KEK, db or dbx"));
  }
  for (const fs::path& file : files) SEALIFT_RETURN_IF_ERROR(AddCustomFile(file, collector));
  return OkStatus();
}

}  // namespace

Result<EnrolmentContent> PrepareEnrolment(const EnrolmentOptions& options) {
  Collector collector;
  if (options.microsoft) {
    const fs::path source =
        options.microsoft_source.empty() ? DefaultMicrosoftSource() : options.microsoft_source;
    SEALIFT_ASSIGN_OR_RETURN(MicrosoftSelection selection,
                             SelectMicrosoftCertificates(source, options.microsoft_names));
    for (const FoundMicrosoftCertificate& one : selection.found) {
      collector.Add(one.which->variable, "microsoft",
                    {efi::X509SignatureList(kMicrosoftOwner, one.certificate.der())});
    }
    collector.content.warnings = std::move(selection.warnings);
  }
  if (!options.custom_folder.empty())
    SEALIFT_RETURN_IF_ERROR(AddCustomFolder(options.custom_folder, collector));
  return std::move(collector.content);
}

}  // namespace sealift::hsm
