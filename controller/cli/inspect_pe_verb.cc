// `sealift inspect pe`: sections, digests and signatures of an image, and what a UKI will be measured as. The
// file is read in pieces, so memory does not grow with it.
#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <memory>

#include "controller/cli/inspect_answer.h"
#include "shared/crypto/hash.h"
#include "shared/efi/authenticode.h"
#include "shared/efi/image_signatures.h"
#include "shared/efi/signed_data.h"
#include "shared/uki/content_source.h"
#include "shared/uki/pcr_bank.h"
#include "shared/uki/sections.h"

namespace sealift::cli {
namespace {

using nlohmann::json;

// Hashing with all algorithms stays within ten seconds.
constexpr std::uint64_t kMaxFileBytes = 768ull << 20;
constexpr std::size_t kHeadBytes = 1 << 20;
constexpr std::size_t kMaxTableBytes = 16 << 20;
constexpr std::size_t kScratchBytes = 256 << 10;
constexpr std::size_t kMaxMagicBytes = 4096;
constexpr std::size_t kMaxMeasuredProfiles = 64;

constexpr std::string_view kAlgorithms[] = {"sha1", "sha256", "sha384", "sha512"};
// What an OS in the initrd passes, and one that comes after an initrd.
constexpr std::string_view kPhasePaths[] = {"",
                                            "sysinit",
                                            "sysinit:ready",
                                            "enter-initrd",
                                            "enter-initrd:leave-initrd",
                                            "enter-initrd:leave-initrd:sysinit",
                                            "enter-initrd:leave-initrd:sysinit:ready"};

// Several hashes over the same bytes.
class Hashes {
 public:
  explicit Hashes(std::span<const std::string_view> names) {
    for (const std::string_view name : names) {
      contexts_.emplace_back(std::string(name), EvpMdCtxPtr(EVP_MD_CTX_new()));
      SEALIFT_CHECK(EVP_DigestInit_ex(contexts_.back().second.get(),
                                      EVP_get_digestbyname(contexts_.back().first.c_str()), nullptr) == 1);
    }
  }
  void Update(ByteView bytes) {
    for (const auto& [name, context] : contexts_)
      SEALIFT_CHECK(EVP_DigestUpdate(context.get(), bytes.data(), bytes.size()) == 1);
  }
  // What the digests would be now; more bytes may follow.
  std::map<std::string, Bytes> Digests() const {
    std::map<std::string, Bytes> digests;
    for (const auto& [name, context] : contexts_) {
      const EvpMdCtxPtr copy(EVP_MD_CTX_new());
      unsigned size = 0;
      Bytes digest(EVP_MAX_MD_SIZE);
      SEALIFT_CHECK(EVP_MD_CTX_copy_ex(copy.get(), context.get()) == 1 &&
                    EVP_DigestFinal_ex(copy.get(), digest.data(), &size) == 1);
      digest.resize(size);
      digests[name] = std::move(digest);
    }
    return digests;
  }

