#include "node-agent/install/config_source.h"

#include <fmt/format.h>

#include "shared/base/untrusted_files.h"
#include "shared/crypto/hash.h"
#include "shared/install/config_signature.h"
#include "shared/install/yaml_tree.h"
#include "shared/order/dsse.h"

namespace sealift::agent {
namespace {

bool IsThere(const std::filesystem::path& path) {
  std::error_code error;
  return !path.empty() &&
         std::filesystem::symlink_status(path, error).type() != std::filesystem::file_type::not_found;
}

Result<std::string> ReadText(const std::filesystem::path& path, std::uint64_t limit) {
  SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, ReadRegularFile(path, limit));
  return ToText(bytes);
}

Result<TrustedConfig> Parsed(std::string text, std::string source) {
  TrustedConfig trusted{.digest = Sha256(AsBytes(text)), .source = std::move(source)};
  SEALIFT_ASSIGN_OR_RETURN(trusted.config, ParseInstallConfig(text));
  trusted.text = std::move(text);
  return trusted;
}

// The signature is checked before a parser sees the text.
Result<TrustedConfig> LoadSigned(const std::filesystem::path& file, std::span<const PublicKey> keys) {
  SEALIFT_ASSIGN_OR_RETURN(std::string text, ReadText(file, kMaxYamlBytes));
  const std::filesystem::path beside = file.string() + ".sig";
  const Result<std::string> signature = ReadText(beside, order::kMaxEnvelopeBytes);
  if (!signature.ok()) {
    return MakeError(
        Code::kUnauthenticated, Reason::kInstallConfigUnsigned,
        fmt::format("verify install configuration '{}': {}", file.string(), MessageOf(signature.status())));
  }
  const Result<Sha256Digest> signer = VerifyInstallConfiguration(text, *signature, keys);
  if (!signer.ok()) return Annotate(signer.status(), fmt::format("'{}'", file.string()));
  return Parsed(std::move(text), "medium, signed by " + signer->hex());
}

}  // namespace

Result<TrustedConfig> LoadTrustedConfig(const ConfigPlaces& places, std::span<const PublicKey> keys) {
  if (!places.named.empty()) return LoadSigned(places.named, keys);
  if (!places.medium.empty()) {
    const std::filesystem::path file = places.medium / kInstallConfigurationFile;
    // A signature without its file is as suspicious as the reverse.
    if (IsThere(file) || IsThere(places.medium / kInstallSignatureFile)) return LoadSigned(file, keys);
  }
  SEALIFT_ASSIGN_OR_RETURN(std::string text, ReadText(places.image, kMaxYamlBytes));
  return Parsed(std::move(text), "image");
}

Result<TrustedConfig> LoadAnyConfig(const std::filesystem::path& file) {
  SEALIFT_ASSIGN_OR_RETURN(std::string text, ReadText(file, kMaxYamlBytes));
  return Parsed(std::move(text), "unsigned");
}

}  // namespace sealift::agent
