#include "node-agent/volume/luks_header.h"

#include <fmt/format.h>
#include <libcryptsetup.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <thread>

#include "shared/base/bytes.h"
#include "shared/base/files.h"

namespace sealift::agent {
namespace {

constexpr std::uint32_t kSectorBytes = 512;
constexpr std::uint32_t kIterations = 1000;
// What a header may ask for: whoever writes one decides how long the early boot computes.
constexpr std::uint64_t kMaxIterations = 10 * kIterations;
constexpr std::string_view kLuksMagic("LUKS\xba\xbe", 6);
constexpr std::string_view kSecondMagic("SKUL\xba\xbe", 6);
// Where the second copy of a LUKS2 header may lie, by the size of the first (LUKS2 format 1.1.2, 2.1).
constexpr std::array<std::uint64_t, 9> kSecondOffsets{0x4000,  0x8000,   0x10000,  0x20000, 0x40000,
                                                      0x80000, 0x100000, 0x200000, 0x400000};
constexpr auto kLetGo = std::chrono::seconds(5);

// What the library said last, for the message. It logs per process; one thread unlocks.
thread_local std::string last_words;

void TakeWords(int level, const char* message, void* /*user*/) {
  if (level != CRYPT_LOG_ERROR || message == nullptr) return;
  last_words = std::string(message).substr(0, 200);
  while (!last_words.empty() && (last_words.back() == '\n' || last_words.back() == '.'))
    last_words.pop_back();
}

void Prepare() {
  static const bool prepared = [] {
    crypt_set_log_callback(nullptr, TakeWords, nullptr);
    // Nodes below /dev/mapper are made by the library, not by udev's rules, which an image may lack; with
    // them missing the library would wait for ever.
    ::setenv("DM_DISABLE_UDEV", "1", 1);
    // Token plug-ins of others are never loaded into this process.
    crypt_token_external_disable();
    return true;
  }();
  (void)prepared;
}

Status Failed(Code code, Reason reason, std::string_view what, std::string_view call, int rc) {
  std::string message(what);
  if (!last_words.empty()) message += ": " + last_words;
  last_words.clear();
  return ErrnoError(code, reason, message, call, -rc);
}

Status Check(int rc, std::string_view what, std::string_view call) {
  if (rc >= 0) return OkStatus();
  return Failed(Code::kFailedPrecondition, Reason::kVolumeDamaged, what, call, rc);
}

crypt_pbkdf_type Pbkdf() {
  crypt_pbkdf_type pbkdf{};
  pbkdf.type = CRYPT_KDF_PBKDF2;
  pbkdf.hash = "sha256";
  pbkdf.iterations = kIterations;
  pbkdf.flags = CRYPT_PBKDF_NO_BENCHMARK;
  return pbkdf;
}

const char* Text(const SecretBytes& secret) {
  return reinterpret_cast<const char*>(secret.ExposeSecret().data());
}

// Lower-case, as the library makes it.
bool IsUuid(std::string_view text) {
  if (text.size() != 36) return false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    const char c = text[i];
    if (dash ? c != '-' : !((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return false;
  }
  return true;
}

// PBKDF2 with SHA-256 and not more rounds than we may ever ask for.
bool IsCheapPbkdf2(const nlohmann::json& kdf) {
  const auto rounds = kdf.find("iterations");
  return kdf.value("type", "") == CRYPT_KDF_PBKDF2 && kdf.value("hash", "") == "sha256" &&
         rounds != kdf.end() && rounds->is_number_unsigned() &&
         rounds->get<std::uint64_t>() <= kMaxIterations;
}

// Whether opening the slot proves knowledge of its passphrase, at no great cost: an area in a null cipher
// opens with any, and gives a volume key that whoever planted it knows.
bool IsOurKindOfSlot(const nlohmann::json& slot) {
  if (!slot.is_object()) return false;
  const auto part = [&](const char* name) {
    const auto found = slot.find(name);
    return found != slot.end() && found->is_object() ? *found : nlohmann::json::object();
  };
  nlohmann::json area = part("area");
  area.erase("offset");
  area.erase("size");
  const nlohmann::json expected = {
      {"type", "raw"}, {"encryption", kVolumeCipher}, {"key_size", kVolumeKeyBytes}};
  const nlohmann::json size = kVolumeKeyBytes;
  const auto key_size = slot.find("key_size");
  try {
    return slot.value("type", "") == "luks2" && key_size != slot.end() && *key_size == size &&
           area == expected && part("af").value("hash", "") == "sha256" && IsCheapPbkdf2(part("kdf"));
  } catch (const nlohmann::json::exception&) {
    // A member of another type.
    return false;
  }
}

bool IsOurKindOfDigest(const nlohmann::json& digest) {
  try {
    return digest.is_object() && IsCheapPbkdf2(digest);
  } catch (const nlohmann::json::exception&) {
    return false;
  }
}

// Whether any copy of a LUKS header can be told on the device.
Result<bool> LooksLikeLuks(const std::filesystem::path& device) {
  std::FILE* raw = std::fopen(device.c_str(), "rbe");
  if (raw == nullptr) {
    return ErrnoError(Code::kNotFound, Reason::kVolumeMissing, fmt::format("open volume {}", device.string()),
                      "open", errno);
  }
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(raw, std::fclose);
  const auto holds = [&](std::uint64_t offset, std::string_view magic) {
    std::array<char, 6> bytes{};
    return std::fseek(file.get(), static_cast<long>(offset), SEEK_SET) == 0 &&
           std::fread(bytes.data(), 1, bytes.size(), file.get()) == bytes.size() &&
           std::string_view(bytes.data(), bytes.size()) == magic;
  };
  if (holds(0, kLuksMagic)) return true;
  for (const std::uint64_t offset : kSecondOffsets)
    if (holds(offset, kSecondMagic)) return true;
  return false;
}

}  // namespace

void LuksHeader::Free::operator()(crypt_device* device) const { crypt_free(device); }

Result<LuksHeader> LuksHeader::Open(const std::filesystem::path& device) {
  Prepare();
  crypt_device* raw = nullptr;
  const int rc = crypt_init(&raw, device.c_str());
  std::unique_ptr<crypt_device, Free> handle(raw);
  if (rc < 0)
    return Failed(Code::kNotFound, Reason::kVolumeMissing, fmt::format("open volume {}", device.string()),
                  "crypt_init", rc);
  return LuksHeader(std::move(handle), device);
}

Result<LuksHeader> LuksHeader::Format(const std::filesystem::path& device, const std::string& label) {
  SEALIFT_ASSIGN_OR_RETURN(LuksHeader header, Open(device));
  const std::string what = fmt::format("format volume {}", device.string());
  crypt_set_rng_type(header.handle_.get(), CRYPT_RNG_URANDOM);
  const crypt_pbkdf_type pbkdf = Pbkdf();
  crypt_params_luks2 parameters{};
  parameters.pbkdf = &pbkdf;
  parameters.sector_size = kSectorBytes;
  parameters.label = label.c_str();
  parameters.subsystem = "sealift";
  SEALIFT_RETURN_IF_ERROR(Check(crypt_format(header.handle_.get(), CRYPT_LUKS2, "aes", "xts-plain64", nullptr,
                                             nullptr, kVolumeKeyBytes, &parameters),
                                what, "crypt_format"));
  return header;
}

Result<LuksHeader> LuksHeader::Load(const std::filesystem::path& device) {
  SEALIFT_ASSIGN_OR_RETURN(const bool luks, LooksLikeLuks(device));
  const auto refuse = [&](Reason reason, std::string_view why) {
    return MakeError(Code::kFailedPrecondition, reason,
                     fmt::format("read volume {}: {}", device.string(), why));
  };
  if (!luks) return refuse(Reason::kVolumeNotEncrypted, "it has no LUKS header");
  SEALIFT_ASSIGN_OR_RETURN(LuksHeader header, Open(device));
  const int rc = crypt_load(header.handle_.get(), nullptr, nullptr);
  if (rc < 0) {
    return Failed(Code::kFailedPrecondition, Reason::kVolumeDamaged,
                  fmt::format("read volume {}", device.string()), "crypt_load", rc);
  }
  const char* type = crypt_get_type(header.handle_.get());
  if (type == nullptr || std::strcmp(type, CRYPT_LUKS2) != 0)
    return refuse(Reason::kVolumeForeign, "it is another kind of encrypted volume");
  SEALIFT_RETURN_IF_ERROR(header.CheckMetadata());
  // Raw bytes of the header, which go into messages and JSON.
  if (!IsUuid(header.uuid())) return refuse(Reason::kVolumeForeign, "its UUID is none");
  const crypt_pbkdf_type pbkdf = Pbkdf();
  SEALIFT_RETURN_IF_ERROR(
      Check(crypt_set_pbkdf_type(header.handle_.get(), &pbkdf), "use PBKDF2", "crypt_set_pbkdf_type"));
  return header;
}

Status LuksHeader::CheckMetadata() const {
  const auto refuse = [&](std::string_view why) {
    return MakeError(Code::kFailedPrecondition, Reason::kVolumeNotEncrypted,
                     fmt::format("read volume {}: {}", device_.string(), why));
  };
  const char* raw = nullptr;
  SEALIFT_RETURN_IF_ERROR(
      Check(crypt_dump_json(handle_.get(), &raw, 0), "read volume's metadata", "crypt_dump_json"));
  const nlohmann::json metadata = nlohmann::json::parse(raw, nullptr, /*allow_exceptions=*/false);
  if (!metadata.is_object() || !metadata.contains("segments") || !metadata.contains("config"))
    return refuse("its metadata cannot be read");
  const nlohmann::json& segments = metadata["segments"];
  if (!segments.is_object() || segments.size() != 1 || !segments.contains("0"))
    return refuse("it has other than one segment");
  const nlohmann::json& segment = segments["0"];
  const std::uint64_t offset = crypt_get_data_offset(handle_.get()) * kSectorBytes;
  const nlohmann::json expected = {
      {"type", "crypt"}, {"offset", std::to_string(offset)}, {"size", "dynamic"},
      {"iv_tweak", "0"}, {"encryption", kVolumeCipher},      {"sector_size", kSectorBytes}};
  if (segment != expected) return refuse(fmt::format("its segment is not plain {}", kVolumeCipher));
  const nlohmann::json& config = metadata["config"];
  if (config.is_object() && config.contains("requirements"))
    return refuse("it asks for more than plain encryption");
  const auto slots = metadata.find("keyslots");
  const auto digests = metadata.find("digests");
  if (slots == metadata.end() || !slots->is_object() ||
      !std::all_of(slots->begin(), slots->end(), IsOurKindOfSlot))
    return refuse("it has a key slot that is not as this agent makes them");
  if (digests == metadata.end() || !digests->is_object() || digests->size() != 1 ||
      !IsOurKindOfDigest(*digests->begin()))
    return refuse("it has other than one digest as this agent makes them");
  if (crypt_get_volume_key_size(handle_.get()) != static_cast<int>(kVolumeKeyBytes))
    return refuse("its volume key is not of 512 bits");
  return OkStatus();
}

std::string LuksHeader::uuid() const {
  const char* text = crypt_get_uuid(handle_.get());
  return text == nullptr ? "" : text;
}

Result<std::uint32_t> LuksHeader::AddSlot(const SecretBytes& passphrase, const SecretBytes* volume_key) {
  const char* key =
      volume_key == nullptr ? nullptr : reinterpret_cast<const char*>(volume_key->ExposeSecret().data());
  const int slot = crypt_keyslot_add_by_volume_key(handle_.get(), CRYPT_ANY_SLOT, key,
                                                   volume_key == nullptr ? 0 : volume_key->size(),
                                                   Text(passphrase), passphrase.size());
  SEALIFT_RETURN_IF_ERROR(Check(slot, fmt::format("add key slot to volume {}", device_.string()),
                                "crypt_keyslot_add_by_volume_key"));
  return static_cast<std::uint32_t>(slot);
}

Result<SecretBytes> LuksHeader::VolumeKey(const SecretBytes& passphrase, int slot) const {
  Bytes key(kVolumeKeyBytes);
  std::size_t size = key.size();
  const int rc =
      crypt_volume_key_get(handle_.get(), slot < 0 ? CRYPT_ANY_SLOT : slot,
                           reinterpret_cast<char*>(key.data()), &size, Text(passphrase), passphrase.size());
  SecretBytes secret(std::move(key));
  const std::string what = fmt::format("open key slot of volume {}", device_.string());
  if (rc == -EPERM || rc == -ENOENT)
    return Failed(Code::kUnauthenticated, Reason::kVolumeForeign, what, "crypt_volume_key_get", rc);
  SEALIFT_RETURN_IF_ERROR(Check(rc, what, "crypt_volume_key_get"));
  if (size != kVolumeKeyBytes) return Check(-EINVAL, what, "crypt_volume_key_get");
  return secret;
}

Status LuksHeader::RemoveSlot(std::uint32_t slot) {
  return Check(crypt_keyslot_destroy(handle_.get(), static_cast<int>(slot)),
               fmt::format("remove key slot {} of volume {}", slot, device_.string()),
               "crypt_keyslot_destroy");
}

std::vector<std::uint32_t> LuksHeader::Slots() const {
  std::vector<std::uint32_t> slots;
  for (int slot = 0; slot < crypt_keyslot_max(CRYPT_LUKS2); ++slot) {
    const crypt_keyslot_info status = crypt_keyslot_status(handle_.get(), slot);
    if (status != CRYPT_SLOT_INVALID && status != CRYPT_SLOT_INACTIVE)
      slots.push_back(static_cast<std::uint32_t>(slot));
  }
  return slots;
}

std::string LuksHeader::SlotSalt(std::uint32_t slot) const {
  const char* raw = nullptr;
  if (crypt_dump_json(handle_.get(), &raw, 0) < 0 || raw == nullptr) return "";
  const nlohmann::json metadata = nlohmann::json::parse(raw, nullptr, /*allow_exceptions=*/false);
  const auto at = nlohmann::json::json_pointer("/keyslots/" + std::to_string(slot) + "/kdf/salt");
  if (!metadata.is_object() || !metadata.contains(at) || !metadata[at].is_string()) return "";
  return metadata[at].get<std::string>();
}

std::vector<LuksHeader::Token> LuksHeader::Tokens(std::string_view type) const {
  std::vector<Token> tokens;
  for (int number = 0; number < crypt_token_max(CRYPT_LUKS2); ++number) {
    const char* found = nullptr;
    const auto status = crypt_token_status(handle_.get(), number, &found);
    if (status == CRYPT_TOKEN_INVALID || status == CRYPT_TOKEN_INACTIVE || found == nullptr || found != type)
      continue;
    const char* json = nullptr;
    if (crypt_token_json_get(handle_.get(), number, &json) < 0 || json == nullptr) continue;
    tokens.push_back({.number = number, .json = json});
  }
  return tokens;
}

Status LuksHeader::SetToken(int number, const std::string& json) {
  return Check(crypt_token_json_set(handle_.get(), number < 0 ? CRYPT_ANY_TOKEN : number, json.c_str()),
               fmt::format("write token of volume {}", device_.string()), "crypt_token_json_set");
}

Status LuksHeader::RemoveToken(int number) {
  return Check(crypt_token_json_set(handle_.get(), number, nullptr),
               fmt::format("remove token {} of volume {}", number, device_.string()), "crypt_token_json_set");
}

Status LuksHeader::Activate(const std::string& name, const SecretBytes& volume_key) {
  const int rc =
      crypt_activate_by_volume_key(handle_.get(), name.c_str(), Text(volume_key), volume_key.size(), 0);
  const std::string what = fmt::format("map volume {} as '{}'", device_.string(), name);
  if (rc == -EEXIST)
    return Failed(Code::kAlreadyExists, Reason::kVolumeForeign, what, "crypt_activate_by_volume_key", rc);
  return Check(rc, what, "crypt_activate_by_volume_key");
}

Status DeactivateMapped(const std::string& name) {
  Prepare();
  const auto deadline = std::chrono::steady_clock::now() + kLetGo;
  while (true) {
    const int rc = crypt_deactivate(nullptr, name.c_str());
    if (rc == -ENODEV) return OkStatus();
    if (rc != -EBUSY || std::chrono::steady_clock::now() > deadline)
      return Check(rc, fmt::format("unmap volume '{}'", name), "crypt_deactivate");
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

}  // namespace sealift::agent
