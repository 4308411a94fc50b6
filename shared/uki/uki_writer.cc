#include "shared/uki/uki_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>

#include "shared/crypto/hash.h"

namespace sealift::uki {
namespace {

constexpr std::size_t kScratchBytes = 256 << 10;

void PutU32(Bytes& bytes, std::size_t offset, std::uint64_t value) {
  for (std::size_t i = 0; i < 4; ++i)
    bytes[offset + i] = static_cast<std::uint8_t>((value >> (8 * i)) & 0xff);
}

// Where the image goes: appended, and at the end its headers once more.
class Output {
 public:
  Output() = default;
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;
  virtual ~Output() = default;
  virtual Status Write(ByteView bytes) = 0;
  virtual Status Rewrite(ByteView headers) = 0;
};

class MemoryOutput final : public Output {
 public:
  explicit MemoryOutput(std::uint64_t size) { bytes_.reserve(static_cast<std::size_t>(size)); }
  Status Write(ByteView bytes) override {
    Append(bytes_, bytes);
    return OkStatus();
  }
  Status Rewrite(ByteView headers) override {
    std::copy(headers.begin(), headers.end(), bytes_.begin());
    return OkStatus();
  }
  Bytes Take() { return std::move(bytes_); }

 private:
  Bytes bytes_;
};

// A temporary file beside `path`, renamed by Finish and removed otherwise.
class FileOutput final : public Output {
 public:
  explicit FileOutput(std::filesystem::path path)
      : path_(std::move(path)),
        temporary_((path_.parent_path() / fmt::format(".{}.XXXXXX", path_.filename().string())).string()) {}
  ~FileOutput() override {
    if (created_) ::unlink(temporary_.c_str());
  }
  Status Open() {
    fd_ = UniqueFd(::mkostemp(temporary_.data(), O_CLOEXEC));
    if (!fd_.valid()) return Error("mkostemp");
    created_ = true;
    return OkStatus();
  }
  Status Write(ByteView bytes) override { return WriteAll(fd_.get(), path_, bytes); }
  Status Rewrite(ByteView headers) override {
    if (::lseek(fd_.get(), 0, SEEK_SET) != 0) return Error("lseek");
    return WriteAll(fd_.get(), path_, headers);
  }
  Status Finish() {
    if (::fchmod(fd_.get(), 0644) != 0) return Error("fchmod");
    if (::fsync(fd_.get()) != 0) return Error("fsync");
    SEALIFT_RETURN_IF_ERROR(fd_.Close());
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) return Error("rename");
    created_ = false;
    return SyncDirectory(path_.parent_path());
  }

 private:
  Status Error(std::string_view call) const {
    return ErrnoError(Code::kUnavailable, Reason::kFileUnwritable, fmt::format("write '{}'", path_.string()),
                      call, errno);
  }
  std::filesystem::path path_;
  std::string temporary_;
  UniqueFd fd_;
  bool created_ = false;
};

// Hashes and sums what passes to the output.
class Stream {
 public:
  Stream(const UkiLayout& layout, Output& output) : layout_(layout), output_(output) {}

  // Headers and all pieces. The layout leaves no gap, so the digest's ranges are the file but for two fields.
  Status Copy() {
    const ByteView headers = layout_.headers;
    const std::size_t after_checksum = layout_.checksum_offset + 4;
    const std::size_t after_entry = layout_.security_entry_offset + 8;
    hasher_.Update(headers.first(layout_.checksum_offset));
    hasher_.Update(headers.subspan(after_checksum, layout_.security_entry_offset - after_checksum));
    hasher_.Update(headers.subspan(after_entry));
    SEALIFT_RETURN_IF_ERROR(output_.Write(headers));
    position_ = headers.size();
    Bytes scratch(kScratchBytes);
    for (const UkiLayout::Piece& piece : layout_.pieces) {
      SEALIFT_RETURN_IF_ERROR(
          piece.content.ForEach(scratch, position_, [&](ByteView bytes) { return Pass(bytes); }));
      std::uint64_t padding = piece.padded_size - piece.content.size();
      static constexpr std::array<std::uint8_t, 512> kZeros{};
      for (; padding != 0;) {
        const auto part = static_cast<std::size_t>(std::min<std::uint64_t>(padding, kZeros.size()));
        SEALIFT_RETURN_IF_ERROR(Pass(ByteView(kZeros).first(part)));
        padding -= part;
      }
    }
    SEALIFT_CHECK(position_ == layout_.file_size);
    return OkStatus();
  }

  Sha256Digest Digest() { return hasher_.Finish(); }

  // The signature, then the headers that now say where it is.
  Status Seal(ByteView signature) {
    if (position_ + signature.size() > UINT32_MAX) {
      return MakeError(Code::kInvalidArgument, Reason::kUkiLayoutInvalid,
                       "sign UKI: it would be larger than 4 GiB");
    }
    Bytes headers = layout_.headers;
    PutU32(headers, layout_.security_entry_offset, position_);
    PutU32(headers, layout_.security_entry_offset + 4, signature.size());
    checksum_.Add(position_, signature);
    SEALIFT_RETURN_IF_ERROR(output_.Write(signature));
    position_ += signature.size();
    checksum_.Add(0, headers);
    PutU32(headers, layout_.checksum_offset, checksum_.Finish(position_));
    return output_.Rewrite(headers);
  }
  std::uint64_t position() const { return position_; }

 private:
  Status Pass(ByteView bytes) {
    hasher_.Update(bytes);
    checksum_.Add(position_, bytes);
    position_ += bytes.size();
    return output_.Write(bytes);
  }

  const UkiLayout& layout_;
  Output& output_;
  Sha256Hasher hasher_;
  efi::PeChecksumSum checksum_;
  std::uint64_t position_ = 0;
};

Result<WrittenImage> WriteTo(Output& output, const UkiLayout& layout, const ImageSigner& signer) {
  Stream stream(layout, output);
  SEALIFT_RETURN_IF_ERROR(stream.Copy());
  WrittenImage written{.digest = stream.Digest()};
  SEALIFT_ASSIGN_OR_RETURN(
      const Bytes signature,
      efi::BuildImageSignature(written.digest, *signer.signer, signer.certificate, signer.intent));
  SEALIFT_RETURN_IF_ERROR(stream.Seal(signature));
  written.size = stream.position();
  return written;
}

}  // namespace

Result<WrittenImage> WriteUkiFile(const UkiLayout& layout, const ImageSigner& signer,
                                  const std::filesystem::path& path) {
  FileOutput output(path);
  SEALIFT_RETURN_IF_ERROR(output.Open());
  SEALIFT_ASSIGN_OR_RETURN(const WrittenImage written, WriteTo(output, layout, signer));
  SEALIFT_RETURN_IF_ERROR(output.Finish());
  return written;
}

Result<efi::SignedImage> WriteUki(const UkiLayout& layout, const ImageSigner& signer) {
  MemoryOutput output(layout.file_size + (16 << 10));
  SEALIFT_ASSIGN_OR_RETURN(const WrittenImage written, WriteTo(output, layout, signer));
  return efi::SignedImage{.bytes = output.Take(), .digest = written.digest};
}

}  // namespace sealift::uki
