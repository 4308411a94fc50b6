#include "hsm/microsoft_certificates.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "hsm/firmware_export.h"
#include "shared/base/files.h"
#include "shared/efi/variable_store.h"

namespace sealift::hsm {
namespace {

namespace fs = std::filesystem;

constexpr std::array<MicrosoftCertificate, 7> kCertificates = {
    {{"uefi2011", "db", "Microsoft Corporation UEFI CA 2011",
      "48e99b991f57fc52f76149599bff0a58c47154229b9f8d603ac40d3500248507"},
     {"uefi2023", "db", "Microsoft UEFI CA 2023",
      "f6124e34125bee3fe6d79a574eaa7b91c0e7bd9d929c1a321178efd611dad901"},
     {"optionrom2023", "db", "Microsoft Option ROM UEFI CA 2023",
      "e5be3e64c6e66a281457ecdece0d6d0787577aad2a3a0144262c10c14ba8d8f1"},
     {"kek2011", "KEK", "Microsoft Corporation KEK CA 2011",
      "a1117f516a32cefcba3f2d1ace10a87972fd6bbe8fe0d0b996e09e65d802a503"},
     {"kek2023", "KEK", "Microsoft Corporation KEK 2K CA 2023",
      "3cd3f0309edae228767a976dd40d9f4affc4fbd5218f2e8cc3c9dd97e8ac6f9d"},
     {"windows2011", "db", "Microsoft Windows Production PCA 2011",
      "e8e95f0733a55e8bad7be0a1413ee23c51fcea64b3c8fa6a786935fddcc71961", true},
     {"windows2023", "db", "Windows UEFI CA 2023",
      "076f1fea90ac29155ebf77c17682f75f1fdd1be196da302dc8461e350a9ae330", true}}};

constexpr std::size_t kMaxSourceFiles = 1000;
constexpr std::size_t kMaxSourceFileBytes = 1u << 20;
constexpr std::array<std::string_view, 7> kEndings = {".der", ".crt",  ".cer", ".pem",
                                                      ".esl", ".auth", ".bin"};

const MicrosoftCertificate* Recognise(const Certificate& certificate) {
  const std::string fingerprint = certificate.fingerprint().hex();
  const std::string name = certificate.common_name();
  const auto* const found = std::find_if(
      kCertificates.begin(), kCertificates.end(),
      [&](const MicrosoftCertificate& one) { return one.sha256 == fingerprint || one.common_name == name; });
  return found == kCertificates.end() ? nullptr : found;
}

// All certificates of a source, Microsoft's or not.
struct Pool {
  std::vector<Certificate> certificates;
  std::vector<std::string> warnings;

  void Add(const efi::SignatureLists& lists, std::string_view from) {
    for (const efi::SignatureEntry* entry : efi::EntriesOfType(lists, efi::kCertX509)) {
      auto certificate = Certificate::FromDer(entry->data);
      if (!certificate.ok()) {
        warnings.push_back(
            fmt::format("passed over a certificate in '{}': {}", from, MessageOf(certificate.status())));
      } else if (std::find(certificates.begin(), certificates.end(), *certificate) == certificates.end()) {
        certificates.push_back(*std::move(certificate));
      }
    }
  }
};

Status ReadFolder(const fs::path& folder, Pool& pool) {
  std::vector<fs::path> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const bool wanted = std::any_of(kEndings.begin(), kEndings.end(), [&](std::string_view ending) {
      return entry.path().filename().string().ends_with(ending);
    });
    if (entry.is_regular_file() && wanted && files.size() < kMaxSourceFiles) files.push_back(entry.path());
  }
  if (error) {
    return MakeError(Code::kNotFound, Reason::kFileUnreadable,
                     fmt::format("read folder '{}': {}", folder.string(), error.message()));
  }
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files) {
    const auto content = ReadFile(file, kMaxSourceFileBytes);
    if (!content.ok()) return content.status();
    const auto parsed = ParseFirmwareExport(*content);
    if (parsed.ok()) {
      pool.Add(parsed->lists, file.string());
    } else {
      pool.warnings.push_back(fmt::format("passed over '{}': {}", file.string(), MessageOf(parsed.status())));
    }
  }
  return OkStatus();
}