 private:
  std::vector<std::pair<std::string, EvpMdCtxPtr>> contexts_;
};

std::string MachineName(std::uint16_t machine) {
  switch (machine) {
    case 0x8664:
      return "x86_64";
    case 0xaa64:
      return "aarch64";
    case 0x014c:
      return "i386";
    case 0x01c0:
    case 0x01c2:
    case 0x01c4:
      return "arm";
    case 0x5064:
      return "riscv64";
    case 0x6264:
      return "loongarch64";
    default:
      return fmt::format("{:#06x}", machine);
  }
}

// UTF-8 or not, the name must fit into JSON.
std::string PrintableName(std::string_view name) {
  std::string text;
  for (const char c : name)
    text +=
        c >= 0x20 && c < 0x7f ? std::string(1, c) : fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return text;
}

struct Image {
  uki::SourceFile file;
  Bytes head;
  std::optional<efi::PeImage> pe;
};

Result<std::unique_ptr<Image>> OpenImage(const std::string& path) {
  auto image = std::make_unique<Image>();
  SEALIFT_ASSIGN_OR_RETURN(image->file, uki::OpenSource(path, kMaxFileBytes));
  SEALIFT_ASSIGN_OR_RETURN(image->head, image->file.source.Head(kHeadBytes));
  SEALIFT_ASSIGN_OR_RETURN(image->pe, efi::PeImage::ParseHead(image->head, image->file.source.size()));
  return image;
}

Status HashPart(const uki::ContentSource& source, Hashes& hashes) {
  Bytes scratch(kScratchBytes);
  return source.ForEach(scratch, 0, [&](ByteView piece) -> Status {
    hashes.Update(piece);
    return OkStatus();
  });
}

// The image's digests: as signers make them, and where padding decides also without it.
Result<efi::ImageDigests> Digests(const Image& image) {
  Hashes hashes(kAlgorithms);
  for (const efi::FileRange& range : efi::AuthenticodeRanges(*image.pe))
    SEALIFT_RETURN_IF_ERROR(HashPart(image.file.source.Part(range.offset, range.size), hashes));
  efi::ImageDigests digests;
  const auto add = [&] {
    for (auto& [name, digest] : hashes.Digests())
      digests[name].insert(digests[name].begin(), std::move(digest));
  };
  const std::uint64_t hashed = image.pe->file_size() - image.pe->certificate_table_size();
  add();
  if (hashed % 8 == 0) return digests;
  hashes.Update(Bytes(8 - hashed % 8));
  add();
  return digests;
}

Result<std::vector<efi::ImageSignature>> Signatures(const Image& image, const efi::ImageDigests& digests) {
  const std::uint64_t size = image.pe->certificate_table_size();
  if (size == 0) return std::vector<efi::ImageSignature>();
  if (size > kMaxTableBytes) {
    return MakeError(Code::kInvalidArgument, Reason::kImageMalformed,
                     "read certificate table: it is larger than 16 MiB");
  }
  SEALIFT_ASSIGN_OR_RETURN(const Bytes table,
                           image.file.source.Part(image.pe->file_size() - size, size).Head(kMaxTableBytes));
  return efi::ReadImageSignatures(table, digests);
}

void AddSignatures(const std::vector<efi::ImageSignature>& signatures, Answer& answer) {
  answer.object["signatures"] = json::array();
  for (const efi::ImageSignature& signature : signatures) {
    json signers = json::array();
    std::string by;
    for (const Bytes& der : signature.signers) {
      signers.push_back({{"sha256", Sha256(der).hex()}});
      by += " by " + Sha256(der).hex();
    }
    json object = {{"digest_algorithm", signature.digest_algorithm},
                   {"digest", HexEncode(signature.digest)},
                   {"digest_ok", signature.digest_ok},
                   {"signature_ok", signature.signature_ok},
                   {"signers", std::move(signers)}};
    if (!signature.problem.empty()) object["problem"] = signature.problem;
    answer.object["signatures"].push_back(std::move(object));
    answer.text += fmt::format("\nsignature    {}{}", signature.digest_algorithm, by);
    if (!signature.problem.empty()) answer.text += fmt::format(": {}", signature.problem);
  }
  if (signatures.empty()) answer.text += "\nsignature    none";
}

// Whether a good signature leads to the certificate.
bool LeadsTo(const std::vector<efi::ImageSignature>& signatures, const Bytes& certificate) {
  const std::array<ByteView, 1> anchors = {certificate};
  for (const efi::ImageSignature& signature : signatures) {
    if (!signature.digest_ok || !signature.signature_ok) continue;
    for (const Bytes& signer : signature.signers)
      if (efi::FindAnchor({.signer_certificate = signer, .certificates = signature.certificates}, anchors) ==
          0)
        return true;
  }
  return false;
}

// PCR 11 by bank and phase of what a profile's sections measure as.
Result<json> Pcr11(const std::map<std::string, std::map<std::string, Bytes>>& digests_by_bank) {
  json banks = json::object();
  for (const auto& [name, digests] : digests_by_bank) {
    for (const std::string_view phase : kPhasePaths) {
      SEALIFT_ASSIGN_OR_RETURN(const Bytes value, uki::Pcr11InBank(*uki::FindPcrBank(name), digests, phase));
      banks[name][std::string(phase)] = HexEncode(value);
    }
  }
  return banks;
}

// Hashes each measured section once, whatever the number of profiles that share it.
class SectionHashes {
 public:
  explicit SectionHashes(const Image& image) : image_(image) {}

