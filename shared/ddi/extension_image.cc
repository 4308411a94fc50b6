#include "shared/ddi/extension_image.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "shared/crypto/hash.h"
#include "shared/ddi/pread.h"
#include "shared/efi/signed_data.h"

namespace sealift::ddi {
namespace {

using nlohmann::json;

constexpr std::size_t kSuperblockBytes = 512;

Status Bad(const std::filesystem::path& path, std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kExtensionInvalid,
                   fmt::format("read extension '{}': {}", path.string(), what));
}

Result<Partition> OnlyOf(const std::vector<Partition>& partitions, const efi::Guid& type,
                         const std::filesystem::path& path, std::string_view what) {
  const auto of_type = [&type](const Partition& one) { return one.type == type; };
  const auto found = std::ranges::find_if(partitions, of_type);
  if (found == partitions.end()) return Bad(path, fmt::format("it has no {} partition", what));
  if (std::ranges::count_if(partitions, of_type) > 1)
    return Bad(path, fmt::format("it has several {} partitions", what));
  return *found;
}

struct Claim {
  Sha256Digest root_hash;
  Bytes pkcs7;
};

std::optional<Claim> ParseClaim(std::string_view text) {
  const json value = json::parse(text.substr(0, text.find('\0')), nullptr, false);
  const auto member = [&value](const char* key) {
    const auto found = value.is_object() ? value.find(key) : value.end();
    return value.is_object() && found != value.end() && found->is_string() ? found->get<std::string>()
                                                                           : std::string();
  };
  const auto root_hash = Sha256Digest::FromHex(member("rootHash"));
  auto pkcs7 = Base64Decode(member("signature"));
  if (!root_hash.ok() || !pkcs7.ok() || pkcs7->empty()) return std::nullopt;
  return Claim{.root_hash = *root_hash, .pkcs7 = *std::move(pkcs7)};
}

}  // namespace

PartitionIds IdsOf(const Sha256Digest& root_hash) {
  // The hash's bytes are the GUID's text from left to right.
  const auto from = [&root_hash](std::size_t at) {
    const std::string hex = HexEncode(root_hash.view().subspan(at, 16));
    return *efi::Guid::Parse(fmt::format("{}-{}-{}-{}-{}", hex.substr(0, 8), hex.substr(8, 4),
                                         hex.substr(12, 4), hex.substr(16, 4), hex.substr(20)));
  };
  return {.data = from(0), .hashes = from(16)};
}

std::string FormatVeritySignature(const Sha256Digest& root_hash, ByteView certificate_der, ByteView pkcs7) {
  return json{{"rootHash", root_hash.hex()},
              {"certificateFingerprint", Sha256(certificate_der).hex()},
              {"signature", Base64Encode(pkcs7)}}
      .dump();
}

Result<ExtensionImage> ExtensionImage::Open(const std::filesystem::path& path) {
  ExtensionImage image;
  image.path_ = path;
  image.fd_ = UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!image.fd_.valid()) {
    const Code code = errno == ENOENT ? Code::kNotFound : Code::kUnavailable;
    return ErrnoError(code, Reason::kFileUnreadable, fmt::format("read extension '{}'", path.string()),
                      "open", errno);
  }
  struct stat info {};
  if (::fstat(image.fd_.get(), &info) != 0 || !S_ISREG(info.st_mode)) return Bad(path, "it is no file");
  image.file_size_ = static_cast<std::uint64_t>(info.st_size);
  if (image.file_size_ > kMaxExtensionBytes) {
    return MakeError(Code::kInvalidArgument, Reason::kFileTooLarge,
                     fmt::format("read extension '{}': it is larger than 1 GiB", path.string()));
  }
  const auto partitions = ReadPartitions(image.fd_.get(), image.file_size_);
  if (!partitions.ok())
    return Annotate(partitions.status(), fmt::format("read extension '{}'", path.string()));
  SEALIFT_ASSIGN_OR_RETURN(image.data_, OnlyOf(*partitions, kRootX86, path, "root"));
  SEALIFT_ASSIGN_OR_RETURN(const Partition hashes, OnlyOf(*partitions, kRootX86Verity, path, "verity"));
  SEALIFT_ASSIGN_OR_RETURN(const Partition signature,
                           OnlyOf(*partitions, kRootX86VeritySignature, path, "verity signature"));
  if (hashes.size < kSuperblockBytes) return Bad(path, "its verity partition is too small");
  SEALIFT_ASSIGN_OR_RETURN(const Bytes superblock,
                           ReadExactly(image.fd_.get(), hashes.offset, kSuperblockBytes));
  SEALIFT_ASSIGN_OR_RETURN(image.superblock_, ParseVeritySuperblock(superblock));
  if (image.superblock_.data_blocks > image.data_.size / kVerityBlockBytes)
    return Bad(path, "its hashes are of more data than there is");
  if (signature.size > kMaxSignatureBytes) return Bad(path, "its signature partition is above 64 KiB");
  SEALIFT_ASSIGN_OR_RETURN(const Bytes text, ReadExactly(image.fd_.get(), signature.offset,
                                                         static_cast<std::size_t>(signature.size)));
  std::optional<Claim> claim = ParseClaim(AsText(text));
  if (!claim) return Bad(path, "its signature partition holds no root hash and signature");
  image.root_hash_ = claim->root_hash;
  image.pkcs7_ = std::move(claim->pkcs7);
  const PartitionIds ids = IdsOf(image.root_hash_);
  if (image.data_.id != ids.data || hashes.id != ids.hashes)
    return Bad(path, "its partitions are not the ones that the root hash names");
  return image;
}

Status ExtensionImage::Verify(std::span<const Bytes> certificates) const {
  const auto invalid = [this](std::string_view what) {
    return MakeError(Code::kUnauthenticated, Reason::kExtensionSignatureInvalid,
                     fmt::format("verify extension '{}': {}", path_.string(), what));
  };
  const auto parsed = efi::SignedData::Parse(pkcs7_);
  if (!parsed.ok()) return invalid(MessageOf(parsed.status()));
  // systemd signs the hash's hexadecimal text.
  const std::string message = root_hash_.hex();
  const std::array<ByteView, 1> pieces = {AsBytes(message)};
  const auto checked = parsed->Check(pieces, efi::SignerKind::kRsaOrP256);
  if (!checked.ok()) return invalid(MessageOf(checked.status()));
  // The certificate itself is the anchor: one that it issued has no say here.
  const auto known = std::ranges::find(certificates, checked->signer_certificate);
  if (known == certificates.end()) return invalid("it is signed by a key that is not the fleet's");
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest root, ComputeVerityRoot(fd_.get(), data_.offset, superblock_));
  if (root != root_hash_) return invalid("its data are not what was signed");
  return OkStatus();
}

}  // namespace sealift::ddi