Status ReadStore(const fs::path& file, Pool& pool) {
  SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, ReadFile(file, efi::kMaxVariableStoreBytes));
  const auto variables = efi::ParseVariableStore(bytes);
  if (!variables.ok()) return Annotate(variables.status(), fmt::format("read '{}'", file.string()));
  for (const efi::StoredVariable& variable : *variables) {
    const bool wanted = (variable.name == "KEK" && variable.vendor == efi::kGlobalVariable) ||
                        (variable.name == "db" && variable.vendor == efi::kImageSecurityDatabase);
    if (!wanted) continue;
    const auto lists = efi::ParseSignatureLists(variable.data);
    if (!lists.ok()) {
      return Annotate(lists.status(), fmt::format("read {} of '{}'", variable.name, file.string()));
    }
    pool.Add(*lists, file.string());
  }
  return OkStatus();
}

Status Missing(std::string_view what) {
  return MakeError(Code::kNotFound, Reason::kVendorCertificateMissing,
                   fmt::format("add Microsoft's certificates: {}", what));
}

Status CheckNames(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    const bool known = std::any_of(kCertificates.begin(), kCertificates.end(),
                                   [&](const MicrosoftCertificate& one) { return one.name == name; });
    if (known) continue;
    std::string all;
    for (const MicrosoftCertificate& one : kCertificates)
      all += fmt::format("{}{}", all.empty() ? "" : ", ", one.name);
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     fmt::format("add Microsoft's certificates: '{}' is none of {}", name, all));
  }
  return OkStatus();
}

}  // namespace

std::span<const MicrosoftCertificate> MicrosoftCertificates() { return kCertificates; }

fs::path DefaultMicrosoftSource() {
  for (const char* path : {"/usr/share/OVMF/OVMF_VARS_4M.ms.fd", "/usr/share/OVMF/OVMF_VARS.ms.fd"}) {
    std::error_code error;
    if (fs::is_regular_file(path, error)) return path;
  }
  return {};
}

Result<MicrosoftSelection> SelectMicrosoftCertificates(const fs::path& source,
                                                       const std::vector<std::string>& names) {
  SEALIFT_RETURN_IF_ERROR(CheckNames(names));
  if (source.empty()) {
    return Missing(
        "there is no source of them; install Debian's ovmf package, or give --microsoft-cert-source");
  }
  Pool pool;
  std::error_code error;
  SEALIFT_RETURN_IF_ERROR(fs::is_directory(source, error) ? ReadFolder(source, pool)
                                                          : ReadStore(source, pool));
  MicrosoftSelection selection{.found = {}, .warnings = std::move(pool.warnings)};
  for (const MicrosoftCertificate& known : kCertificates) {
    const bool named = std::find(names.begin(), names.end(), known.name) != names.end();
    if (names.empty() ? known.windows : !named) continue;
    bool found = false;
    for (const Certificate& certificate : pool.certificates) {
      if (Recognise(certificate) != &known) continue;
      found = true;
      selection.found.push_back({.which = &known, .certificate = certificate});
      if (certificate.fingerprint().hex() == known.sha256) continue;
      selection.warnings.push_back(
          fmt::format("'{}' in '{}' is not the certificate that Microsoft published under this name (SHA-256 "
                      "{} instead of {})",
                      known.common_name, source.string(), certificate.fingerprint().hex(), known.sha256));
    }
    if (found) continue;
    const std::string lacking =
        fmt::format("'{}' lacks {} ({})", source.string(), known.name, known.common_name);
    if (named) return Missing(lacking);
    selection.warnings.push_back(lacking);
  }
  if (selection.found.empty()) return Missing(fmt::format("'{}' has none of them", source.string()));
  return selection;
}

}  // namespace sealift::hsm