  Result<std::map<std::string, Bytes>> Of(const efi::PeSection& section) {
    const auto found = known_.find(&section);
    if (found != known_.end()) return found->second;
    if (section.virtual_size > section.raw_size) {
      return MakeError(Code::kInvalidArgument, Reason::kImageMalformed,
                       fmt::format("read PE image: section {} is longer in memory than in the file",
                                   PrintableName(section.name)));
    }
    Hashes hashes(kBanks);
    SEALIFT_RETURN_IF_ERROR(
        HashPart(image_.file.source.Part(section.raw_offset, section.virtual_size), hashes));
    return known_[&section] = hashes.Digests();
  }

 private:
  static constexpr std::string_view kBanks[] = {"sha256", "sha384"};
  const Image& image_;
  std::map<const efi::PeSection*, std::map<std::string, Bytes>> known_;
};

// What only unified kernel images have. `problem` instead, where its stub's measurements are not known.
Status AddUki(const Image& image, Answer& answer) {
  const efi::PeSection* magic_section = image.pe->Find(uki::kSystemdMagic);
  if (magic_section == nullptr || image.pe->Find(uki::kLinux) == nullptr) return OkStatus();
  const std::uint64_t magic_bytes = std::min(magic_section->virtual_size, magic_section->raw_size);
  SEALIFT_ASSIGN_OR_RETURN(
      const Bytes text,
      image.file.source.Part(magic_section->raw_size == 0 ? 0 : magic_section->raw_offset, magic_bytes)
          .Head(kMaxMagicBytes));
  const auto give_up = [&](const Status& why) {
    answer.object["problem"] = MessageOf(why);
    answer.text += fmt::format("\nPCR 11       unknown: {}", MessageOf(why));
    return OkStatus();
  };
  const Result<uki::SystemdMagic> magic = uki::ParseSystemdMagic(text);
  if (!magic.ok()) return give_up(magic.status());
  answer.object["stub"] = PrintableName(magic->component + " " + magic->version);
  const auto measured = uki::MeasuredSections(magic->major);
  if (!measured.ok()) return give_up(measured.status());
  const auto profiles = uki::SectionsByProfile(*image.pe);
  if (profiles.size() > kMaxMeasuredProfiles) {
    return MakeError(Code::kInvalidArgument, Reason::kImageMalformed, "read UKI: more than 64 profiles");
  }
  SectionHashes hashes(image);
  json list = json::array();
  for (std::size_t number = 0; number < profiles.size(); ++number) {
    std::map<std::string, std::map<std::string, Bytes>> by_bank;
    json shown = json::object();
    for (const std::string_view name : *measured) {
      const auto found = profiles[number].find(name);
      if (found == profiles[number].end() || found->second->virtual_size == 0) continue;
      const auto digests = hashes.Of(*found->second);
      // The image is well formed even so: ukify 257.0 to 257.2 wrote .linux like that.
      if (!digests.ok() && ReasonOf(digests.status()) == Reason::kImageMalformed)
        return give_up(digests.status());
      if (!digests.ok()) return digests.status();
      for (const auto& [bank, digest] : *digests) by_bank[bank][std::string(name)] = digest;
      shown[std::string(name)] = HexEncode(digests->at("sha256"));
    }
    SEALIFT_ASSIGN_OR_RETURN(json pcr11, Pcr11(by_bank));
    for (const std::string_view phase : {"", "sysinit", "sysinit:ready"}) {
      answer.text += fmt::format("\nPCR 11       {} {:<14}{}",
                                 pcr11.at("sha256").at(std::string(phase)).get_ref<const std::string&>(),
                                 phase.empty() ? "(boot)" : phase,
                                 profiles.size() > 1 ? fmt::format(" profile {}", number) : "");
    }
    list.push_back({{"profile", number}, {"measured", std::move(shown)}, {"pcr11", std::move(pcr11)}});
  }
  answer.object["pcr11"] = list[0].at("pcr11");
  answer.object["profiles"] = std::move(list);
  return OkStatus();
}

struct PeArguments {
  std::string file;
  std::string certificate;
};

Result<Bytes> ReadCertificate(const std::string& path) {
  SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, ReadFile(path, 1u << 20));
  const bool der = !bytes.empty() && bytes[0] == 0x30;
  Result<Bytes> certificate = der ? Result<Bytes>(bytes) : efi::CertificatePemToDer(AsText(bytes));
  if (certificate.ok() && efi::ParseCertificate(*certificate).ok()) return certificate;
  return InspectUsage(fmt::format("'{}' is no certificate", path));
}

Result<Answer> InspectPe(const PeArguments& arguments) {
  Bytes certificate;
  if (!arguments.certificate.empty()) {
    SEALIFT_ASSIGN_OR_RETURN(certificate, ReadCertificate(arguments.certificate));
  }
  SEALIFT_ASSIGN_OR_RETURN(const auto image, OpenImage(arguments.file));
  const efi::PeImage& pe = *image->pe;
  SEALIFT_ASSIGN_OR_RETURN(const efi::ImageDigests digests, Digests(*image));
  SEALIFT_ASSIGN_OR_RETURN(const auto signatures, Signatures(*image, digests));
  Answer answer;
  answer.object = {{"machine", MachineName(pe.machine())},
                   {"subsystem", pe.subsystem()},
                   {"size", pe.file_size()},
                   {"sections", json::array()},
                   {"authenticode", json::object()}};
  answer.text = fmt::format("machine      {}, subsystem {}, {} bytes", MachineName(pe.machine()),
                            pe.subsystem(), pe.file_size());
  for (const efi::PeSection& section : pe.sections()) {
    answer.object["sections"].push_back({{"name", PrintableName(section.name)},
                                         {"virtual_address", section.virtual_address},
                                         {"virtual_size", section.virtual_size},
                                         {"raw_offset", section.raw_offset},
                                         {"raw_size", section.raw_size}});
    answer.text +=
        fmt::format("\n{:<12} {:#010x} {:>10} bytes, in the file at {} with {}", PrintableName(section.name),
                    section.virtual_address, section.virtual_size, section.raw_offset, section.raw_size);
  }
  for (const auto& [name, values] : digests) answer.object["authenticode"][name] = HexEncode(values.front());
  answer.text += fmt::format("\nauthenticode {}", HexEncode(digests.at("sha256").front()));
  AddSignatures(signatures, answer);
  SEALIFT_RETURN_IF_ERROR(AddUki(*image, answer));
  if (!certificate.empty()) {
    answer.good = LeadsTo(signatures, certificate);
    answer.object["verified"] = answer.good;
    answer.text += answer.good ? "\nverified     by the certificate given" : "\nverified     no";
  }
  return answer;
}

}  // namespace

void AddInspectPeVerb(CLI::App& group, Session& session) {
  const auto arguments = std::make_shared<PeArguments>();
  CLI::App* verb =
      AddInspection(group, session, "pe", "a PE image: sections, digests, signatures, and PCR 11 of a UKI",
                    "sealift inspect pe EFI/kairos/norole.efi --cert keys/db.pem -o json",
                    [arguments] { return InspectPe(*arguments); });
  verb->add_option("FILE", arguments->file, "boot loader, kernel or UKI, up to 768 MiB")->required();
  verb->add_option("--cert", arguments->certificate,
                   "PEM or DER; a good signature must lead to this certificate");
}

}  // namespace sealift::cli
