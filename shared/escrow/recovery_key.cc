#include "shared/escrow/recovery_key.h"

#include <algorithm>

#include "shared/crypto/hash.h"

namespace sealift::escrow {
namespace {

constexpr std::string_view kAlphabet = "0123456789abcdefghjkmnpqrstvwxyz";
constexpr std::size_t kKeyBytes = 32;
constexpr std::size_t kCheckBytes = 3;
constexpr std::size_t kCharacters = (kKeyBytes + kCheckBytes) * 8 / 5;
constexpr std::size_t kGroup = 7;
static_assert((kKeyBytes + kCheckBytes) * 8 % 5 == 0 && kCharacters % kGroup == 0);
constexpr std::size_t kMaxTyped = 256;

Status Wrong(std::string_view why) {
  return MakeError(Code::kInvalidArgument, Reason::kRecoveryKeyWrong,
                   "read recovery key: " + std::string(why));
}

// Of 35 bytes.
SecretBytes Text(ByteView bytes) {
  Bytes out;
  out.reserve(kCharacters + kCharacters / kGroup);
  std::uint32_t bits = 0;
  unsigned count = 0;
  std::size_t written = 0;
  for (const std::uint8_t byte : bytes) {
    bits = bits << 8 | byte;
    count += 8;
    while (count >= 5) {
      count -= 5;
      if (written != 0 && written % kGroup == 0) out.push_back('-');
      out.push_back(static_cast<std::uint8_t>(kAlphabet[bits >> count & 31]));
      ++written;
    }
  }
  return SecretBytes(std::move(out));
}

SecretBytes WithCheck(ByteView key) {
  Bytes bytes;
  bytes.reserve(kKeyBytes + kCheckBytes);
  Append(bytes, key);
  Append(bytes, Sha256(key).view().first(kCheckBytes));
  return SecretBytes(std::move(bytes));
}

char Mended(char c) {
  if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  if (c == 'o') return '0';
  if (c == 'i' || c == 'l') return '1';
  return c;
}

}  // namespace

SecretBytes MakeRecoveryKey() {
  const SecretBytes key(RandomBytes(kKeyBytes));
  return Text(WithCheck(key.ExposeSecret()).ExposeSecret());
}

Result<SecretBytes> ReadRecoveryKey(std::string_view typed) {
  if (typed.size() > kMaxTyped) return Wrong("it is too long");
  Bytes raw;
  raw.reserve(kKeyBytes + kCheckBytes + 1);
  std::uint32_t bits = 0;
  unsigned count = 0;
  std::size_t characters = 0;
  for (const char typed_character : typed) {
    if (typed_character == '-' || typed_character == ' ' || typed_character == '\t' ||
        typed_character == '\r' || typed_character == '\n')
      continue;
    const std::size_t value = kAlphabet.find(Mended(typed_character));
    if (value == std::string_view::npos) return Wrong("it has a character that no recovery key has");
    if (++characters > kCharacters) return Wrong("it is longer than 56 characters");
    bits = bits << 5 | static_cast<std::uint32_t>(value);
    count += 5;
    if (count < 8) continue;
    count -= 8;
    raw.push_back(static_cast<std::uint8_t>(bits >> count));
  }
  const SecretBytes bytes(std::move(raw));
  if (characters != kCharacters) return Wrong("it is shorter than 56 characters");
  const SecretBytes expected = WithCheck(bytes.ExposeSecret().first(kKeyBytes));
  if (!expected.Equals(bytes.ExposeSecret())) return Wrong("its checksum does not fit, so it is mistyped");
  return Text(bytes.ExposeSecret());
}

}  // namespace sealift::escrow
