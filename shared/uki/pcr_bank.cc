#include "shared/uki/pcr_bank.h"

#include <algorithm>
#include <array>

#include "shared/uki/pcr_prediction.h"

namespace sealift::uki {
namespace {

constexpr std::uint32_t kPolicyPcrCommand = 0x0000017f;
constexpr unsigned kPcrCount = 24;
constexpr unsigned kNewestStub = 262;

constexpr std::array<PcrBank, 4> kBanks = {
    {{"sha1", 0x0004, 20}, {"sha256", 0x000b, 32}, {"sha384", 0x000c, 48}, {"sha512", 0x000d, 64}}};

}  // namespace

const PcrBank* FindPcrBank(std::string_view name) {
  for (const PcrBank& bank : kBanks)
    if (bank.name == name) return &bank;
  return nullptr;
}

Bytes BankHash(const PcrBank& bank, std::initializer_list<ByteView> pieces) {
  BankHasher hasher(bank);
  for (const ByteView piece : pieces) hasher.Update(piece);
  return hasher.Finish();
}

BankHasher::BankHasher(const PcrBank& bank) : context_(EVP_MD_CTX_new()), digest_bytes_(bank.digest_bytes) {
  const EVP_MD* hash = EVP_get_digestbyname(std::string(bank.name).c_str());
  SEALIFT_CHECK(context_ != nullptr && hash != nullptr &&
                EVP_DigestInit_ex(context_.get(), hash, nullptr) == 1);
}

void BankHasher::Update(ByteView bytes) {
  SEALIFT_CHECK(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1);
}

Bytes BankHasher::Finish() {
  Bytes digest(digest_bytes_);
  SEALIFT_CHECK(EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr) == 1);
  return digest;
}

Result<Bytes> Pcr11InBank(const PcrBank& bank, const std::map<std::string, Bytes>& section_digests,
                          std::string_view phases) {
  std::vector<std::string_view> names;
  for (const auto& [name, digest] : section_digests) {
    SEALIFT_CHECK(digest.size() == bank.digest_bytes);
    names.push_back(name);
  }
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<Pcr11Step> steps, Pcr11Steps(names, kNewestStub, phases));
  Bytes value(bank.digest_bytes);
  for (const Pcr11Step& step : steps) {
    const Bytes digest =
        step.section.empty() ? BankHash(bank, {AsBytes(step.text)}) : section_digests.at(step.section);
    value = BankHash(bank, {value, digest});
  }
  return value;
}

Bytes PolicyPcrDigest(const PcrBank& policy_hash, std::span<const PcrValue> values) {
  std::vector<const PcrBank*> banks;
  for (const PcrValue& value : values) {
    SEALIFT_CHECK(value.bank != nullptr && value.index < kPcrCount);
    if (std::find(banks.begin(), banks.end(), value.bank) == banks.end()) banks.push_back(value.bank);
  }
  ByteWriter selections(ByteWriter::Endian::kBig);
  Bytes concatenated;
  for (const PcrBank* bank : banks) {
    std::array<std::uint8_t, 3> selected{};
    for (unsigned index = 0; index < kPcrCount; ++index) {
      const auto found = std::find_if(values.begin(), values.end(), [&](const PcrValue& value) {
        return value.bank == bank && value.index == index;
      });
      if (found == values.end()) continue;
      selected[index / 8] = static_cast<std::uint8_t>(selected[index / 8] | (1u << (index % 8)));
      Append(concatenated, found->value);
    }
    selections.U16(bank->algorithm);
    selections.U8(static_cast<std::uint8_t>(selected.size()));
    selections.Raw(selected);
  }
  ByteWriter writer(ByteWriter::Endian::kBig);
  writer.Zeros(policy_hash.digest_bytes);
  writer.U32(kPolicyPcrCommand);
  writer.U32(static_cast<std::uint32_t>(banks.size()));
  writer.Raw(selections.bytes());
  writer.Raw(BankHash(policy_hash, {concatenated}));
  return BankHash(policy_hash, {writer.bytes()});
}

}  // namespace sealift::uki
